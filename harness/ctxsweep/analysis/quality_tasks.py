"""How often the answer of a task was exact, with Wilson's interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import sqrt
from typing import get_args

from ctxsweep.analysis.estimate import Z95
from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.quality_summary import TaskRate
from ctxsweep.records import Record
from ctxsweep.records_quality import TaskName, Trial


def wilson(exact: int, trials: int) -> Estimate:
    """A share with the score interval of Wilson (1927), which few trials do not make absurd."""
    share, square = exact / trials, Z95**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = Z95 * sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    half /= 1 + square / trials
    low, high = min(share, centre - half), max(share, centre + half)
    return Estimate(value=share, low=max(0.0, low), high=min(1.0, high), n=trials)


def finds_less(one: TaskRate | None, other: TaskRate | None) -> bool:
    """Whether the interval of ``one`` lies wholly below the other's."""
    if one is None or other is None or one.share.high is None or other.share.low is None:
        return False
    return one.share.high < other.share.low


def task_rates(records: Sequence[Record]) -> tuple[TaskRate, ...]:
    """Of every cell and task: all depths together, then every depth."""
    rates = []
    for record in records:
        groups: dict[tuple[TaskName, float | None], list[Trial]] = defaultdict(list)
        for trial in record.quality.trials if record.quality else ():
            groups[trial.task, None].append(trial)
            groups[trial.task, trial.depth].append(trial)
        rates += [_rate(record, *key, groups[key]) for key in sorted(groups, key=_place)]
    return tuple(rates)


def _place(key: tuple[TaskName, float | None]) -> tuple[int, float]:
    task, depth = key
    return get_args(TaskName).index(task), -1.0 if depth is None else depth


def _rate(record: Record, task: TaskName, depth: float | None, trials: list[Trial]) -> TaskRate:
    exact = sum(trial.exact for trial in trials)
    return TaskRate(
        series=record.cell.series.name,
        task=task,
        context_tokens=record.cell.context_tokens,
        depth=depth,
        exact=exact,
        trials=len(trials),
        share=wilson(exact, len(trials)),
        log_probability=sum(trial.log_probability for trial in trials) / len(trials),
    )
