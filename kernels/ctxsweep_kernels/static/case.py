"""What the static bench judges: one kernel in one configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ctxsweep_kernels.launch import Launch

Unit = Literal["score", "KiB"]


@dataclass(frozen=True)
class Work:
    """What a program (a thread block) of a launch does.

    unit: `score` (one query with one key) or `KiB` (of cache or state that must be moved).
    per_iteration: units of one iteration of each loop, in the order of `Case.loops`.
    trips: iterations of each loop that a typical program makes.
    flops_per_iteration: matrix FLOPs of one iteration of the source's loop, all warps, by which
        unrolling is seen; 0 where there are none (then bytes per iteration decide).
    """

    unit: Unit
    per_iteration: tuple[float, ...]
    trips: tuple[float, ...]
    flops_per_iteration: float = 0.0

    @property
    def units(self) -> float:
        return sum(a * b for a, b in zip(self.per_iteration, self.trips, strict=True))


@dataclass(frozen=True)
class Case:
    """A kernel in the configuration of a real model.

    name: `window_prefill/bf16-d128-w4096`, unique.
    plan: from an architecture to the launches of one call, with tensors on `meta`.
    loops: names of the innermost loops in the order of the machine code; the longest-running
        one is the steady state, named `steady`.
    work: what one program of the first launch does.
    """

    name: str
    plan: Callable[[str], list[Launch]]
    loops: tuple[str, ...]
    work: Callable[[Launch], Work]
