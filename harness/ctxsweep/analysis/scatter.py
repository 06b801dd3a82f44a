"""How far apart two processes come out that do the same, beyond what their samples show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctxsweep.analysis.change import ENDLESS, Between, Level
from ctxsweep.analysis.comparison import Scatter
from ctxsweep.analysis.estimate import MAD_TO_SIGMA

MIN_FREEDOM = 4
MIN_LINES = 8
MAD_EFFICIENCY = 0.37
"""Of the median absolute deviation as an estimate of spread under normal noise (Huber 1981)."""
ASSUMED = 0.02
"""Taken where nothing shows the scatter: a run without sentinel and with few cells."""
CAUTION = 0.25
"""Standard errors of itself that the scatter of few repetitions is taken larger: what came out
small by chance would make alarms."""
TABLE = "the ratios of the whole table"
NOTHING = "assumed: no sentinel, and few cells"
Groups = Sequence[Sequence[Level]]
Pairs = Sequence[tuple[Sequence[Level], Sequence[Level]]]


def scatter(
    metric: str, repeated: Groups, sentinels: Groups, lines: Pairs, runs: int = 0
) -> Scatter:
    """The scatter of a metric, from the best source that there is.

    ``repeated``: levels of one cell in several runs of one build, with the freedom that ``runs``
    leave (a run may move all of its cells alike); ``sentinels``: those of one run's sentinel;
    ``lines``: levels of base and new of every line of the table, whose ratios scatter around
    their median by chance alone if few of them changed.
    """
    for groups, most, source in (
        (repeated, float(runs), "runs of the same build"),
        (sentinels, ENDLESS, "the sentinel, measured through both runs"),
    ):
        freedom = float(sum(len(group) - 1 for group in groups))
        claimed = min(freedom, most)
        if claimed >= MIN_FREEDOM:
            return _found(metric, _pooled(groups, freedom), claimed, source)
    if len(lines) >= MIN_LINES:
        freedom = MAD_EFFICIENCY * (len(lines) - 1)
        return _found(metric, _of_table(lines), freedom, TABLE)
    return _found(metric, ASSUMED**2, ENDLESS, NOTHING)


def is_guess(found: Scatter) -> bool:
    """Whether it comes of no measurement: cells of one child move together, and a table of them
    shows less than two runs differ by."""
    return found.source in (TABLE, NOTHING)


def between(found: Scatter) -> Between:
    """As the rule takes it."""
    return Between(found.relative**2, found.freedom)


def _found(metric: str, variance: float, freedom: float, source: str) -> Scatter:
    relative = float(np.sqrt(max(0.0, variance)))
    return Scatter(metric=metric, relative=relative, freedom=freedom, source=source)


def _pooled(groups: Groups, freedom: float) -> float:
    """Variance within the groups, less what the levels' own samples give of it."""
    squares = sum(len(group) * float(np.var([level.log for level in group])) for group in groups)
    own = _own([level for group in groups for level in group])
    return squares / freedom - own + CAUTION * own * float(np.sqrt(2 / freedom))


def _of_table(lines: Pairs) -> float:
    """Half the variance of the ratios (two sides each), less what their samples give of it."""
    differences = np.array([_mean(new) - _mean(base) for base, new in lines])
    deviation = MAD_TO_SIGMA * float(np.median(np.abs(differences - np.median(differences))))
    sides = [side for line in lines for side in line]
    count = float(np.mean([1 / len(side) for side in sides]))
    return deviation**2 / (2 * count) - _own([level for side in sides for level in side])


def _own(levels: Sequence[Level]) -> float:
    known = [level.variance for level in levels if level.variance is not None]
    return float(np.mean(known)) if known else 0.0


def _mean(side: Sequence[Level]) -> float:
    return float(np.mean([level.log for level in side]))
