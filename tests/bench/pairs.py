"""Timing two things against each other on a machine that is never quite quiet."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Thunk = Callable[[], object]


@dataclass(frozen=True)
class PairedTimes:
    """Medians of two subjects timed in turn, and the spread of their ratio round by round."""

    first_s: float
    second_s: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """``second / first``, the median over rounds: above 1 means that the first is faster."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.ratios), max(self.ratios)


def seconds(thunk: Thunk) -> float:
    start = time.perf_counter()
    thunk()
    return time.perf_counter() - start


def paired(first: Thunk, second: Thunk, rounds: int = 5, warmup: int = 1) -> PairedTimes:
    """Time both in the order ABBA, so that a drift of the machine falls on both alike."""
    for _ in range(warmup):
        first()
        second()
    times: list[tuple[float, float]] = []
    for round_ in range(rounds):
        if round_ % 2:
            b = seconds(second)
            a = seconds(first)
        else:
            a = seconds(first)
            b = seconds(second)
        times.append((a, b))
    return PairedTimes(
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
        tuple(b / a for a, b in times),
    )
