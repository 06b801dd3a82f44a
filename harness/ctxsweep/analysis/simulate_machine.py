"""A made-up machine for simulations: how its times scatter, wander and step.

Times come as factors around 1. A run is 24 cells (3 series at 8 contexts) and 6 sentinels spread
among them, one after the other, 30 samples each.

Drift ``wave`` has three parts: a sine of 2% through the run, 1% by which processes that do the
same come out apart, and a trend of 1% to either side of the middle inside every cell. The 1% are
drawn anew for every cell, where a real child serves a whole series: 24 chances to be off, not 3.
Drift ``step`` is a machine that is 3% slower through the whole new run, and in all that follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ctxsweep.analysis.fits import Array

Noise = Literal["normal", "heavy tails", "spikes"]
Drift = Literal["none", "wave", "step"]

SERIES, CONTEXTS, SENTINELS, SAMPLES = 3, 8, 6, 30
CELLS = SERIES * CONTEXTS
PLACES = CELLS + SENTINELS
SPIKE_SHARE, SPIKE_SIGMAS = 0.05, 5.0
WAVE, PROCESS, TREND, STEP = 0.02, 0.01, 0.01, 0.03
CYCLES = (0.5, 2.0)
"""Of the wave per run, drawn evenly between."""
SENTINEL_PLACES = np.linspace(0, PLACES - 1, SENTINELS).astype(int)
CELL_PLACES = np.setdiff1d(np.arange(PLACES), SENTINEL_PLACES)


@dataclass(frozen=True)
class Runs:
    """Many simulated runs: ``cells`` ``[R, 24, 30]``, ``sentinels`` ``[R, 6, 30]``, and each one's
    wave, so that it can go on: cycles per run and phase ``[R]``."""

    cells: Array
    sentinels: Array
    cycles: Array
    phase: Array


@dataclass(frozen=True)
class Machine:
    """``cv`` is the standard deviation of a sample, as a share, but for what spikes add."""

    noise: Noise
    cv: float
    drift: Drift

    def runs(self, count: int, rng: np.random.Generator, *, later: bool = False) -> Runs:
        """``count`` runs, each a night of its own; ``later``: after the step."""
        cycles, phase = rng.uniform(*CYCLES, count), rng.uniform(0, 2 * np.pi, count)
        at = np.arange(PLACES) / PLACES
        level = self._level(at[None, :], cycles[:, None], phase[:, None], rng)
        logs = self._samples(level, rng) + (STEP if later and self.drift == "step" else 0.0)
        factors = np.exp(logs)
        return Runs(factors[:, CELL_PLACES], factors[:, SENTINEL_PLACES], cycles, phase)

    def turns(
        self, after: Runs, which: int, shape: tuple[int, int], rng: np.random.Generator
    ) -> Array:
        """Base and new ``[2, rounds, cells, 30]`` of rounds after a run; ``shape``: rounds, cells.

        The two builds take turns at each cell, and who comes first alternates by rounds.
        """
        rounds, cells = shape
        place = PLACES + 2 * np.arange(rounds * cells).reshape(shape)
        swapped = (np.arange(rounds) % 2)[:, None]
        at = np.stack([place + swapped, place + 1 - swapped]) / PLACES
        level = self._level(at, after.cycles[which], after.phase[which], rng)
        factors: Array = np.exp(self._samples(level, rng))
        return factors

    def _level(self, at: Array, cycles: Array, phase: Array, rng: np.random.Generator) -> Array:
        """Of processes at these times (1 is a run), as logarithms."""
        if self.drift != "wave":
            return np.zeros(np.broadcast_shapes(at.shape, np.shape(cycles)))
        level: Array = WAVE * np.sin(2 * np.pi * cycles * at + phase)
        return level + PROCESS * rng.standard_normal(level.shape)

    def _samples(self, level: Array, rng: np.random.Generator) -> Array:
        """Logarithms of samples ``[..., 30]`` of processes with these levels ``[...]``."""
        logs = level[..., None] + self.cv * self._noise((*level.shape, SAMPLES), rng)
        if self.drift == "wave":
            direction = rng.choice([-1.0, 1.0], level.shape)
            logs += direction[..., None] * np.linspace(-TREND, TREND, SAMPLES)
        result: Array = logs
        return result

    def _noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        if self.noise == "heavy tails":
            heavy: Array = rng.standard_t(3, shape) / np.sqrt(3)
            return heavy
        noise = rng.standard_normal(shape)
        if self.noise == "spikes":
            noise += SPIKE_SIGMAS * (rng.random(shape) < SPIKE_SHARE)
        return noise
