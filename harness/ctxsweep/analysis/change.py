"""The rule that calls a figure FAST, SLOW, SAME or AMBG, for a whole table at once.

A figure of a process is a **level**: where its samples lie (the pseudo-median of their logarithms,
Hodges and Lehmann 1963), and how sure they are of it. Two levels give a ratio. Its standard error
adds what the samples show to what they cannot: two processes that do the same come out apart
(placement in memory, the machine's mood), and that **scatter** comes from repetitions, from the
sentinel, or from the table itself.

SLOW needs both: the ratio is significantly above 1 with the whole table in view (Benjamini and
Hochberg 1995, one-sided, at the alarm rate), and it exceeds the threshold. That holds against noise
and scatter within the runs. A machine that is slower throughout one of them is seen by its ceilings
alone, if at all: what settles an alarm is measuring again, both builds in turn (``recheck.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student_t  # type: ignore[import-untyped]

from ctxsweep.analysis.comparison import Outcome
from ctxsweep.analysis.estimate import Z95, inflation
from ctxsweep.analysis.fits import Array
from ctxsweep.analysis.interval import Estimate

MAX_SAMPLES = 200
"""More are thinned to as many of their quantiles: pairs grow with the square."""
MIN_SIGNED_RANK = 6
ENDLESS = 1e6
"""Degrees of freedom of what is taken as known."""


@dataclass(frozen=True)
class Level:
    """One process's figure on the scale of logarithms. ``variance`` None: it has no interval."""

    log: float
    variance: float | None = None
    freedom: float = ENDLESS
    n: int = 1


@dataclass(frozen=True)
class Between:
    """Variance of a level beyond its own samples, with the freedom that it was found with."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Contrast:
    """New minus base on the scale of logarithms; the standard error has a t distribution."""

    difference: float
    error: float
    freedom: float

    @property
    def ratio(self) -> Estimate:
        """New over base with its 95% interval."""
        half = float(student_t.ppf(0.975, self.freedom)) * self.error
        low, high = np.exp(self.difference - half), np.exp(self.difference + half)
        return Estimate(value=float(np.exp(self.difference)), low=float(low), high=float(high))

    @property
    def p_worse(self) -> float:
        """One-sided: how likely a difference this large is if nothing got worse."""
        return self._tail(self.difference)

    @property
    def p_better(self) -> float:
        """The same of the other side."""
        return self._tail(-self.difference)

    def _tail(self, difference: float) -> float:
        if self.error == 0:
            return 0.0 if difference > 0 else 1.0
        return float(student_t.sf(difference / self.error, self.freedom))


def level_of_samples(samples: Sequence[float] | Array) -> Level:
    """The level of positive samples ``[n]`` in the order in which they were taken.

    The error is that of the signed-rank interval, widened where samples come in runs; of fewer
    than ``MIN_SIGNED_RANK`` samples that of their standard deviation.
    """
    logs = np.log(np.asarray(samples, dtype=float))
    count = len(logs)
    if count == 1:
        return Level(float(logs[0]))
    widen = inflation(logs)
    if count < MIN_SIGNED_RANK:
        return Level(float(np.median(logs)), float(logs.var(ddof=1)) / count, count - 1, count)
    kept = logs if count <= MAX_SAMPLES else np.quantile(logs, np.linspace(0, 1, MAX_SAMPLES))
    means = _pair_means(kept)
    m = len(kept)
    middle, deviation = m * (m + 1) / 4, np.sqrt(m * (m + 1) * (2 * m + 1) / 24)
    rank = max(0, int(np.floor(middle - Z95 * deviation)))
    width = (means[-1 - rank] - means[rank]) * np.sqrt(m / count)
    variance = (width / (2 * Z95)) ** 2 * widen
    return Level(float(np.median(means)), float(variance), (count - 1) / widen, count)


def level_of_estimate(estimate: Estimate) -> Level | None:
    """The level of a positive value with its interval; None of one that is not positive."""
    if estimate.value <= 0 or (estimate.low is not None and estimate.low <= 0):
        return None
    if estimate.low is None or estimate.high is None:
        return Level(float(np.log(estimate.value)), n=estimate.n)
    error = float(np.log(estimate.high / estimate.low)) / (2 * Z95)
    freedom = max(2.0, estimate.n - 1.0)
    return Level(float(np.log(estimate.value)), error**2, freedom, estimate.n)


def contrast(base: Sequence[Level], new: Sequence[Level], between: Between | None) -> Contrast:
    """What the processes of one side say beside those of the other.

    Each side's figure is the mean of its levels. Freedom after Satterthwaite (1946).
    """
    parts = []
    for side in (base, new):
        known = [(level.variance, level.freedom) for level in side if level.variance is not None]
        parts += [(variance / len(side) ** 2, freedom) for variance, freedom in known]
    if between is not None:  # one estimate for both sides
        sides = 1 / len(base) + 1 / len(new)
        parts.append((between.variance * sides, between.freedom))
    total = sum(variance for variance, _ in parts)
    squares = sum(variance**2 / freedom for variance, freedom in parts)
    return Contrast(
        difference=_mean(new) - _mean(base),
        error=float(np.sqrt(total)),
        freedom=total**2 / squares if squares > 0 else ENDLESS,
    )


def paired_contrast(differences: Sequence[float] | Array) -> Contrast:
    """The same from rounds that measured both sides in turn: what drifts falls on both."""
    rounds = np.asarray(differences, dtype=float)
    error = float(rounds.std(ddof=1) / np.sqrt(len(rounds)))
    return Contrast(float(rounds.mean()), error, len(rounds) - 1)


def judge(
    contrasts: Sequence[Contrast | None],
    thresholds: Sequence[float],
    alarm_rate: float,
    shifts: Sequence[float] | None = None,
) -> list[Outcome]:
    """One outcome for every line of a table; None is a line without an error: AMBG.

    ``shifts`` are what the machine itself changed by, as logarithms: a difference is judged by
    what goes beyond.
    """
    moved = shifts or [0.0] * len(contrasts)
    pairs = list(zip(contrasts, moved, strict=True))
    worse = [c and replace(c, difference=c.difference - max(0.0, shift)) for c, shift in pairs]
    better = [c and replace(c, difference=c.difference - min(0.0, shift)) for c, shift in pairs]
    is_worse = significant([c.p_worse if c else 1.0 for c in worse], alarm_rate)
    is_better = significant([c.p_better if c else 1.0 for c in better], alarm_rate)
    outcomes: list[Outcome] = []
    for i, limit in enumerate(np.log1p(np.asarray(thresholds, dtype=float))):
        above, below, plain = worse[i], better[i], contrasts[i]
        if above is None or below is None or plain is None:
            outcomes.append("AMBG")
        elif is_worse[i] and above.difference > limit:
            outcomes.append("SLOW")
        elif is_better[i] and below.difference < -limit:
            outcomes.append("FAST")
        else:
            outcomes.append("SAME" if _within(plain, float(limit)) else "AMBG")
    return outcomes


def significant(p_values: Sequence[float], rate: float) -> list[bool]:
    """Which hypotheses fall at a false discovery rate (Benjamini and Hochberg 1995)."""
    p = np.asarray(p_values, dtype=float)
    if not len(p):
        return []
    ordered = np.sort(p)
    passing = ordered <= rate * np.arange(1, len(p) + 1) / len(p)
    limit = ordered[np.flatnonzero(passing)[-1]] if passing.any() else -1.0
    return [bool(value <= limit) for value in p]


def is_suspect(
    found: Contrast | None, threshold: float, outcome: Outcome, shift: float = 0.0
) -> bool:
    """Whether a line is worth measuring again: an alarm, or what may be one in the noise.

    On a machine that became faster (``shift`` below 0) also what did not become so.
    """
    if found is None or outcome not in ("SLOW", "AMBG"):
        return False
    return bool(found.difference - min(0.0, shift) > np.log1p(threshold))


def _within(found: Contrast, limit: float) -> bool:
    half = float(student_t.ppf(0.975, found.freedom)) * found.error
    return abs(found.difference) + half < limit


def _mean(side: Sequence[Level]) -> float:
    return float(np.mean([level.log for level in side]))


def _pair_means(values: Array) -> Array:
    """All means of two (Walsh averages), each value with itself too, in order: ``[m(m+1)/2]``."""
    first, second = np.triu_indices(len(values))
    means: Array = np.sort((values[first] + values[second]) / 2)
    return means
