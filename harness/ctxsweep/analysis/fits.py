"""Least-squares fits of a + b·n + c·n² to many series at once.

Every function works on arrays ``y [S, N]`` of S series over the same N contexts ``n [N]``, with
``rel [S, N]``, the relative standard error of each point. Residuals are weighted by it, so 1K and
128K count alike. One real series is the case S = 1; the simulation passes thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

POWERS = 3
"""Constant, linear and quadratic term."""


@dataclass(frozen=True)
class Model:
    """One fitted class for S series; coefficients are in units of y per token to the power."""

    coefficients: Array
    """``[S, 3]``: a, b, c; a term outside the class, or held at 0 by its sign, is 0."""
    chi2: Array
    """``[S]``: weighted sum of squared residuals."""


@dataclass(frozen=True)
class Free:
    """A fit without sign constraint: the estimate and variance of its highest term."""

    top: Array
    top_variance: Array


def solve(design: Array, target: Array) -> tuple[Array, Array]:
    """Least squares for ``design [S, N, k]``, ``target [S, N]``: solution and covariance.

    Columns are scaled to unit length first: 1/f and n²/f differ by orders of magnitude.
    """
    scale = np.linalg.norm(design, axis=1, keepdims=True)
    unit = design / scale
    gram = np.linalg.inv(np.swapaxes(unit, 1, 2) @ unit)
    right = np.einsum("snk,sn->sk", unit, target)
    solution = np.einsum("skl,sl->sk", gram, right) / scale[:, 0, :]
    covariance = gram / (np.swapaxes(scale, 1, 2) * scale)
    return solution, covariance


def basis(n: Array) -> Array:
    """``[N, 3]``: 1, x, x² with x = n / max(n)."""
    x = n / n.max()
    return np.stack([np.ones_like(x), x, x**2], axis=1)


def _weighted(n: Array, weight: Array, terms: tuple[int, ...]) -> Array:
    return basis(n)[None, :, list(terms)] * weight[:, :, None]


def _constrained(n: Array, y: Array, weight: Array, subsets: tuple[tuple[int, ...], ...]) -> Model:
    """The best of the sub-models whose growth terms come out non-negative."""
    best = np.full(len(y), np.inf)
    chosen = np.zeros((len(y), POWERS))
    for terms in subsets:
        design = _weighted(n, weight, terms)
        solution, _ = solve(design, y * weight)
        residual = y * weight - np.einsum("snk,sk->sn", design, solution)
        chi2 = np.einsum("sn,sn->s", residual, residual)
        growth = [i for i, term in enumerate(terms) if term > 0]
        better = (solution[:, growth] >= 0).all(axis=1) & (chi2 < best)
        best = np.where(better, chi2, best)
        full = np.zeros_like(chosen)
        full[:, list(terms)] = solution
        chosen = np.where(better[:, None], full, chosen)
    return Model(chosen / n.max() ** np.arange(POWERS), best)


def weights(n: Array, y: Array, rel: Array) -> Array:
    """``1 / (rel · fitted)``: by the fitted value, or points that came out low would count more.

    The reference is the quadratic fit weighted by the measured values, kept within a factor of
    two of them.
    """
    design = _weighted(n, 1 / (rel * y), (0, 1, 2))
    solution, _ = solve(design, 1 / rel)
    fitted = np.einsum("nk,sk->sn", basis(n), solution)
    weight: Array = 1 / (rel * np.clip(fitted, 0.5 * y, 2 * y))
    return weight


def fit_classes(n: Array, y: Array, weight: Array) -> tuple[Model, Model, Model]:
    """``a``, ``a + b·n`` and ``a + b·n + c·n²`` with b, c ≥ 0; the intercept is free."""
    constant = _constrained(n, y, weight, ((0,),))
    linear = _constrained(n, y, weight, ((0,), (0, 1)))
    quadratic = _constrained(n, y, weight, ((0,), (0, 1), (0, 2), (0, 1, 2)))
    return constant, linear, quadratic


def free_top(n: Array, y: Array, weight: Array, degree: int) -> Free:
    """The highest term of an unconstrained polynomial of this degree, as a value at max(n)."""
    solution, covariance = solve(_weighted(n, weight, tuple(range(degree + 1))), y * weight)
    return Free(solution[:, degree], covariance[:, degree, degree])


def best_bend(n: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """The best line with one bend at a measured context: its χ² ``[S]`` and the bend ``[S]``."""
    x = n / n.max()
    chi2 = []
    for bend in x[1:-1]:
        columns = np.stack([np.ones_like(x), x, np.maximum(x - bend, 0)], axis=1)
        design = columns[None] * weight[:, :, None]
        solution, _ = solve(design, y * weight)
        residual = y * weight - np.einsum("snk,sk->sn", design, solution)
        chi2.append(np.einsum("sn,sn->s", residual, residual))
    every = np.stack(chi2, axis=1)
    best = every.argmin(axis=1)
    return every[np.arange(len(y)), best], n[1:-1][best]


def coefficient_errors(n: Array, weight: Array, terms: tuple[int, ...]) -> Array:
    """``[S, 3]``: standard errors of a, b, c (0 for absent terms) at unit dispersion."""
    design = _weighted(n, weight, terms)
    _, covariance = solve(design, np.zeros(weight.shape))
    errors = np.zeros((len(weight), POWERS))
    errors[:, list(terms)] = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    scaled: Array = errors / n.max() ** np.arange(POWERS)
    return scaled


def log_slope(n: Array, y: Array, rel: Array) -> tuple[Array, Array]:
    """Weighted log-log slope ``[S]`` and its standard error at unit dispersion.

    The slope is linear in log y, so the error is the closed form of the parametric bootstrap
    (each point redrawn from its own error) and needs no draws.
    """
    x = np.stack([np.ones_like(n), np.log(n)], axis=1)
    design = x[None] / rel[:, :, None]
    solution, covariance = solve(design, np.log(y) / rel)
    error: Array = np.sqrt(covariance[:, 1, 1])
    return solution[:, 1], error
