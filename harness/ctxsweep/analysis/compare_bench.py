"""Two files of pytest-benchmark beside each other, in the same table as cells and curves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctxsweep.analysis.bench_file import Benchmark, Machine, Stats, read_bench_file
from ctxsweep.analysis.change import Level, contrast, level_of_samples
from ctxsweep.analysis.comparable import MACHINE
from ctxsweep.analysis.compare import Table
from ctxsweep.analysis.comparison import Change, NotCompared, Side
from ctxsweep.analysis.estimate import Z95
from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.lines import Line
from ctxsweep.analysis.scatter import MIN_LINES, between, scatter
from ctxsweep.scenario_regression import Regression

ASKED_BY = {"implementation": "settings", "device": "machine", "threads": "threads"}
"""Which kind of ``ACROSS`` lets benchmarks be compared although this differs."""
UNSAID = "not said"


@dataclass(frozen=True)
class Benchmarks:
    """What a file of pytest-benchmark says, its benchmarks by their identity."""

    label: str
    machine: dict[str, str]
    commit: str | None
    dirty: bool | None
    started_at: str
    found: dict[str, Benchmark]

    @property
    def side(self) -> Side:
        """As the comparison names it."""
        return Side(
            label=self.label,
            run_ids=(),
            commit=self.commit,
            dirty=self.dirty,
            started_at=self.started_at,
            machine=self.machine.get("cpu_model", ""),
        )


def is_benchmarks(path: Path) -> bool:
    """Whether a path looks like a file of pytest-benchmark rather than a run."""
    return path.is_file() and path.suffix == ".json"


def read_benchmarks(path: Path) -> Benchmarks:
    """Read ``--benchmark-json``'s file. Raises ``StoreError`` for anything else."""
    file = read_bench_file(path)
    commit = file.commit_info
    return Benchmarks(
        label=str(path),
        machine=_machine(file.machine_info or Machine()),
        commit=commit.id if commit else None,
        dirty=commit.dirty if commit else None,
        started_at=file.datetime,
        found={one.identity: one for one in file.benchmarks},
    )


def compare_benchmarks(
    base: Benchmarks, new: Benchmarks, plan: Regression, across: Collection[str] = ()
) -> Table:
    """A line for every benchmark that both files have; a line's error holds their scatter."""
    table = Table()
    changed = [
        f"{name}: {was} → {new.machine[name]}"
        for name, was in base.machine.items()
        if was != new.machine.get(name, was)
    ]
    if changed and "machine" not in across:
        table.not_compared.append(
            NotCompared(what="benchmarks", count=len(new.found), reason="; ".join(changed))
        )
        return table
    table.differences += changed
    for side, other, which in ((base, new, "base"), (new, base, "new")):
        alone = len(set(side.found) - set(other.found))
        if alone:
            reason = f"only in the {which} file"
            table.not_compared.append(NotCompared(what="benchmarks", count=alone, reason=reason))
    _add_lines(table, _alike(table, base, new, across), plan)
    return table


def _alike(
    table: Table, base: Benchmarks, new: Benchmarks, across: Collection[str]
) -> list[tuple[Benchmark, Benchmark]]:
    """Base and new of the benchmarks that ran in the same way; of others, why not is told."""
    pairs = []
    for name, now in new.found.items():
        was = base.found.get(name)
        if was is None:
            continue
        before, after = was.conditions, now.conditions
        changed = {
            key: f"{key} {before.get(key, UNSAID)} → {after.get(key, UNSAID)}"
            for key, kind in ASKED_BY.items()
            if before.get(key) != after.get(key)
        }
        said = f"{now.subject}: {', '.join(changed.values())}"
        if any(ASKED_BY[key] not in across for key in changed):
            table.not_compared.append(NotCompared(what="benchmarks", count=1, reason=said))
            continue
        if changed:
            table.differences.append(said)
        pairs.append((was, now))
    return pairs


def _add_lines(table: Table, pairs: list[tuple[Benchmark, Benchmark]], plan: Regression) -> None:
    """Lines, each judged by what goes beyond the change that all have in common.

    Nothing in the file tells a slower machine from code that all benchmarks run; the history does
    show such a change.
    """
    if not pairs:
        return
    levels = [((_level(was.stats),), (_level(now.stats),)) for was, now in pairs]
    spread = scatter("time_s", [], [], levels)
    table.scatter.append(spread)
    threshold = plan.threshold("time_s")
    contrasts = [contrast(was, now, between(spread)) for was, now in levels]
    common = 0.0
    if len(pairs) >= MIN_LINES:
        common = float(np.median([found.difference for found in contrasts]))
    if abs(common) > np.log1p(threshold):
        table.differences.append(
            f"all benchmarks changed by {np.expm1(common):+.0%} together, which is taken for the "
            "machine: each is judged by what goes beyond that"
        )
    for (_, benchmark), (was, now), found in zip(pairs, levels, contrasts, strict=True):
        change = _change(benchmark, was[0], now[0], threshold)
        table.lines.append(Line(change, found, shift=common))


def _level(stats: Stats) -> Level:
    """From the rounds if the file has them, else from median and interquartile range."""
    if stats.data:
        return level_of_samples(stats.data)
    error = stats.median_error_s
    variance = None if error is None else (error / stats.median) ** 2
    return Level(float(np.log(stats.median)), variance, max(1.0, stats.rounds - 1.0), stats.rounds)


def _machine(said: Machine) -> dict[str, str]:
    """What must be equal, under the names that runs have."""
    cpu = said.cpu
    known = {
        MACHINE[2]: cpu.brand_raw if cpu else "",
        "logical cores": str(cpu.count or "") if cpu else "",
        "python": ".".join(said.python_version.split(".")[:2]),
    }
    return {name: value for name, value in known.items() if value}


def _change(benchmark: Benchmark, base: Level, new: Level, threshold: float) -> Change:
    return Change(
        kind="bench",
        subject=benchmark.subject,
        series=benchmark.identity,
        metric="time_s",
        unit="s",
        base=_estimate(base),
        new=_estimate(new),
        ratio=None,
        p_value=None,
        threshold=threshold,
        outcome="AMBG",
    )


def _estimate(level: Level) -> Estimate:
    value = float(np.exp(level.log))
    if level.variance is None:
        return Estimate(value=value, n=level.n)
    factor = float(np.exp(Z95 * np.sqrt(level.variance)))
    return Estimate(value=value, low=value / factor, high=value * factor, n=level.n)
