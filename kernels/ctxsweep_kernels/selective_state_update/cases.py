"""What the static bench judges: decode steps of Mamba-2 2.7B and Mamba-1 2.8B, batch 64."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.selective_state_update.kernel import plan_update
from ctxsweep_kernels.static.case import Case, Work

BATCH, HEADS, P, N = 64, 80, 64, 128
CHANNELS, N_CHANNEL = 5120, 16


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def heads(dtype: torch.dtype) -> Callable[[str], list[Launch]]:
    def plan(arch: str) -> list[Launch]:
        state, x = meta(BATCH, HEADS, P, N, dtype=dtype), meta(BATCH, HEADS, P)
        dt = meta(BATCH, HEADS, dtype=torch.float32)
        A, D = (meta(HEADS, dtype=torch.float32) for _ in range(2))
        B, C = (meta(BATCH, 1, N) for _ in range(2))
        return plan_update(state, state, x, dt, A, B, C, D, x, arch)

    return plan


def channels(dtype: torch.dtype) -> Callable[[str], list[Launch]]:
    def plan(arch: str) -> list[Launch]:
        state, x = meta(BATCH, CHANNELS, N_CHANNEL, dtype=dtype), meta(BATCH, CHANNELS)
        dt = meta(BATCH, CHANNELS, dtype=torch.float32)
        A = meta(CHANNELS, N_CHANNEL, dtype=torch.float32)
        D = meta(CHANNELS, dtype=torch.float32)
        B, C = (meta(BATCH, N_CHANNEL) for _ in range(2))
        return plan_update(state, state, x, dt, A, B, C, D, x, arch)

    return plan


def work(launch: Launch) -> Work:
    """The state that one program reads and writes."""
    given = launch.arguments
    moved = given["ROWS"] * given["N"] * given["state"].element_size() * 2
    return Work("KiB", (), (), units_outside_loops=moved / 1024)


CASES = (
    Case(
        "state_update/mamba2-bf16-n128",
        heads(torch.bfloat16),
        (),
        work,
        goal={"per_unit": 120},
    ),
    Case("state_update/mamba2-fp32-n128", heads(torch.float32), (), work),
    Case("state_update/mamba1-bf16-n16", channels(torch.bfloat16), (), work),
    Case("state_update/mamba1-fp32-n16", channels(torch.float32), (), work),
)
