"""Occupancy: how many blocks of a kernel fit on a multiprocessor, and what limits them.

The rules are those of the CUDA occupancy calculator: registers are given to whole warps in units,
shared memory to blocks in units, with what the system keeps. LLVM's rules for gfx942 have the same
form.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctxsweep_kernels.static.devices import Limits


@dataclass(frozen=True)
class Occupancy:
    """blocks: that fit at once; warps: of all of them; limiter: what keeps one more out."""

    blocks: int
    warps: int
    share: float  # of the warps that the multiprocessor could hold
    limiter: str  # "warps", "registers", "shared memory" or "blocks"


def occupancy(limits: Limits, num_warps: int, registers: int, shared_bytes: int) -> Occupancy:
    """Occupancy of a kernel with `num_warps` warps a block, registers a thread, shared bytes.

    Limits are named in the order warps, registers, shared memory, blocks: of two that are equally
    tight, the first.
    """
    fitting = {
        "warps": limits.warps // num_warps,
        "registers": _by_registers(limits, registers) // num_warps,
        "shared memory": _by_shared(limits, shared_bytes),
        "blocks": limits.blocks,
    }
    limiter = min(fitting, key=lambda name: fitting[name])
    blocks = fitting[limiter]
    return Occupancy(blocks, blocks * num_warps, blocks * num_warps / limits.warps, limiter)


def _by_registers(limits: Limits, registers: int) -> int:
    """Warps for which there are registers."""
    if registers > limits.registers_per_thread:
        return 0
    per_warp = _rounded_up(max(registers, 1) * limits.warp_size, limits.register_unit)
    return limits.registers // per_warp // limits.warp_unit * limits.warp_unit


def _by_shared(limits: Limits, shared_bytes: int) -> int:
    if shared_bytes > limits.shared_per_block_bytes:
        return 0
    per_block = _rounded_up(shared_bytes + limits.shared_reserved_bytes, limits.shared_unit)
    return limits.shared_bytes // per_block if per_block else limits.blocks


def _rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
