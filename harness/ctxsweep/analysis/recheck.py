"""Suspects measured again: which, and what the new figures settle.

Fresh measurements judge what the first only made suspect, so however many lines the first table
had, a false alarm has to come about anew among the few suspects, at the same alarm rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctxsweep.analysis.change import (
    Between,
    Contrast,
    Level,
    contrast,
    judge,
    level_of_estimate,
    paired_contrast,
)
from ctxsweep.analysis.compare_cells import CONTENDABLE, level_of
from ctxsweep.analysis.comparison import Change, Comparison, Outcome, Recheck
from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.lines import UNBORNE_CLASS
from ctxsweep.analysis.metrics import measure
from ctxsweep.records import Record, Status

MOST_PER_CURVE = 2
MIN_ROUNDS = 4
"""Fewer overrule no alarm: a t test of two or three pairs misses what is plain."""

Curve = tuple[str, int, str]
"""Series, batch size, metric."""


@dataclass(frozen=True)
class Again:
    """One round: what each build measured of the suspects. Without ``base`` only the new one."""

    base: tuple[Record, ...] | None
    new: tuple[Record, ...]


def suspects(comparison: Comparison) -> tuple[Change, ...]:
    """The lines to be measured again: of every curve the two cells that stand out most.

    Where a parameter of the curve alone is slower, its two longest cells. A status cannot be
    measured again, bytes need not be.
    """
    curves: dict[Curve, list[Change]] = defaultdict(list)
    alarmed = {_curve(c) for c in comparison.changes if c.kind == "curve" and c.outcome == "SLOW"}
    for change in comparison.changes:
        if change.kind == "cell" and change.metric in CONTENDABLE:
            curves[_curve(change)].append(change)
    chosen: list[Change] = []
    for curve, lines in curves.items():
        ranked = [line for line in lines if line.suspect]
        ranked.sort(key=lambda c: (c.outcome != "SLOW", c.p_value or 0.0))
        if not ranked and curve in alarmed:
            ranked = sorted(lines, key=lambda c: -(c.context_tokens or 0))
        chosen += ranked[:MOST_PER_CURVE]
    return tuple(chosen)


def settled(
    comparison: Comparison, chosen: Sequence[Change], rounds: Sequence[Again]
) -> Comparison:
    """The comparison with the suspects judged by what was measured again.

    An alarm that was not borne out becomes AMBG, and so do other alarms of its curve. Fewer than
    ``MIN_ROUNDS`` rounds settle nothing, and then the alarms stand. The new build alone can clear
    an alarm and not raise one: the machine may have changed since the base was measured.
    """
    seen = {id(change): _seen(change, rounds) for change in chosen}
    known = [change for change in chosen if seen[id(change)] is not None]
    if not known:
        return comparison
    contrasts: list[Contrast | None] = [seen[id(change)] for change in known]
    outcomes = judge(contrasts, [c.threshold for c in known], comparison.alarm_rate)
    interleaved = any(again.base is not None for again in rounds)
    again: dict[int, Change] = {}
    for change, found, outcome in zip(known, contrasts, outcomes, strict=True):
        assert found is not None
        if not interleaved and change.outcome != "SLOW" and outcome == "SLOW":
            outcome = "AMBG"
        recheck = Recheck(
            rounds=len(rounds),
            interleaved=interleaved,
            ratio=found.ratio,
            p_value=found.p_worse,
        )
        again[id(change)] = _told(_with_figures(change, rounds), recheck, outcome)
    changes = [again.get(id(change), change) for change in comparison.changes]
    return comparison.model_copy(update={"changes": tuple(_borne_out(changes))})


def _with_figures(change: Change, rounds: Sequence[Again]) -> Change:
    """With the times of the rounds, which the ratio is of; of one build alone with its own."""
    update = {}
    for name in ("base", "new"):
        sides = [side for again in rounds if (side := getattr(again, name)) is not None]
        levels = [level.log for side in sides if (level := _figure(change, side)) is not None]
        if levels:
            update[name] = Estimate(value=float(np.exp(np.mean(levels))), n=len(levels))
    return change.model_copy(update=update)


def _told(change: Change, recheck: Recheck, outcome: Outcome) -> Change:
    how = "in turn with the base's build" if recheck.interleaved else "with the new build alone"
    times = f"measured again {recheck.rounds} times {how}"
    why = {
        "SLOW": f"borne out: {times}",
        "FAST": f"{times}: faster",
        "SAME": f"not borne out: {times}",
        "AMBG": f"{times}, and still not to be told",
    }[outcome]
    update = {"outcome": outcome, "recheck": recheck, "ratio": recheck.ratio, "why": why}
    return change.model_copy(update=update)


def _seen(change: Change, rounds: Sequence[Again]) -> Contrast | None:
    """What the rounds say of a line; None if too few of them measured it."""
    pairs = []
    for again in rounds:
        base = None if again.base is None else _figure(change, again.base)
        new = _figure(change, again.new)
        if new is not None and (again.base is None or base is not None):
            pairs.append((base, new))
    if len(pairs) < MIN_ROUNDS:
        return None
    differences = [new.log - base.log for base, new in pairs if base is not None]
    if len(differences) == len(pairs):
        return paired_contrast(differences)
    first = level_of_estimate(change.base) if change.base is not None else None
    if first is None:
        return None
    logs = np.array([new.log for _, new in pairs])
    between = Between(float(logs.var(ddof=1)), len(logs) - 1)
    return contrast([first], [Level(log) for log in logs], between)


def _figure(change: Change, records: Sequence[Record]) -> Level | None:
    for record in records:
        cell = record.cell
        place = (cell.series.name, cell.batch_size, cell.context_tokens)
        wanted = (change.series, change.batch_size, change.context_tokens)
        if place == wanted and record.status is Status.OK:
            return level_of(record, change.metric, measure(record))
    return None


def _borne_out(changes: Sequence[Change]) -> list[Change]:
    """Alarms on times that rest on cells of which none was borne out are none; a class that got
    worse is one if a cell of its curve was."""
    state: dict[Curve, bool] = {}
    for change in changes:
        if change.kind == "cell" and change.recheck is not None:
            known = state.get(_curve(change), False)
            state[_curve(change)] = known or change.outcome == "SLOW"
    result = []
    for change in changes:
        borne_out = state.get(_curve(change)) if change.kind != "bench" else None
        alone = change.recheck is None
        if alone and change.outcome == "SLOW" and borne_out is False:
            why = "its curve was measured again, and no suspect was borne out"
            change = change.model_copy(update={"outcome": "AMBG", "why": why})
        elif borne_out and change.why == UNBORNE_CLASS:
            why = "another class, and a cell of the curve was slower again"
            change = change.model_copy(update={"outcome": "SLOW", "why": why})
        result.append(change)
    return result


def _curve(change: Change) -> Curve:
    return change.series, change.batch_size, change.metric.partition(".")[0]
