"""From a scenario to a page: measure, derive, show."""

from __future__ import annotations

import time
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

from rich.console import Console

from ctxsweep.analysis.frontier import summarise_frontier
from ctxsweep.analysis.summarise import summarise
from ctxsweep.analysis.summary import Summary
from ctxsweep.cli.errors import EXIT_INTERRUPTED
from ctxsweep.execute.executors import LocalExecutor
from ctxsweep.execute.progress import RichProgress, label
from ctxsweep.execute.sweep import Outcome, run_sweep
from ctxsweep.expansion import expand
from ctxsweep.measure.environment import physical_cores, read_environment
from ctxsweep.records import Environment, Record, Status
from ctxsweep.scenario import Scenario
from ctxsweep.store import (
    Manifest,
    RunFolder,
    StoreError,
    difference,
    run_folders,
    write_atomic,
)

ERRORS = Console(stderr=True)
SAME_MACHINE = ("machine", "cpu_model", "gpu", "device", "threads")
SOFTWARE = {"commit", "dirty", "python", "versions", "gpu_driver"}


class Talkative(RichProgress):
    """Says of every cell what it took, and why timing stopped."""

    def record(self, record: Record) -> None:
        if record.status is Status.OK:
            said = f"{label(record.cell)}: {record.elapsed_s:.1f} s, {len(record.samples)} samples"
            self._bar.console.print(f"{said}, stopped by {record.stopped_by}", markup=False)
        super().record(record)


def sweep_and_report(
    scenario: Scenario, results: Path, *, resume: bool = False, verbosity: int = 0
) -> int:
    """Measure what is missing, write the report; the exit code. Verbosity: -1 quiet, 1 talkative.

    Raises ``StoreError`` if the run to resume belongs to another scenario.
    """
    start = time.monotonic()
    quiet = verbosity < 0
    with _folder(scenario, results, resume, quiet) as folder:
        known = len(folder.finished_keys())
        outcome = _measure(scenario, folder, verbosity)
    if outcome.interrupted:
        ERRORS.print(
            f"interrupted: {outcome.measured + outcome.tries} cells are kept in {folder.path}; "
            f"--resume {_rest(scenario, outcome)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return EXIT_INTERRUPTED
    write_report(folder.path, quiet=quiet)
    if not quiet:
        new = outcome.measured + outcome.failed + outcome.tries - known
        _say(f"{new} cells in {_minutes(time.monotonic() - start)}.")
    elif outcome.failed:
        ERRORS.print(f"{outcome.failed} cells have no figures; the report says why.")
    return outcome.exit_code


def _rest(scenario: Scenario, outcome: Outcome) -> str:
    """What is left to do of an interrupted sweep."""
    if scenario.frontier is None:
        return f"measures the other {outcome.missing}"
    before = f"measures the other {outcome.missing}, then " if outcome.missing else ""
    return f"{before}goes on with the search"


def _folder(scenario: Scenario, results: Path, resume: bool, quiet: bool) -> RunFolder:
    body = scenario.model_dump(mode="json")
    threads = scenario.threads or physical_cores()
    runs = run_folders(results, scenario.name) if resume else ()
    if runs:
        if not quiet:
            _say(f"Going on with {runs[-1]}")
        folder = RunFolder.resume(runs[-1], body, scenario.seed)
        _check_machine(folder, read_environment(scenario.device, threads), quiet)
        return folder
    if resume and not quiet:
        _say(f"No run of {scenario.name} lies in {results}/ yet: starting one.")
    return RunFolder.create(
        results,
        scenario.name,
        body,
        scenario.seed,
        order=tuple(cell.key for cell in expand(scenario)),
        environment=read_environment(scenario.device, threads),
    )


def _check_machine(folder: RunFolder, now: Environment, quiet: bool) -> None:
    """A run is of one machine: refuse another; say what of the software has changed."""
    before = folder.manifest.environment
    if before is None:
        return
    for field in SAME_MACHINE:
        was, is_now = getattr(before, field), getattr(now, field)
        if was != is_now:
            folder.close()
            raise StoreError(
                f"{folder.path}: this run was started with {field} = {was}, here it is {is_now}; "
                "start a new run without --resume"
            )
    changed = difference(
        before.model_dump(include=SOFTWARE), now.model_dump(mode="json", include=SOFTWARE)
    )
    if changed and not quiet:
        _say("Since this run was started: " + "; ".join(changed))


def _measure(scenario: Scenario, folder: RunFolder, verbosity: int) -> Outcome:
    display = None if verbosity < 0 else Talkative() if verbosity else RichProgress()
    if display:
        _say(f"{scenario.question}\n{folder.path}")
    with display or nullcontext():
        executor = LocalExecutor(folder.log_path)
        return run_sweep(scenario, expand(scenario), folder, executor, display)


def derive(folder: RunFolder) -> Summary:
    """The summary of a run, from its records."""
    manifest, records = folder.manifest, list(folder.records())
    return summarise(
        scenario=manifest.scenario_name,
        question=str(manifest.scenario.get("question", "")),
        run_id=manifest.run_id,
        started_at=manifest.started_at,
        records=records,
        elapsed_s=_elapsed_s(manifest, records),
        environment=manifest.environment,
        order=[str(series["name"]) for series in manifest.scenario.get("series", ())],
        quality=manifest.scenario.get("quality"),
        frontier=summarise_frontier(records, manifest.scenario),
    )


def _elapsed_s(manifest: Manifest, records: list[Record]) -> float:
    """From start to end, loading included; of a run that is not complete, its cells' time."""
    if manifest.finished_at is None:
        return sum(record.elapsed_s for record in records)
    started, finished = map(datetime.fromisoformat, (manifest.started_at, manifest.finished_at))
    return (finished - started).total_seconds()


def write_report(path: Path, *, quiet: bool = False, results: Path | None = None) -> None:
    """Write what follows from a run's records into its folder: ``summary.json``,
    ``predictions.json``, the page and the plots; print the verdicts.

    ``results`` is where this machine's calibration lies; by default where the run lies.
    """
    from ctxsweep.cli.predicted import predictions_of, results_of
    from ctxsweep.report.page import build_report

    folder = RunFolder.open(path)
    summary, predictions = derive(folder), predictions_of(folder, results or results_of(path))
    write_atomic(path / "summary.json", summary.model_dump_json(indent=1) + "\n")
    write_atomic(path / "predictions.json", predictions.model_dump_json(indent=1) + "\n")
    page = build_report(summary, path, predictions)
    if quiet:
        _say(str(page))
        return
    from ctxsweep.report.terminal import print_summary

    print_summary(summary, page, predictions=predictions)


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, highlight=False, markup=False)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} minutes"
