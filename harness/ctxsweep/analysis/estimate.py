"""From samples to a value with its interval (95%).

Intervals of medians follow order statistics, which need no assumption on the distribution
(Conover, Practical Nonparametric Statistics, 3.2); samples that come in runs count for fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binom  # type: ignore[import-untyped]

from ctxsweep.analysis.fits import Array
from ctxsweep.analysis.summary import Estimate

Flags = npt.NDArray[np.bool_]

Z95 = 1.959964
CONFIDENCE = 0.95
OUTLIER_MADS = 5.0
MAD_TO_SIGMA = 1.4826
BOOTSTRAP_DRAWS = 999


def exact(value: float) -> Estimate:
    """A figure that is read, not sampled."""
    return Estimate(value=float(value))


def inflation(samples: Array) -> float:
    """How many samples make one independent sample, from the lag-1 correlation of the ranks.

    1 for independent samples; (1 + r) / (1 − r) for a first-order process (Bartlett 1946).
    """
    if len(samples) < 8 or np.ptp(samples) == 0:
        return 1.0
    ranks = np.argsort(np.argsort(samples, kind="stable"), kind="stable").astype(float)
    centred = ranks - ranks.mean()
    r = float((centred[1:] * centred[:-1]).sum() / (centred**2).sum())
    r = min(max(r, 0.0), 0.9)
    return (1 + r) / (1 - r)


def quantile_estimate(samples: Sequence[float] | Array, q: float) -> Estimate:
    """A quantile with its order-statistic interval.

    With too few samples for 95% (fewer than 6 for the median) the interval is the range of the
    samples, which covers less.
    """
    values = np.asarray(samples, dtype=float)
    value = float(np.quantile(values, q))
    count = len(values)
    if count == 1:
        return Estimate(value=value, n=1)
    centre, widen = count * q, np.sqrt(inflation(values))
    low_rank, high_rank = binom.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], count, q)
    low = max(0, int(np.floor(centre - widen * (centre - low_rank) + 1e-9)) - 1)
    high = min(count - 1, int(np.ceil(centre + widen * (high_rank - centre) - 1e-9)))
    ordered = np.sort(values)
    return Estimate(value=value, low=float(ordered[low]), high=float(ordered[high]), n=count)


def median_estimate(samples: Sequence[float] | Array) -> Estimate:
    """The median with its order-statistic interval."""
    return quantile_estimate(samples, 0.5)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """``factor · estimate``."""
    return _mapped(estimate, lambda v: v * factor)


def reciprocal(estimate: Estimate, numerator: float) -> Estimate:
    """``numerator / estimate``; the ends of the interval change places."""
    return _mapped(estimate, lambda v: numerator / v)


def relative_error(estimate: Estimate) -> float | None:
    """The standard error that the interval implies, over the value."""
    if estimate.low is None or estimate.high is None or estimate.value <= 0:
        return None
    return (estimate.high - estimate.low) / (2 * Z95 * estimate.value)


def outliers(values: Array) -> Flags:
    """Which values lie over 5 scaled MADs (and over 5%) off their median. Flagged, never dropped.

    The 5% keep the steps of a clock's resolution from being outliers.
    """
    middle = np.median(values)
    mad = MAD_TO_SIGMA * np.median(np.abs(values - middle))
    limit = max(OUTLIER_MADS * mad, 0.05 * abs(middle))
    flags: Flags = np.abs(values - middle) > limit
    return flags


def smooth_trend(position: Array, value: Array) -> Array:
    """A quadratic in position, fitted twice: the second time without weight on far-off values."""
    degree = min(2, max(0, len(value) // 3 - 1))
    x = position / max(1.0, float(position.max()))
    design = np.vander(x, degree + 1)
    weight = np.ones_like(value)
    for _ in range(2):
        solution = np.linalg.lstsq(design * weight[:, None], value * weight, rcond=None)[0]
        fitted: Array = design @ solution
        residual = np.abs(value - fitted)
        scale = MAD_TO_SIGMA * np.median(residual)
        weight = np.where(residual > OUTLIER_MADS * scale, 1e-3, 1.0) if scale > 0 else weight
    return fitted


def total_with_block_bootstrap(position: Array, value: Array) -> Estimate:
    """The sum of one climb's chunk times with its interval.

    One climb gives one sum. Its jitter is estimated from the chunks: residuals around a smooth
    trend in position are redrawn in blocks of m^(1/3) neighbours (moving blocks, Künsch 1989),
    far-off values included, and added up again. Drift slower than a climb is not in it.
    """
    count, total = len(value), float(value.sum())
    if count < 6:
        return Estimate(value=total, n=1)
    trend = smooth_trend(position, value)
    residual = value - trend
    residual = (residual - residual.mean()) * np.sqrt(count / max(1, count - 3))
    length = max(1, round(count ** (1 / 3)))
    sums = np.convolve(residual, np.ones(length), mode="valid")
    blocks = round(count / length)
    drawn = np.random.default_rng(0).choice(sums, size=(BOOTSTRAP_DRAWS, blocks)).sum(axis=1)
    low, high = np.quantile(drawn - drawn.mean(), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=total, low=total + float(low), high=total + float(high), n=1)


def _mapped(estimate: Estimate, of: Callable[[float], float]) -> Estimate:
    ends = [of(v) for v in (estimate.low, estimate.high) if v is not None]
    low, high = (min(ends), max(ends)) if ends else (None, None)
    return Estimate(value=of(estimate.value), low=low, high=high, n=estimate.n)
