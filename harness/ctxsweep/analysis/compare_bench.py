"""Two files of pytest-benchmark beside each other, in the same table as cells and curves."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctxsweep.analysis.change import Level, contrast, level_of_samples
from ctxsweep.analysis.comparable import MACHINE
from ctxsweep.analysis.compare import Table
from ctxsweep.analysis.comparison import Change, NotCompared, Side
from ctxsweep.analysis.estimate import Z95
from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.lines import Line
from ctxsweep.analysis.scatter import between, scatter
from ctxsweep.scenario_regression import Regression
from ctxsweep.store import StoreError

IQR_TO_SIGMA = 1.349
MEDIAN_ERROR = 1.2533
"""Standard error of a median over that of a mean, under normal noise."""


@dataclass(frozen=True)
class Benchmarks:
    """What a file of pytest-benchmark says: a level of time for every benchmark, by full name."""

    label: str
    machine: dict[str, str]
    commit: str | None
    dirty: bool | None
    started_at: str
    levels: dict[str, Level]

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
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = data["benchmarks"]
        levels = {str(one["fullname"]): _level(one["stats"]) for one in found}
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StoreError(
            f"{path}: not a file of pytest-benchmark ({why}); write one with --benchmark-json"
        ) from error
    if not levels:
        raise StoreError(f"{path}: holds no benchmark; was everything deselected?")
    commit = data.get("commit_info") or {}
    return Benchmarks(
        label=str(path),
        machine=_machine(data.get("machine_info") or {}),
        commit=commit.get("id"),
        dirty=commit.get("dirty"),
        started_at=str(data.get("datetime", "")),
        levels=levels,
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
            NotCompared(what="benchmarks", count=len(new.levels), reason="; ".join(changed))
        )
        return table
    table.differences += changed
    names = [name for name in new.levels if name in base.levels]
    for side, other, which in ((base, new, "base"), (new, base, "new")):
        alone = len(set(side.levels) - set(other.levels))
        if alone:
            reason = f"only in the {which} file"
            table.not_compared.append(NotCompared(what="benchmarks", count=alone, reason=reason))
    pairs = [((base.levels[name],), (new.levels[name],)) for name in names]
    if not pairs:
        return table
    spread = scatter("time_s", [], [], pairs)
    table.scatter.append(spread)
    for name, (was, now) in zip(names, pairs, strict=True):
        found = contrast(was, now, between(spread))
        change = _change(name, was[0], now[0], plan.threshold("time_s"))
        table.lines.append(Line(change, found))
    return table


def _level(stats: dict[str, Any]) -> Level:
    """From the rounds if the file has them, else from median and interquartile range."""
    samples = [float(value) for value in stats.get("data") or ()]
    if len(samples) > 1 and min(samples) > 0:
        return level_of_samples(samples)
    median, rounds = float(stats["median"]), int(stats["rounds"])
    if median <= 0:
        raise ValueError(f"a median of {median} s")
    error = MEDIAN_ERROR * float(stats["iqr"]) / IQR_TO_SIGMA / np.sqrt(rounds) / median
    variance = float(error) ** 2 if rounds > 1 else None
    return Level(float(np.log(median)), variance, max(1.0, rounds - 1.0), rounds)


def _machine(said: dict[str, Any]) -> dict[str, str]:
    """What must be equal, under the names that runs have."""
    cpu: dict[str, Any] = said.get("cpu") or {}
    minor = ".".join(str(said.get("python_version", "")).split(".")[:2])
    known = {
        MACHINE[2]: str(cpu.get("brand_raw", "")),
        "logical cores": str(cpu.get("count", "")),
        "python": minor,
    }
    return {name: value for name, value in known.items() if value}


def _change(name: str, base: Level, new: Level, threshold: float) -> Change:
    return Change(
        kind="bench",
        subject=name.rpartition("::")[2] or name,
        series=name,
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
