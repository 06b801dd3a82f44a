"""The nearest value of one need that suffices, by halving and doubling, then by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ctxsweep.planning.advice.assess import Assessment

HALVINGS = 6
REFINEMENTS = 4
Probe = Callable[[dict[str, Any]], Assessment | None]
"""A candidate that meets the needs with these changes; None where none does."""


def most_that(asked: int, probe: Probe, key: str) -> int | None:
    """The largest value below ``asked`` that suffices, to 1/16 of itself; None if nothing down to
    1/64 of it does."""
    low = asked
    for _ in range(HALVINGS):
        high, low = low, low // 2
        if low < 1:
            return None
        if probe({key: low}) is not None:
            break
    else:
        return None
    for _ in range(REFINEMENTS):
        middle = (low + high) // 2
        low, high = (middle, high) if probe({key: middle}) is not None else (low, middle)
    return low


def least_that(asked: float, probe: Probe, key: str, factor: float) -> float | None:
    """The smallest value above ``asked`` that suffices, to 5%; None if nothing up to 64 times it
    does."""
    high = asked
    for _ in range(HALVINGS):
        low, high = high, high * factor
        if probe({key: high}) is not None:
            break
    else:
        return None
    for _ in range(REFINEMENTS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if probe({key: middle}) is not None else (middle, high)
    return high


def round_up(value: float) -> float:
    """Two digits, upwards."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / step) * step
