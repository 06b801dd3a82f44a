"""Time one call: wall clock and CPU time of the process side by side, device time on CUDA."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Timing:
    """Wall clock, CPU time of all threads of the process, and time on the device's stream."""

    wall_s: float
    cpu_s: float
    device_s: float | None = None


class Clock(Protocol):
    """What a procedure needs of time; a test scripts it."""

    def now(self) -> float:
        """Seconds, monotonic, from an arbitrary start."""

    def time(self, call: Callable[[], None], synchronize: Callable[[], None]) -> Timing:
        """Time ``call`` from an idle device to an idle device."""


class HostClock:
    """Wall clock and CPU time. A device that works beside the host must be waited for."""

    def now(self) -> float:
        return time.perf_counter()

    def time(self, call: Callable[[], None], synchronize: Callable[[], None]) -> Timing:
        synchronize()
        cpu = time.process_time()
        wall = time.perf_counter()
        call()
        synchronize()
        wall = time.perf_counter() - wall
        return Timing(wall, time.process_time() - cpu)


class CudaClock(HostClock):
    """As ``HostClock``, and events on the current stream: what the device itself took."""

    def time(self, call: Callable[[], None], synchronize: Callable[[], None]) -> Timing:
        import torch

        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)

        def bracketed() -> None:
            start.record()
            call()
            end.record()

        timing = super().time(bracketed, synchronize)
        end.synchronize()
        return Timing(timing.wall_s, timing.cpu_s, start.elapsed_time(end) / 1e3)


def make_clock(device: str) -> Clock:
    """The clock for ``cpu`` or ``cuda``."""
    return CudaClock() if device.startswith("cuda") else HostClock()
