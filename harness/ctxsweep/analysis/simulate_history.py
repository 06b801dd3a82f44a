"""How often the trend is right: synthetic histories through the same detection as measured ones.

``python -m ctxsweep.analysis.simulate_history`` prints the table of the docs.

Every history is one metric over 60 nights. Its noise is normal, or has heavy tails (Student's t
with 3 degrees of freedom), or wanders: every night half like the last one (first-order process,
r = 0.5), as on a machine with good and bad weeks; each scaled to the coefficient of variation.
In it lies nothing, or one step at a random night from 10 to 50, or a slow drift: 10% in a straight
line over 20 nights.

Found: a point within ±1 night of the step, or within the nights of the drift. Missed: no point
within ±5 nights. False: a point that is further off than that.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import numpy as np

from ctxsweep.analysis.change_points import change_points
from ctxsweep.analysis.fits import Array

Noise = Literal["normal", "heavy tails", "wandering"]
NOISES: tuple[Noise, ...] = get_args(Noise)
NIGHTS = 60
CVS = (0.01, 0.02, 0.03, 0.05)
STEPS = (0.03, 0.05, 0.10)
DRIFT, DRIFT_NIGHTS = 0.10, 20
NEAR, FAR = 1, 5
COUNT = 400
_TIMES = [datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=night) for night in range(NIGHTS)]
_COMMITS = [f"{night:040x}" for night in range(NIGHTS)]


@dataclass(frozen=True)
class Rate:
    """Of histories with one planted change: shares, and false points per 1000 histories."""

    found: float
    missed: float
    false_per_1000: float


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    noise: Noise
    cv: float
    false_per_1000: float
    steps: dict[float, Rate]
    drift: Rate


def noise_of(kind: Noise, cv: float, rng: np.random.Generator) -> Array:
    """Factors ``[NIGHTS]`` around 1."""
    if kind == "heavy tails":
        z = rng.standard_t(3, NIGHTS) / np.sqrt(3)
    else:
        z = rng.standard_normal(NIGHTS)
    if kind == "wandering":
        for night in range(1, NIGHTS):
            z[night] = 0.5 * z[night - 1] + np.sqrt(0.75) * z[night]
    factors: Array = np.exp(cv * z)
    return factors


def detected(values: Array) -> list[int]:
    """The nights that the detection names."""
    return [point.index for point in change_points(values.tolist(), _TIMES, _COMMITS)]


def flat(kind: Noise, cv: float, count: int, rng: np.random.Generator) -> float:
    """False points per 1000 histories in which nothing happens."""
    return sum(len(detected(noise_of(kind, cv, rng))) for _ in range(count)) / count * 1000


def step(kind: Noise, cv: float, size: float, count: int, rng: np.random.Generator) -> Rate:
    """Histories with one step up or down."""
    ramps = []
    for _ in range(count):
        first = int(rng.integers(10, NIGHTS - 9))
        ramps.append((first, first, rng.choice([size, -size])))
    return _rate(kind, cv, ramps, rng)


def drift(kind: Noise, cv: float, count: int, rng: np.random.Generator) -> Rate:
    """Histories with a slow drift up."""
    starts = rng.integers(10, NIGHTS - DRIFT_NIGHTS - 9, count)
    return _rate(kind, cv, [(int(s), int(s) + DRIFT_NIGHTS, DRIFT) for s in starts], rng)


def _rate(
    kind: Noise, cv: float, ramps: list[tuple[int, int, float]], rng: np.random.Generator
) -> Rate:
    """``ramps``: first night, night of the full change, relative change."""
    found = missed = false = 0
    for first, last, size in ramps:
        grown = np.clip((np.arange(NIGHTS) - first + 1) / (last - first + 1), 0, 1)
        points = detected(noise_of(kind, cv, rng) * (1 + size * grown))
        found += any(first - NEAR <= p <= last + NEAR for p in points)
        near = [p for p in points if first - FAR <= p <= last + FAR]
        missed += not near
        false += len(points) - len(near)
    return Rate(found / len(ramps), missed / len(ramps), false / len(ramps) * 1000)


def simulate(kind: Noise, cv: float, count: int = COUNT, seed: int = 0) -> Row:
    """One line: ``count`` histories a figure, each with its own noise."""
    rng = np.random.default_rng([seed, NOISES.index(kind), round(cv * 1e4)])
    return Row(
        noise=kind,
        cv=cv,
        false_per_1000=flat(kind, cv, count, rng),
        steps={size: step(kind, cv, size, count, rng) for size in STEPS},
        drift=drift(kind, cv, count, rng),
    )


def table(count: int = COUNT, seed: int = 0) -> list[Row]:
    """All kinds of noise at all sizes."""
    return [simulate(kind, cv, count, seed) for kind in NOISES for cv in CVS]


def markdown(rows: list[Row]) -> str:
    """The table as printed in the docs."""
    titles = ["noise", "CV", "flat: false per 1000"]
    titles += [f"step {size:.0%}: found ±1 / missed / false per 1000" for size in STEPS]
    titles += [f"drift {DRIFT:.0%} in {DRIFT_NIGHTS} nights: found / missed / false per 1000"]
    lines = [titles, ["---"] * len(titles)]
    for row in rows:
        rates = [*row.steps.values(), row.drift]
        lines.append(
            [row.noise, f"{row.cv:.0%}", f"{row.false_per_1000:.0f}"]
            + [f"{r.found:.0%} / {r.missed:.0%} / {r.false_per_1000:.0f}" for r in rates]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the table; ``--count`` histories a figure, ``--seed`` of the whole."""
    parser = argparse.ArgumentParser(prog="python -m ctxsweep.analysis.simulate_history")
    parser.add_argument("--count", type=int, default=COUNT, help="histories per figure")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(markdown(table(arguments.count, arguments.seed)))


if __name__ == "__main__":
    main()
