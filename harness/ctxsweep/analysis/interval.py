"""The figure that all of the analysis is made of: a value with its interval."""

from __future__ import annotations

from ctxsweep.frozen import Frozen


class Estimate(Frozen):
    """A median of ``n`` samples; ``low`` and ``high`` are None where there is no interval.

    Of a loss or a share it is a mean; then ``n`` counts blocks of targets, or trials.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 1
