"""The page of the kernels' bench: needs no network, no script but the switch of colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ctxsweep.report import kernels_beside, kernels_goals, kernels_table, theme
from ctxsweep.report.rendering import render

# Kinds of instructions, drawn from left to right; the rest is "other".
KINDS = (
    ("tensor",),
    ("exponential",),
    ("float",),
    ("convert",),
    ("integer", "move"),
    ("shared", "shuffle", "tensor memory"),
    ("global load", "global store"),
    ("synchronise", "control"),
)


def render_kernels_page(
    data: dict[str, Any], devices: Sequence[tuple[str, str]], table: Sequence[dict[str, Any]]
) -> str:
    """The page as text.

    data: what `ctxsweep kernels --json` prints. devices: names and architectures that were judged.
    table: the limits and rates of those devices, as names and values.
    """
    return render(
        "kernels.html.j2",
        answer=_answer(data),
        triton=data["triton"],
        goals=kernels_goals.goals(data),
        architectures=kernels_goals.architectures(data),
        columns=kernels_table.COLUMNS,
        devices=[_device(data, name, arch) for name, arch in devices],
        kinds=[", ".join(kinds) for kinds in KINDS] + ["other"],
        ratio_titles=kernels_beside.RATIO_TITLES,
        ratios=kernels_beside.ratio_rows(data),
        rival_titles=kernels_beside.RIVAL_TITLES,
        rivals=kernels_beside.rival_rows(data),
        traffic=data["traffic"],
        problems=data["problems"],
        remarks=_remarks(data),
        table=table,
        light=theme.LIGHT,
        dark=theme.DARK,
    )


def _device(data: dict[str, Any], name: str, arch: str) -> dict[str, Any]:
    rows = kernels_table.rows_of(data, name, arch)
    return {
        "name": f"{name} ({arch})" if name else arch,
        "rows": rows,
        "columns": kernels_table.columns_of(rows),
        "mixes": _mixes(data, arch),
    }


def _answer(data: dict[str, Any]) -> str:
    judged = [one for one in data["figures"] if not one["error"]]
    failed = [one for one in data["figures"] if one["error"]]
    spilling = [one for one in judged if one["spilled_bytes"]]
    cases = len({one["case"] for one in data["figures"]})
    archs = len({one["arch"] for one in data["figures"]})
    parts = [f"{cases} kernels on {archs} architecture{'s' if archs > 1 else ''}"]
    parts.append(
        f"{len(spilling)} of {len(judged)} compilations spill" if spilling else "no spills"
    )
    parts.append(f"{len(failed)} do not compile" if failed else "all compile")
    cells = [cell for goal in kernels_goals.goals(data) for cell in goal.found]
    missed = sum(cell.alarm for cell in cells)
    if cells:
        parts.append(f"{len(cells) - missed} of {len(cells)} goals reached")
    return ", ".join(parts) + "."


def _mixes(data: dict[str, Any], arch: str) -> list[dict[str, Any]]:
    """Shares of the kinds of instructions in the steady-state loops of an architecture."""
    found = []
    for one in data["figures"]:
        loop = kernels_table.steady_loop(one)
        if one["arch"] != arch or loop is None:
            continue
        total = loop["instructions"]
        shares = [sum(loop["mix"].get(kind, 0) for kind in kinds) / total for kinds in KINDS]
        shares.append(max(0.0, 1 - sum(shares)))
        counts = ", ".join(f"{count} {kind}" for kind, count in loop["mix"].items())
        found.append({"case": one["case"], "shares": shares, "counts": counts, "total": total})
    return found


def _remarks(data: dict[str, Any]) -> list[str]:
    return [
        f"{one['case']} on {one['arch']}: {note}"
        for one in (*data["figures"], *data["against"])
        for note in one["notes"]
    ]
