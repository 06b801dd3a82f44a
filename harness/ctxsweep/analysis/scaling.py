"""Verdicts: how a metric of one series grows with context, with the evidence for people.

Timings are noisy and go through the rule in ``decide``. Bytes are exact and are judged exactly:
O(1) only if the growth is 0 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctxsweep.analysis.decide import (
    CONSTANT,
    LINEAR,
    MATERIAL,
    MIN_POINTS,
    MIN_RANGE,
    QUADRATIC,
    UNDECIDED,
    Decision,
    bend_explains,
    decide,
    moderate,
    one_regime,
    term_bound,
)
from ctxsweep.analysis.estimate import Z95, relative_error
from ctxsweep.analysis.fits import Array, best_bend, coefficient_errors, log_slope
from ctxsweep.analysis.summary import Estimate, ScalingClass, Verdict
from ctxsweep.analysis.wording import context_label, quantity

CLASSES: dict[int, ScalingClass] = {
    UNDECIDED: "undecided",
    CONSTANT: "O(1)",
    LINEAR: "O(n)",
    QUADRATIC: "O(n²)",
}
SLOPE_OCTAVES = 3
MATERIAL_DRIFT = 0.05
"""Drift from which on the evidence names it."""
UNKNOWN_REL = 0.03
"""Relative error assumed where no point of a series has an interval."""
EXACT_TOLERANCE = 0.005
"""Of the range of a byte count: what pages may round."""


@dataclass(frozen=True)
class Points:
    """The measured points of one metric in one series, by ascending context."""

    series: str
    batch_size: int
    metric: str
    unit: str
    contexts: tuple[int, ...]
    values: tuple[Estimate, ...]
    censored: str = ""
    """Why there are no longer contexts: ``no points beyond 32K: oom``."""
    drift: float = 0.0
    """Relative standard deviation from cell to cell that no cell's own samples can show."""

    @property
    def n(self) -> Array:
        """Contexts ``[N]``."""
        return np.array(self.contexts, dtype=float)

    @property
    def y(self) -> Array:
        """Values ``[N]``."""
        return np.array([v.value for v in self.values], dtype=float)

    @property
    def rel(self) -> Array:
        """Relative standard errors ``[N]``, drift included; a missing one is their median."""
        errors = np.array([relative_error(v) or np.nan for v in self.values])
        typical = UNKNOWN_REL if np.isnan(errors).all() else float(np.nanmedian(errors))
        known: Array = np.where(np.isnan(errors), typical, errors)
        return np.sqrt(known**2 + self.drift**2)

    @property
    def span(self) -> str:
        """``1K to 128K``."""
        return f"{context_label(self.contexts[0])} to {context_label(self.contexts[-1])}"


def verdict(points: Points, exact: bool) -> Verdict:
    """The verdict on one metric of one series; never raises for want of points."""
    if len(points.contexts) < MIN_POINTS or points.contexts[-1] / points.contexts[0] < MIN_RANGE:
        return _too_few(points)
    if exact:
        return _exact_verdict(points)
    if not (points.y > 0).all():
        return _make(points, UNDECIDED, "a value is not positive")
    return _noisy_verdict(points)


def _noisy_verdict(points: Points) -> Verdict:
    code, start = (int(a[0]) for a in decide(points.n, points.y[None], points.rel[None]))
    rel = moderate(points.rel[None])[:, start:]
    n, y = points.n[start:], points.y[None, start:]
    regime = one_regime(n, y, rel)
    phi = float(regime.dispersion[0])
    slope, slope_from = _slope(n, y, rel * np.sqrt(phi))
    shown = LINEAR if code == UNDECIDED else code
    coefficients = _coefficients(n, regime, shown)
    level = float(regime.models[CONSTANT].coefficients[0, 0])
    rose = code == CONSTANT and start > 0 and bool((points.y[:start] < level).all())
    parts = [
        _law(coefficients, points.unit),
        f"slope {_interval(slope)} over {context_label(slope_from)} to "
        f"{context_label(points.contexts[-1])}",
        _reason(code, n, y, regime),
    ]
    if start:
        parts.append(
            f"flat from {context_label(n[0])} on"
            if rose
            else f"law of {context_label(n[0])} and longer; below it the points follow another"
        )
    if points.drift > MATERIAL_DRIFT:
        parts.append(f"the machine drifted by {points.drift:.0%} from cell to cell")
    if phi > 4:
        parts.append(f"points scatter {np.sqrt(phi):.1f} times their own intervals")
    return _make(
        points,
        code,
        "; ".join(part for part in parts if part),
        slope=slope,
        coefficients=coefficients,
        bic={CLASSES[k]: float(regime.bic[0, k]) for k in range(3)},
        flat_beyond_tokens=int(n[0]) if rose else None,
    )


def _reason(code: int, n: Array, y: Array, regime: Decision) -> str:
    """What a denial rests on, or what keeps the verdict open."""
    growth, bend = (
        max(0.0, float(term_bound(n, y, regime.weight, k, regime.dispersion)[0])) for k in (1, 2)
    )
    if code == CONSTANT:
        return f"growth over the range under {growth:.0%} of the value"
    if code == LINEAR:
        return f"a quadratic term gives under {bend:.0%} of the longest"
    if code == QUADRATIC:
        return ""
    if growth >= MATERIAL and bool(regime.bic[0].argmin() == CONSTANT):
        return f"undecided: growth of up to {growth:.0%} would hide in the noise"
    if bend_explains(n, y, regime.weight, regime.models[QUADRATIC])[0]:
        at = float(best_bend(n, y, regime.weight)[1][0])
        return f"undecided: a line with a bend at {context_label(at)} tells the points better"
    return f"undecided: a quadratic term could give up to {bend:.0%} of the longest"


def _slope(n: Array, y: Array, rel: Array) -> tuple[Estimate, float]:
    """Log-log slope over the top octaves (at least 3 points) and where they begin."""
    first = min(int(np.searchsorted(n, n[-1] / 2**SLOPE_OCTAVES)), len(n) - 3)
    value, error = log_slope(n[first:], y[:, first:], rel[:, first:])
    centre, half = float(value[0]), Z95 * float(error[0])
    estimate = Estimate(value=centre, low=centre - half, high=centre + half, n=len(n) - first)
    return estimate, float(n[first])


def _coefficients(n: Array, regime: Decision, code: int) -> dict[str, Estimate]:
    """a, b, c of the class with their 95% intervals; growth terms do not go below 0."""
    fitted = regime.models[code].coefficients[0]
    terms = tuple(k for k in range(code + 1) if k == 0 or fitted[k] > 0)
    errors = coefficient_errors(n, regime.weight, terms)[0] * np.sqrt(regime.dispersion[0])
    result = {}
    for k, name in enumerate("abc"[: code + 1]):
        low, high = fitted[k] - Z95 * errors[k], fitted[k] + Z95 * errors[k]
        floor = 0.0 if k else -np.inf
        result[name] = Estimate(
            value=float(fitted[k]), low=float(max(floor, low)), high=float(high), n=len(n)
        )
    return result


def _law(coefficients: dict[str, Estimate], unit: str) -> str:
    """``2.1 ms + 0.31 µs per token``."""
    per = {"a": "", "b": " per token", "c": " per token²"}
    terms = [(k, v.value) for k, v in coefficients.items() if v.value != 0]
    text = " + ".join(f"{quantity(v, unit)}{per[k]}" for k, v in terms)
    return text.replace("+ -", "− ").replace("-", "−")


def _interval(slope: Estimate) -> str:
    if slope.low is None or slope.high is None:
        return f"{slope.value:.2f}"
    return f"{slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]"


def _exact_verdict(points: Points) -> Verdict:
    """Bytes: flat means 0 bytes of growth, linear and quadratic mean so up to page rounding."""
    n, y = points.n, points.y
    flat_from = int(np.flatnonzero(np.append(True, y[1:] != y[:-1]))[-1])
    level = quantity(y[-1], points.unit)
    if (y == y[0]).all():
        return _make(
            points,
            CONSTANT,
            f"{level} at every context from {points.span}: growth 0 bytes",
            slope=Estimate(value=0.0),
            coefficients={"a": Estimate(value=float(y[0]))},
        )
    if 0 < flat_from < len(n) - 1 and (y[:flat_from] < y[-1]).all():
        start = int(n[flat_from])
        return _make(
            points,
            CONSTANT,
            f"{level} from {context_label(start)} on: growth 0 bytes beyond it",
            slope=Estimate(value=0.0),
            coefficients={"a": Estimate(value=float(y[-1]))},
            flat_beyond_tokens=start,
        )
    return _exact_growth(points)


def _exact_growth(points: Points) -> Verdict:
    n, y = points.n, points.y
    if not (y > 0).all():
        return _make(points, UNDECIDED, "0 bytes at some contexts and more at others")
    slope, slope_from = _slope(n, y[None], np.ones((1, len(n))))
    slope = Estimate(value=slope.value, n=slope.n)
    for degree in (LINEAR, QUADRATIC):
        solution = np.polynomial.Polynomial.fit(n, y, degree)
        off = float(np.abs(solution(n) - y).max())
        raw = [float(v) for v in solution.convert().coef]
        if off <= EXACT_TOLERANCE * float(y.max() - y.min()) and raw[-1] > 0:
            values = {k: v if abs(v) > 1e-6 else 0.0 for k, v in zip("abc", raw, strict=False)}
            coefficients = {k: Estimate(value=v) for k, v in values.items()}
            evidence = (
                f"{_law(coefficients, points.unit)}; off this line by at most "
                f"{quantity(round(off), points.unit)}; slope {slope.value:.2f} over "
                f"{context_label(slope_from)} to {context_label(points.contexts[-1])}"
            )
            return _make(points, degree, evidence, slope=slope, coefficients=coefficients)
    return _make(
        points, UNDECIDED, f"neither flat nor a line nor a parabola over {points.span}", slope=slope
    )


def _too_few(points: Points) -> Verdict:
    have = f"{len(points.contexts)} contexts"
    if points.contexts:
        have += (
            f" ({points.span})"
            if len(points.contexts) > 1
            else f" ({context_label(points.contexts[0])})"
        )
    return _make(
        points,
        UNDECIDED,
        f"{have}; a verdict needs {MIN_POINTS} over a factor of {MIN_RANGE:g}",
    )


def _make(
    points: Points,
    code: int,
    evidence: str,
    slope: Estimate | None = None,
    coefficients: dict[str, Estimate] | None = None,
    bic: dict[str, float] | None = None,
    flat_beyond_tokens: int | None = None,
) -> Verdict:
    return Verdict(
        series=points.series,
        batch_size=points.batch_size,
        metric=points.metric,
        scaling=CLASSES[code],
        slope=slope,
        coefficients=coefficients or {},
        bic=bic or {},
        points=len(points.contexts),
        flat_beyond_tokens=flat_beyond_tokens,
        evidence="; ".join(part for part in (evidence, points.censored) if part),
    )
