"""What a machine can tell: real rounds of one build, resampled into comparisons of equal builds.

A round measured the table twice in turns, so it yields two tables of the same build. A made-up
comparison draws one of them as base and one as new, others for the sentinels of either run, and
whole rounds, in which the two are neighbours in time, for measuring suspects again; nothing is
drawn twice. It is judged by the real rule (``level_table``). A slowdown is put in by raising the
level of the new side, which is what longer samples would do to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctxsweep.analysis.change import Level, judge, paired_contrast
from ctxsweep.analysis.compare_cells import CONTENDABLE, level_of
from ctxsweep.analysis.comparison import Outcome, Scatter
from ctxsweep.analysis.level_table import LevelLine, judge_levels, settle_levels
from ctxsweep.analysis.metrics import measure
from ctxsweep.analysis.scatter import scatter
from ctxsweep.records import Record, Status
from ctxsweep.scenario_regression import Regression

SENTINELS = 6
MIN_ROUNDS = 6
"""Of which two can be turns again, and four hold two tables and three sentinels for each."""

Line = tuple[str, int, str]
"""Series (with its batch size), context, metric."""
Table = Mapping[Line, Level]
Slower = Mapping[Line, float]
"""What is put into the new side, as a logarithm."""


@dataclass(frozen=True)
class Rounds:
    """Levels of every line in every round, twice; a line is in all of them."""

    lines: tuple[Line, ...]
    tables: tuple[tuple[Table, Table], ...]
    cells_left_out: int = 0

    @property
    def watched(self) -> tuple[str, int]:
        """Series and context of the cell that plays the sentinel: the shortest of the first."""
        first = self.lines[0][0]
        return first, min(context for series, context, _ in self.lines if series == first)

    @property
    def again(self) -> int:
        """Rounds for measuring suspects again: half of them, but the sentinels need some too."""
        count = len(self.tables)
        return min(Regression().recheck_rounds, count // 2, count - 4)

    @property
    def sentinels(self) -> int:
        """Sentinels of either run, of the tables that are left then."""
        return min(SENTINELS, len(self.tables) - self.again - 1)


@dataclass(frozen=True)
class Drawn:
    """A made-up comparison."""

    base: Table
    new: Table
    sentinels: tuple[tuple[Table, ...], tuple[Table, ...]]
    again: tuple[tuple[Table, Table], ...]


@dataclass(frozen=True)
class Result:
    """Lines that are SLOW by the table alone, and after suspects were measured again."""

    alone: frozenset[Line]
    settled: frozenset[Line]


def rounds_of(rounds: Sequence[tuple[Sequence[Record], Sequence[Record]]]) -> Rounds:
    """Levels of what was measured.

    Left out is a cell that has no figures in most rounds (it lacks memory, say), and then a round
    in which another cell has none. Raises ``ValueError`` if fewer than ``MIN_ROUNDS`` are left.
    """
    sides = [side for pair in rounds for side in pair]
    seen = Counter(_place(r) for side in sides for r in side)
    ok = Counter(_place(r) for side in sides for r in side if r.status is Status.OK)
    usable = {place for place in seen if 2 * ok[place] > seen[place]}
    kept = [tuple([r for r in side if _place(r) in usable] for side in pair) for pair in rounds]
    whole = [pair for pair in kept if all(r.status is Status.OK for side in pair for r in side)]
    if not usable:
        raise ValueError("no cell has figures in most rounds")
    if len(whole) < MIN_ROUNDS:
        raise ValueError(
            f"{len(whole)} of {len(rounds)} rounds are whole, and {MIN_ROUNDS} are needed"
        )
    tables = tuple((_table(first), _table(second)) for first, second in whole)
    common = set.intersection(*(set(table) for pair in tables for table in pair))
    if not common:
        raise ValueError("no cell has times in every round")
    lines = tuple(line for line in tables[0][0] if line in common)
    return Rounds(lines, tables, len(seen) - len(usable))


def draw(rounds: Rounds, rng: np.random.Generator) -> Drawn:
    """One made-up comparison."""
    order = rng.permutation(len(rounds.tables))
    again = [rounds.tables[i] for i in order[: rounds.again]]
    rest = [table for i in order[rounds.again :] for table in rounds.tables[i]]
    shuffled = [rest[i] for i in rng.permutation(len(rest))]
    end = 2 + rounds.sentinels
    return Drawn(
        base=shuffled[0],
        new=shuffled[1],
        sentinels=(tuple(shuffled[2:end]), tuple(shuffled[end : end + rounds.sentinels])),
        again=tuple(pair if rng.random() < 0.5 else pair[::-1] for pair in again),
    )


def decide(rounds: Rounds, drawn: Drawn, slower: Slower, plan: Regression) -> Result:
    """Judge a made-up comparison, and its suspects again."""
    lines = [
        LevelLine(*line, base=drawn.base[line], new=_raised(drawn.new[line], slower.get(line, 0.0)))
        for line in rounds.lines
    ]
    sentinels = {
        metric: [[table[(*rounds.watched, metric)] for table in run] for run in drawn.sentinels]
        for metric in {metric for *_, metric in rounds.lines}
        if (*rounds.watched, metric) in rounds.lines
    }
    first = judge_levels(lines, sentinels, plan)
    differences = [
        [new[line].log + slower.get(line, 0.0) - base[line].log for base, new in drawn.again]
        for line in (rounds.lines[place] for place in first.chosen)
    ]
    settled = settle_levels(lines, first, differences, plan)
    return Result(_slow(rounds, first.outcomes), _slow(rounds, settled))


def in_turns(
    rounds: Rounds, slower: Slower, plan: Regression, rng: np.random.Generator
) -> frozenset[Line]:
    """Lines that are SLOW if all rounds went into measuring two builds in turns.

    Rounds are drawn anew from the real ones, with repetition, and which of the two is new by lot.
    """
    chosen = rng.integers(len(rounds.tables), size=len(rounds.tables))
    sign = rng.choice([-1.0, 1.0], len(chosen))
    contrasts = []
    for line in rounds.lines:
        apart = [two[line].log - one[line].log for one, two in (rounds.tables[i] for i in chosen)]
        contrasts.append(paired_contrast(sign * np.array(apart) + slower.get(line, 0.0)))
    known = [found if found.error > 0 else None for found in contrasts]
    limits = [plan.threshold(metric) for *_, metric in rounds.lines]
    return _slow(rounds, judge(known, limits, plan.alarm_rate))


def slowdowns(
    rounds: Rounds, metric: str, where: str, size: float, rng: np.random.Generator
) -> Iterator[Slower]:
    """Endlessly: ``size`` in one cell, drawn by lot, or in ``all cells``; of one metric."""
    lines = [line for line in rounds.lines if line[2] == metric]
    while True:
        hit = lines if where == "all cells" else [lines[rng.integers(len(lines))]]
        yield dict.fromkeys(hit, float(np.log1p(size)))


def process_scatter(rounds: Rounds, metric: str) -> Scatter:
    """How far apart processes come out, over all rounds and cells."""
    groups = [
        [table[line] for pair in rounds.tables for table in pair]
        for line in rounds.lines
        if line[2] == metric
    ]
    return scatter(metric, groups, [], [], 2 * len(rounds.tables) - 1)


def metrics_of(rounds: Rounds) -> Collection[str]:
    """Of the metrics that are compared those that the rounds have."""
    have = {metric for *_, metric in rounds.lines}
    return [metric for metric in CONTENDABLE if metric in have]


def _place(record: Record) -> tuple[str, int, int]:
    cell = record.cell
    return cell.series.name, cell.batch_size, cell.context_tokens


def _table(records: Sequence[Record]) -> Table:
    found: dict[Line, Level] = {}
    for record in records:
        cell, values = record.cell, measure(record)
        batch = "" if cell.batch_size == 1 else f" ×{cell.batch_size}"
        for metric in CONTENDABLE:
            level = level_of(record, metric, values)
            if level is not None:
                found[f"{cell.series.name}{batch}", cell.context_tokens, metric] = level
    return found


def _raised(level: Level, by: float) -> Level:
    return Level(level.log + by, level.variance, level.freedom, level.n)


def _slow(rounds: Rounds, outcomes: Sequence[Outcome]) -> frozenset[Line]:
    pairs = zip(rounds.lines, outcomes, strict=True)
    return frozenset(line for line, outcome in pairs if outcome == "SLOW")
