"""Cells of two sides, line by line: what can be compared, with its error, and what cannot."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctxsweep.analysis.change import (
    Between,
    Level,
    contrast,
    level_of_estimate,
    level_of_samples,
)
from ctxsweep.analysis.comparable import Obstacle, blocking, changed_settings, contention
from ctxsweep.analysis.comparison import Change, NotCompared, Scatter
from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.lines import Line, Run, exact_line, settled_line
from ctxsweep.analysis.metrics import METRICS, measure
from ctxsweep.analysis.samples import contended_share, step_times
from ctxsweep.analysis.scatter import between, is_guess, scatter
from ctxsweep.analysis.wording import context_label
from ctxsweep.records import Record, Status
from ctxsweep.scenario_regression import THRESHOLDS, Regression

COMPARED = tuple(name for name in THRESHOLDS if name in METRICS)
TIMED = tuple(name for name in COMPARED if not METRICS[name].exact)
CONTENDABLE = ("prefill_s", "itl_s")
PEAK = "_peak_bytes"

Place = tuple[str, int, int]
"""Series, batch size, context."""
Levels = dict[str, tuple[list[Level], list[Level]]]


@dataclass(frozen=True)
class Cells:
    """What came of comparing the cells."""

    lines: list[Line]
    not_compared: list[NotCompared]
    scatter: list[Scatter]


@dataclass(frozen=True)
class _Pair:
    """A cell on both sides: records of every run in which it is ok."""

    place: Place
    base: list[Record]
    new: list[Record]

    @property
    def subject(self) -> str:
        """``gqa ×4 at 8K``."""
        series, batch, context = self.place
        return f"{series}{'' if batch == 1 else f' ×{batch}'} at {context_label(context)}"

    def change(self, metric: str, threshold: float) -> Change:
        """Its line of a metric, not judged yet."""
        series, batch, context = self.place
        return Change(
            kind="cell",
            subject=self.subject,
            series=series,
            batch_size=batch,
            context_tokens=context,
            metric=metric,
            unit=METRICS[metric].unit if metric in METRICS else "",
            base=None,
            new=None,
            ratio=None,
            p_value=None,
            threshold=threshold,
            outcome="AMBG",
        )


class _Refusals:
    """Counts what is not compared, by what it is and why."""

    def __init__(self) -> None:
        self._count: Counter[tuple[str, str]] = Counter()

    def add(self, what: str, reason: str) -> None:
        self._count[what, reason] += 1

    def found(self) -> list[NotCompared]:
        return [
            NotCompared(what=what, count=count, reason=reason)
            for (what, reason), count in self._count.items()
        ]


def compare_cells(
    base: Sequence[Run],
    new: Sequence[Run],
    plan: Regression,
    obstacles: Sequence[Obstacle],
    across: Collection[str],
    budgets: str = "",
) -> Cells:
    """Every cell of either side: lines for what is measured on both, reasons for the rest.

    ``budgets`` says how those of the two sides differ: then a cell may end otherwise for that.
    """
    refusals, lines = _Refusals(), []
    pairs: list[tuple[_Pair, Levels]] = []
    for pair in _pairs(base, new):
        differs = "; ".join(
            [o.text for o in blocking(obstacles, across)] + [budgets] * bool(budgets)
        )
        status = _status_line(pair, refusals, differs)
        if status is not None:
            lines.append(status)
        usable = _usable(pair, obstacles, across, refusals)
        if usable is None:
            continue
        ok, names = usable
        values = [[measure(record) for record in side] for side in (ok.base, ok.new)]
        lines += _exact_lines(ok, values, names, plan)
        pairs.append((ok, _levels(ok, values, names)))
    spreads = {name: _scatter(name, base, new, pairs) for name in TIMED if _any(name, pairs)}
    for pair, levels in pairs:
        lines += _timed_lines(pair, levels, spreads, plan)
    return Cells(lines, refusals.found(), list(spreads.values()))


def _pairs(base: Sequence[Run], new: Sequence[Run]) -> list[_Pair]:
    sides = [_by_place(side) for side in (base, new)]
    places = sorted({**sides[0], **sides[1]})
    return [_Pair(place, sides[0].get(place, []), sides[1].get(place, [])) for place in places]


def _by_place(runs: Sequence[Run]) -> Mapping[Place, list[Record]]:
    """The latest record of every cell, of each run."""
    found: dict[Place, list[Record]] = defaultdict(list)
    for run in runs:
        for record in {r.cell.key: r for r in run.records if r.cell.role == "measure"}.values():
            cell = record.cell
            found[cell.series.name, cell.batch_size, cell.context_tokens].append(record)
    return found


def _status_line(pair: _Pair, refusals: _Refusals, differs: str) -> Line | None:
    """A line for a cell that ran on one side only; nothing for one that ran on both.

    Where ``differs`` says that machine, versions or budgets are others it is no change of ours.
    """
    ran = [any(r.status is Status.OK for r in side) for side in (pair.base, pair.new)]
    if not pair.base or not pair.new:
        refusals.add("cells", f"only in the {'new' if not pair.base else 'base'} run")
        return None
    if all(ran):
        return None
    was, now = (
        "ok" if ok else side[-1].status.value
        for ok, side in zip(ran, (pair.base, pair.new), strict=True)
    )
    if not any(ran):
        refusals.add("cells", f"{was} in both runs" if was == now else f"{was} → {now}")
        return None
    if differs:
        refusals.add("cells", f"{was} → {now}, where also: {differs}")
        return None
    words = {"base_word": was, "new_word": now}
    change = pair.change("status", 0.0).model_copy(update=words)
    failed = pair.base[-1] if ran[1] else pair.new[-1]
    return settled_line(change, "FAST" if ran[1] else "SLOW", failed.detail[:300])


def _usable(
    pair: _Pair, obstacles: Sequence[Obstacle], across: Collection[str], refusals: _Refusals
) -> tuple[_Pair, list[str]] | None:
    """The records that are ok, and the metrics that may be compared; None if there are none."""
    ok = _Pair(
        pair.place,
        [r for r in pair.base if r.status is Status.OK],
        [r for r in pair.new if r.status is Status.OK],
    )
    if not ok.base or not ok.new:
        return None
    settings = changed_settings(ok.base[-1].cell, ok.new[-1].cell)
    if settings and "settings" not in across:
        refusals.add(f"cells of {pair.place[0]}", f"other settings: {'; '.join(settings[:4])}")
        return None
    backend = ok.new[-1].cell.series.backend
    found = [o for o in blocking(obstacles, across) if o.concerns(backend)]
    if any(o.text.startswith("device:") for o in found):
        refusals.add("cells", "; ".join(o.text for o in found))
        return None
    if found:
        refusals.add("times and peaks of cells", "; ".join(o.text for o in found))
        return ok, [name for name in COMPARED if name not in TIMED]
    disturbed = "" if "contended" in across else _contention(ok)
    if disturbed:
        refusals.add("times of cells", disturbed)
        return ok, [name for name in COMPARED if name not in CONTENDABLE]
    return ok, list(COMPARED)


def _contention(pair: _Pair) -> str:
    shares = []
    for side in (pair.base, pair.new):
        known = [s for r in side if (s := contended_share(r)) is not None]
        shares.append(float(np.median(known)) if known else None)
    return contention(*shares)


def _exact_lines(
    pair: _Pair,
    values: Sequence[Sequence[Mapping[str, Estimate]]],
    names: Collection[str],
    plan: Regression,
) -> Iterator[Line]:
    for name in names:
        sides = [[v[name] for v in side if name in v] for side in values]
        if name in TIMED or not all(sides):
            continue
        change = pair.change(name, plan.threshold(name))
        update = {"base": sides[0][-1], "new": sides[1][-1]}
        yield exact_line(change.model_copy(update=update))


def _levels(
    pair: _Pair, values: Sequence[Sequence[Mapping[str, Estimate]]], names: Collection[str]
) -> Levels:
    """Levels of both sides for every sampled metric that both have."""
    found: Levels = {}
    for name in (n for n in names if n in TIMED):
        base, new = (
            [
                level
                for record, value in zip(records, side, strict=True)
                if (level := level_of(record, name, value)) is not None
            ]
            for records, side in zip((pair.base, pair.new), values, strict=True)
        )
        if base and new:
            found[name] = (base, new)
    return found


def level_of(record: Record, name: str, values: Mapping[str, Estimate]) -> Level | None:
    """A record's level of a sampled metric; ``values`` are what ``measure`` says of it."""
    if name == "itl_s" and len(times := step_times(record)) > 1:
        return level_of_samples(times)
    return level_of_estimate(values[name]) if name in values else None


def _scatter(
    name: str, base: Sequence[Run], new: Sequence[Run], pairs: Sequence[tuple[_Pair, Levels]]
) -> Scatter:
    lines = [levels[name] for _, levels in pairs if name in levels]
    repeated = [side for line in lines for side in line if len(side) > 1]
    sentinels = [group for run in (*base, *new) for group in _sentinels(run, name)]
    return scatter(name, repeated, sentinels, lines, len(base) + len(new) - 2)


def _sentinels(run: Run, name: str) -> list[list[Level]]:
    groups: dict[Place, list[Level]] = defaultdict(list)
    for record in run.records:
        cell = record.cell
        if cell.role == "sentinel" and record.status is Status.OK:
            level = level_of(record, name, measure(record))
            if level is not None:
                groups[cell.series.name, cell.batch_size, cell.context_tokens].append(level)
    return [group for group in groups.values() if len(group) > 1]


def _any(name: str, pairs: Sequence[tuple[_Pair, Levels]]) -> bool:
    return any(name in levels for _, levels in pairs)


def _timed_lines(
    pair: _Pair, levels: Levels, spreads: Mapping[str, Scatter], plan: Regression
) -> Iterator[Line]:
    for name, (base, new) in levels.items():
        spread = between(spreads[name])
        change = pair.change(name, plan.threshold(name)).model_copy(
            update={"base": _estimate(base, spread), "new": _estimate(new, spread)}
        )
        found = contrast(base, new, spread)
        if found.error == 0 and name.endswith(PEAK):  # an allocator that always does the same
            yield exact_line(change)
        else:
            unsure = name in CONTENDABLE and is_guess(spreads[name])
            yield Line(change, found if found.error > 0 else None, unsure=unsure)


def _estimate(side: Sequence[Level], spread: Between) -> Estimate:
    """A side's figure with an interval that holds what its process may be off by."""
    alone = contrast([Level(0.0)], side, None)
    error = float(np.sqrt(alone.error**2 + spread.variance / len(side)))
    value = alone.difference
    low, high = np.exp(value - 1.96 * error), np.exp(value + 1.96 * error)
    count = sum(level.n for level in side)
    return Estimate(value=float(np.exp(value)), low=float(low), high=float(high), n=count)
