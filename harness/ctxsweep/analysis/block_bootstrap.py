"""The mean of a series of neighbours that resemble each other, with its interval.

Circular block bootstrap (Politis and Romano 1992; moving blocks, Künsch 1989): whole runs of
neighbours are redrawn, so that what neighbours share stays in the spread. Few blocks make its
spread too small; it is widened as Student's t is for as many values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm  # type: ignore[import-untyped]
from scipy.stats import t as student_t

from ctxsweep.analysis.fits import Array
from ctxsweep.analysis.interval import Estimate

DRAWS = 2000
CONFIDENCE = 0.95
MIN_BLOCKS = 8
MIN_VALUES = 4


@dataclass(frozen=True)
class Mean:
    """A mean with its 95% interval and its standard error."""

    estimate: Estimate
    standard_error: float | None = None


def block_length(count: int, stretches: int, wanted: int) -> int:
    """Values in a block: ``wanted`` or the cube root of a stretch, but at least 8 blocks in all."""
    longest = max(1, count * stretches // MIN_BLOCKS)
    return min(max(wanted, round(float(np.cbrt(count)))), longest, max(1, count // 2))


def mean_of(values: Array, wanted_length: int = 1) -> Mean:
    """The mean of ``values`` [stretches, neighbours]; blocks never reach from one stretch into
    another. Fewer than 4 values have no interval. The same values give the same interval.
    """
    stretches, count = values.shape
    value = float(values.mean())
    if values.size < MIN_VALUES:
        return Mean(Estimate(value=value, n=values.size))
    if np.ptp(values) == 0:
        return Mean(Estimate(value=value, low=value, high=value, n=values.size), 0.0)
    length = block_length(count, stretches, wanted_length)
    round_ = np.concatenate([values, values[:, : length - 1]], axis=1)
    sums = np.lib.stride_tricks.sliding_window_view(round_, length, axis=1).sum(axis=2).ravel()
    blocks = -(-values.size // length)
    rng = np.random.default_rng(0)
    means = rng.choice(sums, size=(DRAWS, blocks)).sum(axis=1) / (blocks * length)
    tail = (1 - CONFIDENCE) / 2
    error = np.sqrt(blocks / (blocks - 1))
    wider = error * student_t.ppf(1 - tail, blocks - 1) / norm.ppf(1 - tail)
    low, high = np.quantile(means - means.mean(), [tail, 1 - tail]) * wider
    estimate = Estimate(value=value, low=value + low, high=value + high, n=values.size)
    return Mean(estimate, float(means.std() * error))
