"""Where two series cost the same.

Curves run through the measured points, between them monotone cubic in log-log (Fritsch and
Carlson 1980), so that nothing is fitted that was not measured. The interval comes from redrawing
every point from its own error.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy.interpolate import PchipInterpolator  # type: ignore[import-untyped]

from ctxsweep.analysis.decide import Codes, moderate
from ctxsweep.analysis.estimate import CONFIDENCE
from ctxsweep.analysis.fits import Array
from ctxsweep.analysis.scaling import Points
from ctxsweep.analysis.summary import Crossover, Estimate
from ctxsweep.analysis.wording import context_label

DRAWS = 400
STEPS_PER_POINT = 48
EXACT_REL = 1e-12
CLEAR = 3.0
"""Standard errors at which one series is clearly the cheaper; 2 would find crossings by chance."""


def crossover(first: Points, second: Points, exact: bool = False) -> Crossover | None:
    """Where the two curves meet within their common range; None under two common contexts.

    A crossing counts if one series is clearly cheaper at a measured context before it and the
    other at one after it. Of several the last is given: it decides which is cheaper for long.
    """
    common = sorted(set(first.contexts) & set(second.contexts))
    if len(common) < 2:
        return None
    n = np.array(common, dtype=float)
    gap, error = _log_gap(first, second, common, exact)
    sign = np.where(np.abs(gap) > CLEAR * error, np.sign(gap), 0).astype(int)
    clear = np.flatnonzero(sign)
    changes = [(i, j) for i, j in pairwise(clear) if sign[i] != sign[j]]
    if not changes:
        return _apart(first, second, n, gap, sign)
    before, after = changes[-1]
    at = _location(n, gap, error, int(before), int(after), exact)
    below, above = (first, second) if sign[before] < 0 else (second, first)
    return Crossover(
        metric=first.metric,
        first=first.series,
        second=second.series,
        batch_size=first.batch_size,
        context_tokens=at,
        cheaper_below=below.series,
        cheaper_above=above.series,
        between_tokens=(int(n[before]), int(n[after])),
        evidence=_crossing_text(below, above, at, len(changes)),
    )


def _log_gap(first: Points, second: Points, common: list[int], exact: bool) -> tuple[Array, Array]:
    """``ln(first / second)`` at the common contexts and its standard error."""
    a, b = (np.array([p.contexts.index(c) for c in common]) for p in (first, second))
    gap = np.log(first.y[a] / second.y[b])
    if exact:
        return gap, np.full(len(common), EXACT_REL)
    errors = [moderate(p.rel[None])[0, at] for p, at in ((first, a), (second, b))]
    return gap, np.hypot(*errors)


def _location(n: Array, gap: Array, error: Array, before: int, after: int, exact: bool) -> Estimate:
    """The last change of sign between two contexts, over redrawn curves."""
    draws = 1 if exact else DRAWS
    noise = np.random.default_rng(0).standard_normal((draws, len(n))) * error
    noise[0] = 0
    log_n = np.log(n)
    steps = (after - before) * STEPS_PER_POINT + 1
    grid = np.linspace(log_n[before], log_n[after], steps)
    start = np.sign(gap[before])
    curves: Array = PchipInterpolator(log_n, gap + noise, axis=1)(grid) * start
    crossed = (curves[:, :-1] > 0) & (curves[:, 1:] <= 0)
    some = crossed.any(axis=1)
    last = crossed.shape[1] - 1 - np.argmax(crossed[:, ::-1], axis=1)
    rows = np.arange(draws)
    left, right = curves[rows, last], curves[rows, last + 1]
    part = np.where(some, left / np.where(some, left - right, 1), 0)
    where = np.exp(grid[last] + part * (grid[1] - grid[0]))[some]
    value = float(where[0])
    if exact:
        return Estimate(value=value)
    low, high = np.quantile(where, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=value, low=float(low), high=float(high), n=after - before + 1)


def _crossing_text(below: Points, above: Points, at: Estimate, count: int) -> str:
    where = context_label(round(at.value))
    if at.low is not None and at.high is not None:
        where += f" [{context_label(round(at.low))}, {context_label(round(at.high))}]"
    text = f"{below.series} is cheaper below {where}, {above.series} above"
    return text if count == 1 else f"{text}; the last of {count} crossings"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _apart(first: Points, second: Points, n: Array, gap: Array, sign: Codes) -> Crossover:
    """No crossing: one is cheaper throughout, or they cannot be told apart."""
    span = f"{context_label(n[0])} to {context_label(n[-1])}"
    cheaper: str | None = None
    if not sign.any():
        evidence = f"no crossing in range: not to be told apart from {span}"
    else:
        negative = bool(sign[np.flatnonzero(sign)[0]] < 0)
        cheaper = (first if negative else second).series
        ratio = np.exp(np.abs(gap))
        low, high = float(ratio[sign != 0].min()), float(ratio.max())
        factor = " to ".join(dict.fromkeys(_times(v) for v in (low, high)))
        evidence = f"no crossing in range: {cheaper} is cheaper by {factor} times from {span}"
        if (sign == 0).any():
            close = [context_label(c) for c in n[sign == 0]]
            evidence += f", too close to tell at {', '.join(close)}"
    return Crossover(
        metric=first.metric,
        first=first.series,
        second=second.series,
        batch_size=first.batch_size,
        context_tokens=None,
        cheaper_below=cheaper,
        cheaper_above=cheaper,
        clear_from_tokens=_clear_from(n, sign),
        evidence=evidence,
    )


def _clear_from(n: Array, sign: Codes) -> int | None:
    """The first context from which on one is clearly the cheaper, if it is not so throughout."""
    open_ = np.flatnonzero(sign == 0)
    if len(open_) == 0 or open_[-1] == len(n) - 1:
        return None
    return int(n[open_[-1] + 1])


def all_crossovers(curves: list[Points], is_exact: Callable[[str], bool]) -> tuple[Crossover, ...]:
    """Every pair of series of the same metric and batch size."""
    found = []
    for i, first in enumerate(curves):
        for second in curves[i + 1 :]:
            if (first.metric, first.batch_size) != (second.metric, second.batch_size):
                continue
            crossing = crossover(first, second, is_exact(first.metric))
            if crossing is not None:
                found.append(crossing)
    return tuple(found)
