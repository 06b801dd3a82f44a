"""A table of a comparison as bare levels, without records: what simulations judge.

The real decision code throughout: ``scatter``, ``contrast``, ``judge``, ``is_suspect``,
``recheck.suspects`` and ``paired_contrast``. Only the way from records to levels is left out, for
16 records a suspect and table would take a hundred times as long. Tests hold both functions to
``compare_cells`` and ``recheck.settled`` on records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctxsweep.analysis.change import (
    Contrast,
    Level,
    contrast,
    is_suspect,
    judge,
    paired_contrast,
)
from ctxsweep.analysis.comparison import Change, Comparison, Outcome, Side
from ctxsweep.analysis.recheck import suspects
from ctxsweep.analysis.scatter import Groups, between, scatter
from ctxsweep.scenario_regression import Regression

SIDE = Side(label="", run_ids=())
SAME: Outcome = "SAME"


@dataclass(frozen=True)
class LevelLine:
    """One metric of one cell on both sides, each measured by one run."""

    series: str
    context_tokens: int
    metric: str
    base: Level
    new: Level

    @property
    def curve(self) -> tuple[str, str]:
        """Series and metric."""
        return self.series, self.metric


@dataclass(frozen=True)
class Verdicts:
    """The outcome of every line, and the places of those to be measured again."""

    outcomes: tuple[Outcome, ...]
    chosen: tuple[int, ...] = ()


def judge_levels(
    lines: Sequence[LevelLine], sentinels: Mapping[str, Groups], plan: Regression
) -> Verdicts:
    """Judge a table; ``sentinels`` are levels by metric, a group for each run.

    Where no line lies beyond its threshold nothing can be SLOW nor suspect, so everything is left
    at SAME; what is AMBG or FAST among it is not told apart.
    """
    limits = [plan.threshold(line.metric) for line in lines]
    found = _contrasts(lines, sentinels)
    if all(c.difference <= np.log1p(limit) for c, limit in zip(found, limits, strict=True)):
        return Verdicts(tuple(SAME for _ in lines))
    judged = [c if c.error > 0 else None for c in found]
    outcomes = judge(judged, limits, plan.alarm_rate)
    changes = {
        place: _change(line, found[place], outcomes[place], limits[place])
        for place, line in enumerate(lines)
        if is_suspect(judged[place], limits[place], outcomes[place])
    }
    comparison = Comparison(
        scenario="",
        base=SIDE,
        new=SIDE,
        alarm_rate=plan.alarm_rate,
        changes=tuple(changes.values()),
    )
    picked = {id(change) for change in suspects(comparison)}
    chosen = (place for place, change in changes.items() if id(change) in picked)
    return Verdicts(tuple(outcomes), tuple(chosen))


def settle_levels(
    lines: Sequence[LevelLine],
    first: Verdicts,
    differences: Sequence[Sequence[float]],
    plan: Regression,
) -> tuple[Outcome, ...]:
    """Outcomes after rounds: for every chosen line new less base (logarithms), round by round."""
    if not first.chosen:
        return first.outcomes
    again = judge(
        [paired_contrast(rounds) for rounds in differences],
        [plan.threshold(lines[place].metric) for place in first.chosen],
        plan.alarm_rate,
    )
    outcomes = list(first.outcomes)
    for place, outcome in zip(first.chosen, again, strict=True):
        outcomes[place] = outcome
    seen = {lines[place].curve for place in first.chosen}
    borne_out = {lines[place].curve for place in first.chosen if outcomes[place] == "SLOW"}
    for place, line in enumerate(lines):
        if outcomes[place] == "SLOW" and line.curve in seen - borne_out:
            outcomes[place] = "AMBG"
    return tuple(outcomes)


def _contrasts(lines: Sequence[LevelLine], sentinels: Mapping[str, Groups]) -> list[Contrast]:
    spreads = {}
    for metric in {line.metric for line in lines}:
        pairs = [([line.base], [line.new]) for line in lines if line.metric == metric]
        spreads[metric] = between(scatter(metric, [], sentinels.get(metric, []), pairs))
    return [contrast([line.base], [line.new], spreads[line.metric]) for line in lines]


def _change(line: LevelLine, found: Contrast, outcome: Outcome, limit: float) -> Change:
    return Change(
        kind="cell",
        subject="",
        series=line.series,
        context_tokens=line.context_tokens,
        metric=line.metric,
        unit="",
        base=None,
        new=None,
        ratio=None,
        p_value=found.p_worse,
        threshold=limit,
        outcome=outcome,
        suspect=True,
    )
