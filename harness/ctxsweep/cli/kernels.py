"""``ctxsweep kernels``: what the Triton kernels' machine code costs, judged without a GPU."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctxsweep.cli.errors import BadInput
from ctxsweep.report.kernels_beside import RATIO_TITLES, RIVAL_TITLES, ratio_rows, rival_rows
from ctxsweep.report.kernels_markdown import markdown
from ctxsweep.report.kernels_page import render_kernels_page
from ctxsweep.report.kernels_table import columns_of, rows_of

DEFAULT_DEVICES = ("H100", "A100", "B200", "MI300X")
WIDE_TERMINAL = 160
NARROW = ("registers", "average", "goal")
ARCHS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx942", "gfx950")


def judge_kernels(
    cases: Sequence[str],
    device: str | None,
    arch: str | None,
    against: Sequence[str],
    out: Path | None,
    *,
    as_json: bool,
    check: bool,
    renew: bool,
) -> int:
    """Judge kernels, print and write what was found; the exit code."""
    os.environ.pop("TRITON_INTERPRET", None)  # interpreted kernels have no machine code
    if find_spec("triton") is None:
        raise BadInput("Triton is not installed; pip install triton (or 'ctxsweep[triton]')")
    from ctxsweep_kernels.static import gate
    from ctxsweep_kernels.static.against import AgainstError, find
    from ctxsweep_kernels.static.bench import run
    from ctxsweep_kernels.static.devices import devices
    from ctxsweep_kernels.static.table import all_cases, matching

    table = all_cases()
    chosen = [c.name for pattern in cases or ("*",) for c in matching(table.cases, pattern)]
    if not chosen and (cases or not table.cases):
        raise BadInput(f"no case fits {' or '.join(cases) or 'any name'}{_names(table.cases)}")
    if check and renew:
        raise BadInput("--check and --renew together say nothing: check, then renew")
    gated = (check or renew) and device is None and arch is None
    places = _places(device, ",".join(gate.ARCHS) if gated else arch)
    try:
        rivals = find(against)
    except AgainstError as error:
        raise BadInput(str(error)) from None
    archs = list(dict.fromkeys(one for _, one in places))
    total = len(archs) * (len(chosen) + len(rivals))
    with Console(stderr=True).status("compiling") as status:
        done: set[tuple[str, str]] = set()

        def progress(one: Any) -> None:
            done.add((one.case, one.arch))
            status.update(f"compiled {len(done)} of {total}: {one.case} for {one.arch}")

        report = run(list(dict.fromkeys(chosen)), archs, rivals, progress=progress)
    if not cases:  # who asks for some is not told of the others
        report.problems.update(table.problems)
    shown = [devices()[name] for name, _ in places if name]
    data = report.to_json(shown)
    if out is not None:
        _write(out, data, places, [_plain(one) for one in shown])
    if as_json:
        json.dump(data, sys.stdout, indent=1)
        sys.stdout.write("\n")
    elif not (check or renew):
        _print(data, places)
    now = gate.baseline_of(report.triton, report.figures, report.traffic)
    everything = not cases and gated
    if renew:
        try:
            gate.write_baseline(now, everything)
        except gate.MixedBaseline as error:
            raise BadInput(str(error)) from None
        print(f"wrote {gate.BASELINE}", file=sys.stderr)
    if check:
        again = "".join(f" --case '{pattern}'" for pattern in cases)
        return max(_check(now, archs, everything, as_json, again), _said(report.problems))
    failed = any(one.error for one in (*report.figures, *report.rivals))
    return 1 if failed or report.problems else 0


def _check(
    now: dict[str, Any], archs: Sequence[str], everything: bool, as_json: bool, again: str
) -> int:
    from ctxsweep_kernels.static import gate

    was = gate.read_baseline()
    remark = gate.other_version(now, was)
    if remark:
        print(remark, file=sys.stderr)
    found = gate.worse(now, was, archs, everything)
    for one in found:
        print(f"worse: {one}", file=sys.stderr)
    if found:
        print(gate.RENEW + again, file=sys.stderr)
        return 1
    compared = "traffic alone" if remark else f"on {', '.join(archs)}"
    print(
        f"{len(now['cases'])} kernels, {compared}: none is worse than the baseline",
        file=sys.stderr if as_json else sys.stdout,
    )
    return 0


def _said(problems: dict[str, str]) -> int:
    for name, why in problems.items():
        print(f"not judged: {name}: {why}", file=sys.stderr)
    return 1 if problems else 0


def _places(device: str | None, arch: str | None) -> list[tuple[str, str]]:
    """Devices with their architectures; an architecture no device has stands by itself."""
    from ctxsweep_kernels.static.devices import devices

    table = devices()
    names = list(DEFAULT_DEVICES) if device is None and arch is None else _listed(device)
    if names == ["all"]:
        names = list(table)
    known = {name.lower(): name for name in table}
    places = []
    for name in names:
        if name.lower() not in known:
            raise BadInput(f"no device {name!r}; there are: {', '.join(table)}, all")
        found = known[name.lower()]
        places.append((found, table[found].arch))
    for one in _listed(arch):
        if one not in ARCHS:
            raise BadInput(f"no architecture {one!r}; there are: {', '.join(ARCHS)}")
        places.append((next((d.name for d in table.values() if d.arch == one), ""), one))
    return list(dict.fromkeys(places))


def _listed(text: str | None) -> list[str]:
    return [one.strip() for one in (text or "").split(",") if one.strip()]


def _names(cases: Sequence[Any]) -> str:
    return "; there are: " + ", ".join(case.name for case in cases) if cases else ""


def _plain(device: Any) -> dict[str, Any]:
    own = {f.name: getattr(device, f.name) for f in fields(device) if f.name != "limits"}
    return own | {f.name: getattr(device.limits, f.name) for f in fields(device.limits)}


def _write(
    out: Path,
    data: dict[str, Any],
    places: Sequence[tuple[str, str]],
    table: Sequence[dict[str, Any]],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "kernels.json": json.dumps(data, indent=1) + "\n",
        "kernels.md": markdown(data, places),
        "kernels.html": render_kernels_page(data, places, table),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
        print(out / name, file=sys.stderr)


def _print(data: dict[str, Any], places: Sequence[tuple[str, str]]) -> None:
    console = Console(highlight=False)
    wide = console.width >= WIDE_TERMINAL
    for name, arch in places:
        rows = rows_of(data, name, arch)
        columns = [column for column in columns_of(rows) if wide or column.name in NARROW]
        table = Table(title=f"{name} ({arch})" if name else arch, title_justify="left")
        table.add_column("kernel", no_wrap=True)
        for column in columns:
            table.add_column(column.title, overflow="fold")
        for row in rows:
            if row.error:
                table.add_row(escape(row.case), f"[red]✕ {escape(row.error)}[/]")
                continue
            cells = (row.cells[column.name] for column in columns)
            table.add_row(escape(row.case), *(_text(cell, wide) for cell in cells))
        console.print(table)
    for titles, texts in ((RATIO_TITLES, ratio_rows(data)), (RIVAL_TITLES, rival_rows(data))):
        if texts:
            table = Table(*titles)
            table.columns[0].no_wrap = True
            for one in texts:
                table.add_row(*map(escape, one))
            console.print(table)
    if not wide:
        console.print(f"A terminal of {WIDE_TERMINAL} columns shows more; --out DIR writes all.")
    for name, why in data["problems"].items():
        console.print(f"[red]✕ {escape(name)}: {escape(why)}[/]")


def _text(cell: Any, with_note: bool) -> str:
    text = escape(cell.text) if not cell.alarm else f"[red]{escape(cell.text)}[/]"
    return f"{text}\n[dim]{escape(cell.note)}[/]" if cell.note and with_note else text
