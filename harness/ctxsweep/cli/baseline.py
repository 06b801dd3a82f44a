"""``ctxsweep baseline``: make a run the one that later runs are compared with; list those."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctxsweep.analysis.samples import contended_share
from ctxsweep.baselines import (
    BENCHMARKS,
    BLESSED,
    COPIED,
    SUMMARY,
    Blessing,
    baseline_folder,
    baselines,
    baselines_root,
    lost_baselines,
    put,
    read_blessing,
)
from ctxsweep.cli.errors import BadInput
from ctxsweep.machine import machine_slug
from ctxsweep.records import Environment, Record, Status
from ctxsweep.store import RunFolder, StoreError, utc_now

UNSAID = "not said"
MOST = 0.5


def bless(
    run: Path, results: Path, who: str | None, why: str, *, allow_dirty: bool = False
) -> Path:
    """Copy a complete run to ``results/baselines/<machine>/<scenario>/``; say what it replaces.

    ``who``: default: git's ``user.name``. ``allow_dirty`` takes a run of a tree with changes too.
    Raises ``BadInput`` for a run that is no baseline or without a reason, ``StoreError`` for one
    that cannot be read.
    """
    why = " ".join(why.split())
    if not why:
        raise BadInput('--why is empty; say why this run is the one, as --why "after PR 12"')
    folder = RunFolder.open(run)
    records = list(folder.records())
    environment = _fit(folder, records)
    _check_build(folder.path, environment, records, allow_dirty)
    target = baseline_folder(results, environment, folder.manifest.scenario_name)
    blessing = Blessing(
        who=_who(who),
        when=utc_now(),
        why=why,
        run_id=folder.manifest.run_id,
        scenario=folder.manifest.scenario_name,
        machine=machine_slug(environment),
        environment=_in_words(environment),
        commit=environment.commit,
        dirty=environment.dirty,
        replaces=_replaced(target, folder.manifest.run_id),
    )
    put(target, _files(folder, blessing))
    for warning in _warnings(records, environment):
        Console(stderr=True, soft_wrap=True).print(warning, highlight=False, markup=False)
    was = f", in place of {blessing.replaces}" if blessing.replaces else ""
    _say(f"{target}: {blessing.run_id} ({blessing.build}){was}; commit this folder to keep it")
    return target


def print_baselines(results: Path) -> None:
    """Print which run is the baseline of what, who said so, when and why; last those that a bless
    which was cut off has left elsewhere."""
    found, lost = baselines(results), lost_baselines(results)
    if found:
        _print_table(found)
    for one in lost:
        _say(one.words)
    if not found and not lost:
        _say(
            f"no baseline lies under {baselines_root(results)}/; "
            'make one: ctxsweep baseline bless RUN --why "..."'
        )


def _print_table(found: Sequence[Path]) -> None:
    table = Table("machine", "scenario", "run", "build", "who", "when", "why", box=None)
    for path in found:
        cells = (path.parent.name, path.name, *_row(path))
        table.add_row(*(escape(cell) for cell in cells))
    Console().print(table)


def _row(path: Path) -> tuple[str, ...]:
    """Run, build, who, when, why; of a damaged baseline what is the matter with it."""
    try:
        manifest = RunFolder.open(path).manifest
        said = read_blessing(path)
    except StoreError as problem:
        return "", "", "", "", f"cannot be read: {problem}"
    if said is None:
        commit = manifest.environment.commit if manifest.environment else None
        return manifest.run_id, (commit or "")[:10], UNSAID, UNSAID, UNSAID
    if said.run_id != manifest.run_id:
        return manifest.run_id, "", "", "", f"{BLESSED} is of another run, {said.run_id}"
    return said.run_id, said.build, said.who, said.when[:10], said.why


def _fit(folder: RunFolder, records: Sequence[Record]) -> Environment:
    """The machine of a run that is whole and has something to compare with."""
    manifest, path = folder.manifest, folder.path
    missing = len(set(manifest.order)) - len({record.cell.key for record in records})
    if manifest.finished_at is None or missing > 0:
        raise BadInput(
            f"{path}: is not complete, {max(0, missing)} of {len(set(manifest.order))} cells have "
            f"no record; finish it first: ctxsweep run {manifest.scenario_name} --resume"
        )
    if not any(record.status is Status.OK for record in records):
        raise BadInput(f"{path}: no cell has figures; ctxsweep report says why")
    if manifest.environment is None:
        raise BadInput(f"{path}: manifest.json does not say on which machine this was measured")
    return manifest.environment


def _check_build(
    path: Path, environment: Environment, records: Sequence[Record], allow_dirty: bool
) -> None:
    """What is compared with should be a commit that can be had again."""
    all_of = [environment, *(r.environment for r in records if r.environment)]
    commits = sorted({one.commit[:10] for one in all_of if one.commit})
    if allow_dirty:
        return
    if any(one.dirty for one in all_of):
        raise BadInput(
            f"{path}: was measured with changes on top of {', '.join(commits)}, so nobody can "
            "have this build again; commit them and run again, or take it with --allow-dirty"
        )
    if len(commits) > 1:
        raise BadInput(
            f"{path}: its cells are of several commits ({', '.join(commits)}), as after --resume; "
            "run it again in one go, or take it with --allow-dirty"
        )


def _warnings(records: Sequence[Record], environment: Environment) -> list[str]:
    said = []
    failed = sum(record.status is not Status.OK for record in records)
    if failed:
        said.append(f"{failed} of {len(records)} cells have no figures and cannot be compared")
    shares = [(contended_share(record), len(record.samples)) for record in records]
    known = [(share, count) for share, count in shares if share is not None]
    samples = sum(count for _, count in known)
    share = sum(share * count for share, count in known) / samples if samples else 0.0
    if share > MOST:
        said.append(
            f"{share:.0%} of its samples had to share the processor; other work ran meanwhile, "
            "and a quiet run is a better baseline"
        )
    if environment.commit is None:
        said.append("it is of no git commit: suspects cannot be measured again beside its build")
    return [f"warning: {text}" for text in said]


def _files(folder: RunFolder, blessing: Blessing) -> dict[str, str]:
    """The run's own files as they are; the summary anew, whatever wrote the one beside them."""
    from ctxsweep.cli.sweep import derive

    try:
        there = [name for name in (*COPIED, BENCHMARKS) if (folder.path / name).is_file()]
        copied = {name: (folder.path / name).read_text(encoding="utf-8") for name in there}
    except ValueError as error:
        raise StoreError(f"{folder.path}: not UTF-8 ({error})") from error
    return {
        **copied,
        SUMMARY: derive(folder).model_dump_json(indent=1) + "\n",
        BLESSED: blessing.model_dump_json(indent=1) + "\n",
    }


def _replaced(target: Path, run_id: str) -> str | None:
    """The run that was the baseline until now; a run that is blessed again replaces what it did."""
    if not (target / "manifest.json").is_file():
        return None
    try:
        before = RunFolder.open(target).manifest.run_id
        said = read_blessing(target)
    except StoreError:
        return "one that cannot be read"
    if before != run_id:
        return before
    return said.replaces if said else None


def _who(who: str | None) -> str:
    name = " ".join((_git_name() if who is None else who).split())
    if not name:
        raise BadInput("who blesses this run? --who NAME, or git config user.name")
    return name


def _git_name() -> str:
    command = ("git", "config", "user.name")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _in_words(environment: Environment) -> str:
    parts = [
        environment.gpu or environment.cpu_model,
        f"{environment.physical_cores} cores",
        f"{environment.threads} threads",
        f"Python {environment.python}",
    ]
    parts += [f"torch {environment.versions['torch']}"] if "torch" in environment.versions else []
    parts += [f"driver {environment.gpu_driver}"] if environment.gpu_driver else []
    return ", ".join(parts)


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, highlight=False, markup=False)
