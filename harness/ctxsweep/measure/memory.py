"""Memory after a call: exact bytes of weights and cache, the resident set as a cross-check.

``activations_peak_bytes`` is what a call needed for itself beyond what it left behind. On CUDA it
is exact, from the allocator's statistics. On a CPU it is an estimate from the resident set: the
peak within the call (reset before it, ``/proc/<pid>/clear_refs``, proc(5)), less the resident set
before it, less the growth of the cache in it. Heap memory that was freed but kept by the allocator
is resident already and so not counted again: it is a lower bound.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Protocol

from ctxsweep.backends.base import HeldMemory
from ctxsweep.records import MemoryReading

PROC = Path("/proc/self")


class HoldsMemory(Protocol):
    """The part of a backend that this module asks."""

    def memory(self) -> HeldMemory:
        """Bytes held now."""


def resident_bytes(proc: Path = PROC) -> int | None:
    """Resident set of a process; None where there is no /proc."""
    try:
        return int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def peak_bytes(proc: Path = PROC) -> int | None:
    """Highest resident set since the last reset (``VmHWM``); None where there is no /proc."""
    try:
        status = (proc / "status").read_text()
    except OSError:
        return None
    line = next((row for row in status.splitlines() if row.startswith("VmHWM:")), None)
    return int(line.split()[1]) * 1024 if line else None


def reset_peak(proc: Path = PROC) -> bool:
    """Set the peak to the present resident set; False where the system does not allow it."""
    try:
        (proc / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


class MemoryMeter:
    """Reads memory around calls: ``before()``, the call, ``reading()``; peaks are per cell.

    Of a ``remote`` engine there is only what the backend tells: the memory of this process and of
    its device are not the engine's.
    """

    def __init__(self, backend: HoldsMemory, device: str, remote: bool = False) -> None:
        self._backend = backend
        self._remote = remote
        self._cuda = device.startswith("cuda") and not remote
        self.start_cell()

    def start_cell(self) -> None:
        """Forget the peaks of the cell before."""
        self._process_peak = 0
        self._device_peak = 0
        self.before()

    def before(self) -> None:
        """Note the state before a call and reset the peaks."""
        self._peak_known = not self._remote and reset_peak()
        self._resident = None if self._remote else resident_bytes()
        self._cache = self._backend.memory().cache_used_bytes
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def reading(self, phase: Literal["prefill", "decode"], position: int) -> MemoryReading:
        """What is held after the call and what its peak was."""
        held = self._backend.memory()
        # A cache of unknown size counts with what a call needs for itself.
        grown = max(0, (held.cache_used_bytes or 0) - (self._cache or 0))
        peak = peak_bytes() if self._peak_known else None
        self._process_peak = max(self._process_peak, peak or 0)
        activations = None
        if self._cuda:
            # What a call leaves allocated is no passing need, and a pool grows no allocation.
            device_peak, kept = _device_bytes()
            activations = device_peak - kept
            self._device_peak = max(self._device_peak, device_peak)
        elif peak is not None and self._resident is not None:
            activations = max(0, peak - self._resident - grown)
        return MemoryReading(
            phase=phase,
            position=position,
            weights_bytes=held.weights_bytes,
            cache_used_bytes=held.cache_used_bytes,
            cache_reserved_bytes=held.cache_reserved_bytes,
            activations_peak_bytes=activations,
            process_bytes=None if self._remote else resident_bytes(),
            process_peak_bytes=self._process_peak or None,
            device_peak_bytes=self._device_peak or None,
        )


def _device_bytes() -> tuple[int, int]:
    """Most that the GPU's allocator gave out since its peak was reset, and what it has out now."""
    import torch

    return int(torch.cuda.max_memory_allocated()), int(torch.cuda.memory_allocated())


def thin(readings: list[MemoryReading], most: int) -> tuple[MemoryReading, ...]:
    """At most ``most`` readings, evenly spaced, the first and the last always among them."""
    if len(readings) <= most:
        return tuple(readings)
    step = (len(readings) - 1) / (most - 1)
    return tuple(readings[round(i * step)] for i in range(most))
