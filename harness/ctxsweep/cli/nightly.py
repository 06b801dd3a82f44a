"""``ctxsweep nightly``: sweep, benchmarks, kernels, comparison, history; and one answer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ctxsweep.analysis.compare_bench import compare_benchmarks, read_benchmarks
from ctxsweep.analysis.comparison import Comparison
from ctxsweep.analysis.lines import judged
from ctxsweep.baselines import BENCHMARKS, baseline_of
from ctxsweep.cli import find
from ctxsweep.cli.compare import compare_runs_of, with_thresholds, write_comparison
from ctxsweep.cli.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_REGRESSION, BadInput
from ctxsweep.cli.history import add_to_history, show_trend
from ctxsweep.cli.recheck import measured_again
from ctxsweep.cli.sides import BASELINE, Runs, open_runs, runs_named
from ctxsweep.cli.sweep import sweep_and_report
from ctxsweep.machine import machine_slug
from ctxsweep.report.compare_markdown import markdown
from ctxsweep.report.compare_terminal import print_comparison
from ctxsweep.report.compare_words import headline
from ctxsweep.scenario_regression import Regression
from ctxsweep.store import StoreError, run_folders, write_atomic

BENCH_FILE = Path("tests/bench/bench_ops.py")
BENCH_S = 900.0
COMPARISON = "comparison"
SUMMARY = "nightly.md"


@dataclass
class Step:
    """One part of the job: what came of it, in words, and how long it took."""

    name: str
    words: str = ""
    failed: bool = False
    took_s: float = 0.0


@dataclass
class Night:
    """What the job has so far."""

    steps: list[Step] = field(default_factory=list)
    comparison: Comparison | None = None
    trend: Path | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time a step. What goes wrong in it is said and kept, and the job goes on."""
        step = Step(name)
        self.steps.append(step)
        _say(f"── {name}")
        start = time.monotonic()
        try:
            yield step
        except (BadInput, StoreError, OSError, subprocess.SubprocessError) as error:
            step.failed, step.words = True, str(error)
        finally:
            step.took_s = time.monotonic() - start
        _say(f"   {step.words} ({step.took_s:.0f} s)")

    @property
    def exit_code(self) -> int:
        """3 for a regression, 1 for a step that failed, else 0."""
        if self.comparison is not None and self.comparison.regressions:
            return EXIT_REGRESSION
        return EXIT_FAILED if any(step.failed for step in self.steps) else 0


def nightly(
    scenario: str,
    device: str,
    asked: dict[str, Any],
    results: Path,
    *,
    base: str | None = None,
    recheck: bool = True,
) -> int:
    """The whole job; the exit code. ``base``: a run's name; default: the baseline of this machine,
    without one the run of the night before.

    A scenario that cannot be run ends it (``BadInput``); of the later steps each may fail alone.
    """
    plan = find.scenario(scenario, device, **asked)
    find.require_device(plan.device)
    if base not in (None, BASELINE):
        runs_named(base, results)  # a wrong name is said now, not after an hour
    night = Night()
    code = EXIT_BAD_INPUT
    with night.step("sweep") as step:
        code = sweep_and_report(plan, results, verbosity=0 if sys.stdout.isatty() else -1)
        step.failed = code != 0
        step.words = "all cells measured" if code == 0 else "cells failed; the report says why"
    if code not in (0, EXIT_FAILED):  # interrupted, or nothing could be written
        return code
    runs = list(run_folders(results, plan.name))
    new = open_runs((runs[-1],), plan.name)
    folder = runs[-1]
    with night.step("benchmarks") as step:
        step.words = _benchmarks(folder)
    with night.step("kernels' static table") as step:
        step.words, step.failed = _kernels(folder)
    with night.step(COMPARISON) as step:
        older = _base(base, new, runs, results)
        step.words = _compare(night, new, older)
        if recheck and older is not None:
            step.words = _settle(night, new, older, folder)
        # A gate that compares no time is no gate.
        step.failed = night.comparison is not None and night.comparison.blind
    if night.comparison is not None:
        write_comparison(night.comparison, folder)
        print_comparison(night.comparison)
    with night.step("history") as step:
        bench = folder / BENCHMARKS
        place = add_to_history(folder, results, bench if bench.is_file() else None)
        night.trend = show_trend(plan.name, results)
        step.words = f"added to {place}"
    return _end(night, new, folder)


def _benchmarks(folder: Path) -> str:
    """Micro-benchmarks of the source tree that the user stands in."""
    if not BENCH_FILE.is_file():
        return f"none: {BENCH_FILE} is not here; work in a clone to have them"
    _run_benchmarks(folder / BENCHMARKS, folder)
    return f"in {folder / BENCHMARKS}"


def _run_benchmarks(into: Path, folder: Path) -> None:
    command = (
        *(sys.executable, "-m", "pytest", "-q", str(BENCH_FILE)),
        *("-o", "python_files=bench_*.py", "-o", f"pythonpath={BENCH_FILE.parent}"),
        *("-p", "no:cacheprovider", "--benchmark-only"),
        f"--benchmark-json={into}",
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=BENCH_S)
    if done.returncode:
        into.unlink(missing_ok=True)
        write_atomic(folder / "bench.log", done.stdout + done.stderr)
        raise StoreError(f"the benchmarks failed; {folder / 'bench.log'} has what they said")


def _kernels(folder: Path) -> tuple[str, bool]:
    from ctxsweep.cli.kernels import judge_kernels

    code = judge_kernels(
        (), None, None, (), folder / "kernels", as_json=False, check=True, renew=False
    )
    if code:
        return "a kernel got worse than its committed baseline", True
    return f"no kernel is worse than its committed baseline; {folder / 'kernels'}", False


def _base(name: str | None, new: Runs, runs: list[Path], results: Path) -> Runs | None:
    """What to compare with: as named, else the baseline, else the latest complete run before.

    A baseline that is damaged is an error: falling back would hide it.
    """
    if name is not None:
        return runs_named(name, results, new)
    here = new.folders[-1].manifest.environment
    if here and baseline_of(new.party.scenario, here, results):
        return runs_named(BASELINE, results, new)
    for path in reversed(runs[:-1]):
        try:
            earlier = open_runs((path,), "the run before")
        except (StoreError, BadInput):
            continue
        then = earlier.folders[-1].manifest
        same = then.environment and here and machine_slug(then.environment) == machine_slug(here)
        if same and then.finished_at is not None:
            return earlier
    return None


def _compare(night: Night, new: Runs, base: Runs | None) -> str:
    if base is None:
        return "nothing to compare with: this is the first run of the scenario on this machine"
    night.comparison = compare_runs_of(base, new, with_thresholds(new, ()))
    return headline(night.comparison)


def _settle(night: Night, new: Runs, base: Runs, folder: Path) -> str:
    """Measure suspects again; where that cannot be, what the table said stands."""
    assert night.comparison is not None
    plan = with_thresholds(new, ())
    night.comparison = measured_again(night.comparison, base, new, plan, folder)
    night.comparison = _benchmarks_again(night.comparison, base, plan, folder)
    return headline(night.comparison)


def _benchmarks_again(found: Comparison, base: Runs, plan: Regression, folder: Path) -> Comparison:
    """Benchmarks that are slower are run once more: an alarm has to come twice."""
    slow = {change.series for change in found.regressions if change.kind == "bench"}
    if not slow:
        return found
    again = folder / "bench_again.json"
    _run_benchmarks(again, folder)
    files = (base.folders[-1].path / BENCHMARKS, again)
    table = compare_benchmarks(*map(read_benchmarks, files), plan)
    twice = {c.series for c in judged(table.lines, plan.alarm_rate) if c.outcome == "SLOW"}
    why = "not borne out: not slower when it was run once more"
    changes = tuple(
        change.model_copy(update={"outcome": "AMBG", "why": why})
        if change.kind == "bench" and change.series in slow - twice
        else change
        for change in found.changes
    )
    return found.model_copy(update={"changes": changes})


def _end(night: Night, new: Runs, folder: Path) -> int:
    text = _markdown(night, new)
    write_atomic(folder / SUMMARY, text)
    page = os.environ.get("GITHUB_STEP_SUMMARY")
    if page:
        with Path(page).open("a", encoding="utf-8") as file:
            file.write(text)
    _say("")
    if night.comparison is not None:
        _say(headline(night.comparison))
    for step in night.steps:
        if step.failed:
            _say(f"{step.name} failed: {step.words}")
    total = sum(step.took_s for step in night.steps)
    _say(f"Summary: {folder / SUMMARY}  Trend: {night.trend}  ({total / 60:.1f} minutes)")
    return night.exit_code


def _markdown(night: Night, new: Runs) -> str:
    """The job's page: the comparison first, then what each step came to."""
    party = new.party
    commit = (party.side.commit or "no commit")[:10]
    about = f"Nightly {party.scenario}, {commit}, {party.side.machine}\n"
    if night.comparison is None:
        words = next((s.words for s in night.steps if s.name == COMPARISON), "")
        parts = [f"**Not compared: {words}**\n", about]
    else:
        parts = [markdown(night.comparison), about]
    parts.append("| step | took | |\n|---|---|---|")
    for step in night.steps:
        mark = "**failed** " if step.failed else ""
        words = step.words.replace("|", "\\|").replace("\n", " ")
        parts.append(f"| {step.name} | {step.took_s:.0f} s | {mark}{words} |")
    return "\n".join(parts) + "\n"


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, highlight=False, markup=False)
