"""The rule that turns fits into O(1), O(n), O(n²) or undecided, for many series at once.

BIC proposes a class and a guard disposes. A class is a claim about the measured range, and every
claim has its own burden:

- a growth term is **claimed** only if it stands ``DETECT`` standard errors above zero;
- a growth term is **denied** only if it is within ``CONSISTENT`` standard errors of zero *and* its
  upper bound (``BOUND`` standard errors) is under ``MATERIAL`` of the value at the longest context;
- what can be neither claimed nor denied is undecided.

So O(1) says "no growth seen, and growth of a quarter would have been seen", never "too noisy to
see". Standard errors come from the samples, and are widened by the scatter of the points around
the richest fit where that is larger (drift between cells is not in the samples).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import f as f_distribution  # type: ignore[import-untyped]

from ctxsweep.analysis.fits import Array, Model, best_bend, fit_classes, free_top, weights

Codes = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

UNDECIDED = -1
CONSTANT, LINEAR, QUADRATIC = 0, 1, 2

DETECT = 4.0
CONSISTENT = 2.6
BOUND = 3.0
MATERIAL = 0.25
NEGLIGIBLE = 0.03
"""A share of growth under this is not told from the slow drift of a machine."""
NEGLIGIBLE_BEND = 0.10
"""A quadratic share under this is not told from what caches and clocks do to a line."""
MIN_POINTS = 4
MIN_RANGE = 8.0
REL_FLOOR = 0.005
"""No timing is trusted to better than this, whatever its samples say."""
PRIOR_FREEDOM = 4
P_REGIME = 5e-4
MIN_POINTS_FOR_BEND = 6
BEND_MARGIN = 10.0
"""Very strong evidence on the scale of Kass and Raftery (1995)."""


@dataclass(frozen=True)
class Decision:
    """The decision for S series over one regime, and what it rests on."""

    code: Codes
    bic: Array
    """``[S, 3]``."""
    dispersion: Array
    """``[S]``: factor on the squared errors, at least 1."""
    models: tuple[Model, Model, Model]
    weight: Array


def moderate(rel: Array) -> Array:
    """Errors of single points pulled half-way to the series' median one, and floored.

    An interval of few samples is itself noisy, and one that came out narrow by chance would
    otherwise dominate the fit.
    """
    typical = np.median(rel, axis=1, keepdims=True)
    moderated: Array = np.sqrt((rel**2 + typical**2) / 2 + REL_FLOOR**2)
    return moderated


def bic_of(models: tuple[Model, Model, Model], dispersion: Array, points: int) -> Array:
    """Schwarz's criterion with the scale known: χ²/φ + k·ln N, lower is better."""
    columns = [m.chi2 / dispersion + (k + 1) * np.log(points) for k, m in enumerate(models)]
    return np.stack(columns, axis=1)


def _signal(lower: Model, higher: Model, phi: Array) -> Array:
    """How far the lower class is from explaining the points, in standard errors."""
    signal: Array = np.sqrt(np.maximum(lower.chi2 - higher.chi2, 0) / phi)
    return signal


def term_bound(n: Array, y: Array, weight: Array, degree: int, phi: Array) -> Array:
    """Upper bound of the highest term's share of the value at the longest context."""
    free = free_top(n, y, weight, degree)
    bound: Array = (free.top + BOUND * np.sqrt(phi * free.top_variance)) / y[:, np.argmax(n)]
    return bound


def bend_explains(n: Array, y: Array, weight: Array, quadratic: Model) -> Flags:
    """Whether a line with one bend tells the points clearly better than a square.

    Decode bends where the cache of keys and values outgrows a level of the processor's cache; that
    is two lines, not O(n²). Judged by BIC with a margin, the bend's place counted as a parameter.
    """
    if len(n) < MIN_POINTS_FOR_BEND:
        return np.zeros(len(y), dtype=bool)
    chi2, _ = best_bend(n, y, weight)
    phi = np.maximum(1.0, chi2 / (len(n) - 4))
    flags: Flags = (quadratic.chi2 - chi2) / phi > np.log(len(n)) + BEND_MARGIN
    return flags


def one_regime(n: Array, y: Array, rel: Array) -> Decision:
    """Decide as if one law held over the whole range: first growth or none, then its degree."""
    weight = weights(n, y, rel)
    models = fit_classes(n, y, weight)
    constant, linear, quadratic = models
    phi = np.maximum(1.0, quadratic.chi2 / max(1, len(n) - len(models)))
    bic = bic_of(models, phi, len(n))
    proposed = bic.argmin(axis=1)
    last = y[:, np.argmax(n)]

    growth = _signal(constant, quadratic, phi)
    grown = 1 - quadratic.coefficients[:, 0] / last
    grows = (growth >= DETECT) & (grown >= NEGLIGIBLE) & (proposed > CONSTANT)
    flat = (growth <= CONSISTENT) & (term_bound(n, y, weight, LINEAR, phi) < MATERIAL)

    bend = _signal(linear, quadratic, phi)
    bent = quadratic.coefficients[:, QUADRATIC] * n.max() ** QUADRATIC / last
    bends = (bend >= DETECT) & (bent >= NEGLIGIBLE_BEND) & (proposed == QUADRATIC)
    bends &= ~bend_explains(n, y, weight, quadratic)
    straight = (bend <= CONSISTENT) & (term_bound(n, y, weight, QUADRATIC, phi) < MATERIAL)

    code = np.select(
        [flat & ~grows, grows & bends, grows & straight],
        [CONSTANT, QUADRATIC, LINEAR],
        default=UNDECIDED,
    )
    return Decision(code, bic, phi, models, weight)


def _starts(n: Array) -> list[int]:
    """Where a last regime may begin: enough points and range must be left."""
    return [s for s in range(len(n) - MIN_POINTS + 1) if n[-1] / n[s] >= MIN_RANGE]


def regime_start(n: Array, regimes: list[Decision]) -> Codes:
    """Index of the first point of the law that holds at the long end, for each series.

    0 unless no law of the three fits the whole range: F test of the points before the start set
    free against one law for all, with ``PRIOR_FREEDOM`` degrees of freedom for the samples' own
    errors, so that neither errors stated too small nor a lucky short end carries it.
    """
    whole = regimes[0].models[QUADRATIC].chi2
    p_values = np.ones((len(whole), len(regimes)))
    for s, regime in enumerate(regimes[1:], start=1):
        chi2 = regime.models[QUADRATIC].chi2
        freedom = PRIOR_FREEDOM + len(n) - s - len(regime.models)
        ratio = (whole - chi2) / s / ((PRIOR_FREEDOM + chi2) / freedom)
        p_values[:, s] = f_distribution.sf(ratio, s, freedom)
    best = p_values.argmin(axis=1)
    accepted = p_values[np.arange(len(best)), best] < P_REGIME
    start: Codes = np.where(accepted, best, 0)
    return start


def decide(n: Array, y: Array, rel: Array) -> tuple[Codes, Codes]:
    """Class and start of its regime, each ``[S]``, for ``y [S, N]`` over ascending ``n [N]``.

    ``rel [S, N]`` holds the relative standard error of each point. A start above 0 means that
    the class is that of the long end, from ``n[start]`` on.

    Raises:
        ValueError: fewer than ``MIN_POINTS`` contexts, a range under ``MIN_RANGE``, or values
            that are not positive.
    """
    if len(n) < MIN_POINTS or n[-1] / n[0] < MIN_RANGE:
        raise ValueError(f"needs {MIN_POINTS} contexts over a factor of {MIN_RANGE:g}, got {n}")
    if not (y > 0).all():
        raise ValueError("values must be positive")
    rel = moderate(rel)
    regimes = [one_regime(n[s:], y[:, s:], rel[:, s:]) for s in _starts(n)]
    start = regime_start(n, regimes)
    codes = np.stack([regime.code for regime in regimes], axis=1)
    return codes[np.arange(len(y)), start], start
