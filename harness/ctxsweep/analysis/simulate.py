"""How often the verdicts are right: synthetic series through the same rule as measured ones.

``python -m ctxsweep.analysis.simulate`` prints the table of docs/measurement.md.

Series of 8 contexts, 1K to 128K, of the shapes a, a + b·n and a + b·n + c·n², with independent
relative noise on every point. What is told of the noise is itself estimated, from 16 samples a
point. The growth term that makes the class gives 25% to 99.9% of the value at the longest
context, drawn evenly on the scale of its odds.

Decidable is a property of the series and the noise, not of the outcome: the series lies at least
``DECIDABLE`` standard errors from the nearest series for which another class would be right. For
a + b·n that is the best-fitting constant, and itself plus a quadratic term of 25% at the longest.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from ctxsweep.analysis.decide import (
    CONSTANT,
    LINEAR,
    MATERIAL,
    QUADRATIC,
    REL_FLOOR,
    UNDECIDED,
    Codes,
    decide,
)
from ctxsweep.analysis.fits import Array, fit_classes, free_top, solve

CONTEXTS: Array = np.array([1024.0 * 2**octave for octave in range(8)])
SHAPES = {CONSTANT: "a", LINEAR: "a + b·n", QUADRATIC: "a + b·n + c·n²"}
NOISE = (0.0, 0.01, 0.02, 0.03, 0.05, 0.10)
SEEDS = 1000
SAMPLES = 16
DECIDABLE = 7.0


@dataclass(frozen=True)
class Row:
    """One line of the table; all figures are shares of the simulated series."""

    shape: int
    noise: float
    decidable: float
    right_of_decidable: float | None
    right: float
    undecided: float
    wrong: float
    without_intercept_right: float
    without_intercept_wrong: float


def curves(shape: int, count: int, rng: np.random.Generator) -> Array:
    """True series ``[count, 8]`` with a value of 1 at the longest context."""
    x = (CONTEXTS / CONTEXTS[-1])[None, :]
    low, high = np.log(MATERIAL / (1 - MATERIAL)), np.log(0.999 / 0.001)
    share = 1 / (1 + np.exp(-rng.uniform(low, high, (count, 1))))
    split = rng.uniform(0, 1, (count, 1))
    truth: Array = np.ones((count, len(CONTEXTS)))
    if shape == LINEAR:
        truth = (1 - share) + share * x
    elif shape == QUADRATIC:
        truth = (1 - share) * (split + (1 - split) * x) + share * x**2
    return truth


def distance(shape: int, truth: Array, noise: float) -> Array:
    """Standard errors ``[S]`` to the nearest series for which another class is right."""
    weight = 1 / (np.hypot(noise, REL_FLOOR) * truth)
    models = fit_classes(CONTEXTS, truth, weight)
    nearest = np.full(len(truth), np.inf)
    if shape > CONSTANT:
        nearest = np.sqrt(models[shape - 1].chi2)
    if shape < QUADRATIC:
        free = free_top(CONTEXTS, truth, weight, shape + 1)
        nearest = np.minimum(nearest, MATERIAL * truth[:, -1] / np.sqrt(free.top_variance))
    return nearest


def fit_without_intercept(n: Array, y: Array, rel: Array) -> Codes:
    """The best of a, b·n and c·n², each alone: what the project does not do, for comparison."""
    weight = 1 / rel
    chi2 = []
    for degree in (CONSTANT, LINEAR, QUADRATIC):
        design = ((n / n[-1]) ** degree)[None, :, None] * (weight / y)[:, :, None]
        solution, _ = solve(design, weight)
        residual = weight - np.einsum("snk,sk->sn", design, solution)
        chi2.append(np.einsum("sn,sn->s", residual, residual))
    best: Codes = np.argmin(np.stack(chi2, axis=1), axis=1)
    return best


def simulate(shape: int, noise: float, count: int = SEEDS, seed: int = 0) -> Row:
    """One line: ``count`` series of a shape, each with its own parameters and noise."""
    rng = np.random.default_rng([seed, shape, round(noise * 1e4)])
    truth = curves(shape, count, rng)
    y = truth * np.maximum(1 + noise * rng.standard_normal(truth.shape), 0.05)
    freedom = SAMPLES - 1
    rel = noise * np.sqrt(rng.chisquare(freedom, truth.shape) / freedom)
    code, _ = decide(CONTEXTS, y, rel)
    plain = fit_without_intercept(CONTEXTS, y, np.hypot(rel, REL_FLOOR))
    decidable = distance(shape, truth, noise) >= DECIDABLE
    right, undecided = code == shape, code == UNDECIDED
    return Row(
        shape=shape,
        noise=noise,
        decidable=float(decidable.mean()),
        right_of_decidable=float(right[decidable].mean()) if decidable.any() else None,
        right=float(right.mean()),
        undecided=float(undecided.mean()),
        wrong=float((~right & ~undecided).mean()),
        without_intercept_right=float((plain == shape).mean()),
        without_intercept_wrong=float((plain != shape).mean()),
    )


def table(count: int = SEEDS, seed: int = 0) -> list[Row]:
    """All shapes at all noises."""
    return [simulate(shape, noise, count, seed) for shape in SHAPES for noise in NOISE]


def markdown(rows: list[Row]) -> str:
    """The table as printed in docs/measurement.md."""
    head = (
        "| shape | noise | decidable | right of these | right of all | undecided | wrong "
        "| no intercept: right | wrong |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    lines = []
    for row in rows:
        of_these = "–" if row.right_of_decidable is None else f"{row.right_of_decidable:.1%}"
        lines.append(
            f"| {SHAPES[row.shape]} | {row.noise:.0%} | {row.decidable:.1%} | {of_these} "
            f"| {row.right:.1%} | {row.undecided:.1%} | {row.wrong:.1%} "
            f"| {row.without_intercept_right:.1%} | {row.without_intercept_wrong:.1%} |"
        )
    return head + "\n".join(lines)


def main() -> None:
    """Print the table; ``--count`` series a line, ``--seed`` of the whole."""
    parser = argparse.ArgumentParser(prog="python -m ctxsweep.analysis.simulate")
    parser.add_argument("--count", type=int, default=SEEDS, help="series per line of the table")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = table(arguments.count, arguments.seed)
    print(markdown(rows))
    quiet = [r for r in rows if r.noise <= 0.03]
    wrong = sum(round(r.wrong * arguments.count) for r in quiet)
    print(f"\nwrong at noise up to 3%: {wrong} of {len(quiet) * arguments.count} series")


if __name__ == "__main__":
    main()
