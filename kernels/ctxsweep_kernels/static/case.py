"""What the static bench judges: one kernel in one configuration.

A folder's `cases.py` holds `CASES`, a tuple of these; `static/table.py` names the folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ctxsweep_kernels.launch import Launch

Unit = Literal["score", "KiB", "update"]


@dataclass(frozen=True)
class Work:
    """What a program (a thread block) of a launch does.

    unit: `score` (one query with one key), `KiB` (of cache or state that must be moved to or from
        memory: only this unit is bound by bytes) or `update` (one state value past one token).
    per_iteration: units of one iteration of each loop, in the order of `Case.loops`.
    trips: iterations of each loop that a typical program makes.
    flops_per_iteration: matrix FLOPs of one iteration of the source's loop, all warps, by which
        unrolling is seen; 0 where there are none.
    loaded_per_iteration: bytes that the loads of one iteration ask for, all threads together, by
        which unrolling is seen where there is no matrix work; 0: not unrolled.
    units_outside_loops: units that straight-line code does, for kernels without a loop.
    """

    unit: Unit
    per_iteration: tuple[float, ...]
    trips: tuple[float, ...]
    flops_per_iteration: float = 0.0
    units_outside_loops: float = 0.0
    loaded_per_iteration: float = 0.0

    @property
    def units(self) -> float:
        """Units of work of one program."""
        in_loops = sum(a * b for a, b in zip(self.per_iteration, self.trips, strict=True))
        return in_loops + self.units_outside_loops


@dataclass(frozen=True)
class Trace:
    """A small call whose traffic is counted in the interpreter.

    launches: what one call launches, in order, with tensors on the CPU that hold valid values.
    minimum: the least bytes that any kernel must move (load + store) for this call, by the name
        of the tensor argument. Tensors that are not named need not be touched at all: work
        buffers, such as partial results of a split, count as overhead.
    dots: the least number of `tl.dot` calls over the whole grid, for the exact block bounds of
        attention (a tile that is wholly masked is one too many); None: not counted.
    """

    launches: list[Launch]
    minimum: Mapping[str, int]
    dots: int | None = None


@dataclass(frozen=True)
class Case:
    """A kernel in the configuration of a real model.

    name: `window_prefill/bf16-d128-w4096`, unique.
    plan: from an architecture to the launches of one call, with tensors on `meta`.
    loops: names of the innermost loops in the order of the machine code; the longest-running
        one is the steady state, named `steady`.
    work: what one program of the first launch does.
    trace: a small call of the same kernel, for its traffic; it is called in a process with
        TRITON_INTERPRET=1 and may make tensors of a few MiB (the interpreter is slow).
    goal: the figure that the case is held to, such as `{"per_unit": 0.22}`; shown, not enforced.
        Keys: `per_unit` (warp instructions, average over a program), `traffic` (bytes moved over
        the minimum), `unique` (the same with each byte once: what caches leave to memory),
        `masked` (the dearest other loop's cost over the steady one's).
    """

    name: str
    plan: Callable[[str], list[Launch]]
    loops: tuple[str, ...]
    work: Callable[[Launch], Work]
    trace: Callable[[], Trace] | None = None
    goal: Mapping[str, float] = field(default_factory=dict)
