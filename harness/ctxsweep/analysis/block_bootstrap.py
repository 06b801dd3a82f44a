"""The mean of a series of neighbours that resemble each other, with its interval.

Circular block bootstrap (Politis and Romano 1992; moving blocks, Künsch 1989): whole runs of
neighbours are redrawn, so that what neighbours share stays in the spread. How long a run must be
is read from the values (Politis and White 2004, as corrected in 2009). Few blocks make the spread
too small; it is widened as Student's t is for as many values.
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
SIGNIFICANT = 2.0


@dataclass(frozen=True)
class Mean:
    """A mean with its 95% interval and its standard error."""

    estimate: Estimate
    standard_error: float | None = None


def block_length(values: Array, least: int) -> int:
    """Values in a block: what their autocorrelation asks for and ``least``, but 8 blocks in all.

    Of 8 stretches or more each is a block, for in short ones no autocorrelation can be read.
    """
    if len(values) >= MIN_BLOCKS or values.shape[1] < 2:
        return int(values.shape[1])
    most = max(1, min(values.size // MIN_BLOCKS, values.shape[1]))
    return int(min(max(least, _asked_length(values)), most))


def _asked_length(values: Array) -> int:
    """The length of Politis and White for the circular bootstrap, stretches pooled."""
    count = values.shape[1]
    centred = values - values.mean()
    lags = range(min(count - 1, int(np.sqrt(count)) + 5))
    covariance = np.array(
        [(centred[:, lag:] * centred[:, : count - lag]).sum() / values.size for lag in lags]
    )
    small = SIGNIFICANT * np.sqrt(np.log10(values.size) / values.size)
    beyond = np.abs(covariance / covariance[0]) < small
    run = max(5, int(np.sqrt(np.log10(values.size))))
    first = next((m for m in lags if m and beyond[m : m + run].all()), len(lags) - 1)
    bandwidth = 2 * max(1, first - 1)
    lag = np.arange(1, min(bandwidth, len(lags) - 1) + 1)
    weight = np.clip(2 * (1 - lag / bandwidth), 0, 1)
    spectrum = covariance[0] + 2 * (weight * covariance[lag]).sum()
    slope = 2 * (weight * lag * covariance[lag]).sum()
    if spectrum <= 0:
        return 1
    return max(1, round(float(np.cbrt(1.5 * values.size * (slope / spectrum) ** 2))))


def block_sums(values: Array, length: int) -> Array:
    """Sums of all runs of ``length`` neighbours; the end of a stretch leads to its own start."""
    circle = np.concatenate([values, values[:, : length - 1]], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(circle, length, axis=1)
    return np.asarray(windows.sum(axis=2).ravel())


def mean_of(values: Array, least_length: int = 1) -> Mean:
    """The mean of ``values`` [stretches, neighbours]; blocks never reach from one stretch into
    another. Fewer than 4 values have no interval. The same values give the same interval.
    """
    value = float(values.mean())
    if values.size < MIN_VALUES:
        return Mean(Estimate(value=value, n=values.size))
    if np.ptp(values) == 0:
        return Mean(Estimate(value=value, low=value, high=value, n=values.size), 0.0)
    length = block_length(values, least_length)
    sums = block_sums(values, length)
    blocks = -(-values.size // length)
    rng = np.random.default_rng(0)
    means = rng.choice(sums, size=(DRAWS, blocks)).sum(axis=1) / (blocks * length)
    tail = (1 - CONFIDENCE) / 2
    error = np.sqrt(blocks / (blocks - 1))
    wider = error * student_t.ppf(1 - tail, blocks - 1) / norm.ppf(1 - tail)
    low, high = np.quantile(means - means.mean(), [tail, 1 - tail]) * wider
    estimate = Estimate(value=value, low=value + low, high=value + high, n=values.size)
    return Mean(estimate, float(means.std() * error))
