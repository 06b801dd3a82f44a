"""A side of a comparison from what was typed: a run, several of one build, a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctxsweep.analysis.comparable import obstacles
from ctxsweep.analysis.compare import Party
from ctxsweep.analysis.lines import Run
from ctxsweep.baselines import baseline_of
from ctxsweep.cli import find
from ctxsweep.cli.errors import BadInput
from ctxsweep.store import Manifest, RunFolder

BASELINE = "baseline"


@dataclass(frozen=True)
class Runs:
    """A side that was measured by sweeps: its folders, and as the comparison takes it."""

    folders: tuple[RunFolder, ...]
    party: Party


def both_sides(base: str | None, new: str | None, results: Path) -> tuple[Runs, Runs]:
    """New and base. Without the new one it is the latest run of base's scenario, or of all."""
    if new == BASELINE and base not in (None, BASELINE):
        older = runs_named(base, results)
        return runs_named(BASELINE, results, older), older
    if new is not None or base in (None, BASELINE):
        newer = runs_named(new, results)
        return newer, runs_named(base or BASELINE, results, newer)
    older = runs_named(base, results)
    return runs_named(older.party.scenario, results), older


def runs_named(name: str | None, results: Path, other: Runs | None = None) -> Runs:
    """The runs that a name means; ``baseline`` is that of ``other``'s scenario and machine."""
    if name == BASELINE and other is not None:
        return open_runs((_baseline(other, results),), BASELINE)
    folder = Path(name) if name else None
    if folder and folder.is_dir() and not (folder / "manifest.json").is_file():
        inside = sorted(path.parent for path in folder.glob("*/manifest.json"))
        if inside:
            return open_runs(inside, str(folder))
        raise BadInput(f"{folder}: holds no run; name a run's folder, or one that holds runs")
    path = find.run_folder(name, results)
    return open_runs((path,), name or path.parent.name)


def open_runs(paths: Sequence[Path], label: str) -> Runs:
    """The runs of folders as one side. Raises ``BadInput`` for such as are not of one kind."""
    folders = tuple(RunFolder.open(path) for path in paths)
    runs = []
    for folder in folders:
        records = tuple(folder.records())
        if not records:
            raise BadInput(f"{folder.path}: holds no records; finish it: ctxsweep run --resume")
        manifest = folder.manifest
        runs.append(Run(manifest.run_id, manifest.started_at, records))
    names = {folder.manifest.scenario_name for folder in folders}
    if len(names) > 1:
        raise BadInput(f"{label}: holds runs of several scenarios ({', '.join(sorted(names))})")
    manifest = folders[-1].manifest
    for folder in folders[:-1]:
        _require_alike(label, folder.manifest, manifest)
    party = Party(
        label=f"{label} ({manifest.run_id})" if len(runs) == 1 else f"{label} ({len(runs)} runs)",
        scenario=manifest.scenario_name,
        runs=tuple(runs),
        environment=manifest.environment,
        order=tuple(str(one["name"]) for one in manifest.scenario.get("series", ())),
        procedure=manifest.scenario.get("procedure", {}),
        budgets=manifest.scenario.get("budgets", {}),
        planned=sum(len(folder.manifest.order) for folder in folders),
    )
    return Runs(folders, party)


def _require_alike(label: str, one: Manifest, other: Manifest) -> None:
    """Runs of a side are of one build on one machine: else what changed passes for scatter."""
    here = obstacles(one.environment, other.environment)
    builds = [(e.commit, e.dirty) for e in (one.environment, other.environment) if e]
    why = here[0].text if here else ""
    if not why and builds[0] != builds[1]:
        why = f"commit: {builds[0][0]} → {builds[1][0]}"
    if why:
        raise BadInput(
            f"{label}: its runs are not of one build and machine ({why}); name a single run"
        )


def _baseline(other: Runs, results: Path) -> Path:
    manifest = other.folders[-1].manifest
    found = manifest.environment and baseline_of(
        manifest.scenario_name, manifest.environment, results
    )
    if not found:
        raise BadInput(
            f"scenario {manifest.scenario_name} has no baseline of this machine in "
            f"{results}/baselines; name another run to compare with, or make one of an earlier "
            f'run: ctxsweep baseline bless {manifest.scenario_name}~1 --why "..."'
        )
    return found
