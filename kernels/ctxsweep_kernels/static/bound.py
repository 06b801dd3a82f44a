"""The per-pipe bound: how fast the steady state could run if one pipe alone were the limit.

For each pipe, the clocks that one multiprocessor needs for a unit of work: the tensor cores for the
matrix FLOPs, the exponential unit for its lanes, the issue slots for the warp instructions, memory
for the bytes. The slowest is the bottleneck. Latency, banks and caches are left out: the bound
ranks kernels and names what to improve; it promises no milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctxsweep_kernels.static.devices import Device
from ctxsweep_kernels.static.figures import Figures

KIB = 1024
MATRIX_SHARE = {"bf16": 1.0, "tf32": 0.5}  # of the bf16 rate


@dataclass(frozen=True)
class Bound:
    """clocks: of a multiprocessor for a unit, by pipe; None where the device's rate is unknown.

    units_per_s: of the whole device, by its slowest known pipe.
    """

    clocks: dict[str, float | None]
    bottleneck: str
    units_per_s: float

    def share(self, pipe: str) -> float | None:
        """How busy a pipe is while the bottleneck is always busy."""
        clocks, most = self.clocks.get(pipe), self.clocks[self.bottleneck]
        return None if clocks is None or not most else clocks / most


def bound(figures: Figures, device: Device) -> Bound | None:
    """Bound of the steady state (of the average, for a kernel without loops).

    None where no pipe's clocks are known. Bytes bind only where a unit of work is a KiB: keys and
    values of a score are read by many blocks, from the second-level cache.
    """
    steady = figures.steady
    per_unit = steady.per_unit if steady else figures.per_unit
    if device.clock_hz is None or per_unit is None:
        return None
    limits = device.limits
    clocks: dict[str, float | None] = {"issue": _clocks(per_unit, limits.issue_per_clock)}
    if steady and steady.flops_per_unit:
        clocks["tensor"] = _clocks(steady.flops_per_unit, _matrix_rate(device, steady.matrix_kind))
    if steady and steady.exponentials_per_unit:
        rate = limits.exponentials_per_clock
        clocks["exponential"] = _clocks(steady.exponentials_per_unit, rate)
    if figures.unit == "KiB" and device.memory_bytes_per_s:
        clocks["bytes"] = KIB / _per_clock(device, device.memory_bytes_per_s)
    known = {pipe: value for pipe, value in clocks.items() if value is not None}
    if not known:
        return None
    bottleneck = max(known, key=lambda pipe: known[pipe])
    rate = device.multiprocessors * device.clock_hz / known[bottleneck]
    return Bound(clocks, bottleneck, rate)


def _matrix_rate(device: Device, kind: str) -> float | None:
    per_s = device.fp8_flops_per_s if kind == "fp8" else device.bf16_flops_per_s
    if per_s is None:
        return None
    return _per_clock(device, per_s) * MATRIX_SHARE.get(kind, 1.0)


def _per_clock(device: Device, per_s: float) -> float:
    assert device.clock_hz is not None
    return per_s / device.multiprocessors / device.clock_hz


def _clocks(amount: float, per_clock: float | None) -> float | None:
    return amount / per_clock if per_clock else None
