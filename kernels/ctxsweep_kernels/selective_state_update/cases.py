"""What the static bench judges: decode steps of Mamba-2 2.7B and Mamba-1 2.8B, batch 64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ctxsweep_kernels.launch import INTERPRETED_AS, Launch
from ctxsweep_kernels.selective_state_update.kernel import plan_update
from ctxsweep_kernels.static.case import Case, Trace, Work

BATCH, HEADS, P, N = 64, 80, 64, 128
CHANNELS, N_CHANNEL = 5120, 16


def mamba2(
    dtype: torch.dtype, arch: str, device: str = "meta", batch: int = BATCH, heads: int = HEADS
) -> list[Launch]:
    def zeros(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    state, x = zeros(batch, heads, P, N, dtype=dtype), zeros(batch, heads, P)
    dt = zeros(batch, heads, dtype=torch.float32)
    A, D = (zeros(heads, dtype=torch.float32) for _ in range(2))
    B, C = (zeros(batch, 1, N) for _ in range(2))
    y = torch.empty_like(x)
    return plan_update(state, state, x, dt, A, B, C, D, y, arch)


def mamba1(
    dtype: torch.dtype, arch: str, device: str = "meta", batch: int = BATCH, width: int = CHANNELS
) -> list[Launch]:
    def zeros(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    state, x = zeros(batch, width, N_CHANNEL, dtype=dtype), zeros(batch, width)
    dt = zeros(batch, width, dtype=torch.float32)
    A = zeros(width, N_CHANNEL, dtype=torch.float32)
    D = zeros(width, dtype=torch.float32)
    B, C = (zeros(batch, N_CHANNEL) for _ in range(2))
    y = torch.empty_like(x)
    return plan_update(state, state, x, dt, A, B, C, D, y, arch)


def trace(model: Callable[..., list[Launch]], dtype: torch.dtype, size: int) -> Trace:
    """A batch of 2; every tensor once, the state read and written."""
    launches = model(dtype, INTERPRETED_AS, "cpu", 2, size)
    given = launches[0].arguments
    tensors = {n: t for n, t in given.items() if isinstance(t, torch.Tensor)}
    del tensors["new_state"]  # is the state
    least = {name: tensor.nbytes for name, tensor in tensors.items()}
    return Trace(launches, least | {"state": 2 * given["state"].nbytes})


def work(launch: Launch) -> Work:
    """The state that one program reads and writes."""
    given = launch.arguments
    moved = given["ROWS"] * given["N"] * given["state"].element_size() * 2
    return Work("KiB", (), (), units_outside_loops=moved / 1024)


def case(
    name: str, model: Callable[..., list[Launch]], dtype: torch.dtype, goal: float | None = None
) -> Case:
    return Case(
        f"state_update/{name}",
        partial(model, dtype),
        (),
        work,
        trace=partial(trace, model, dtype, 4 if model is mamba2 else 512),
        goal={} if goal is None else {"per_unit": goal},
    )


CASES = (
    case("mamba2-bf16-n128", mamba2, torch.bfloat16, goal=120),
    case("mamba2-fp32-n128", mamba2, torch.float32),
    case("mamba1-bf16-n16", mamba1, torch.bfloat16),
    case("mamba1-fp32-n16", mamba1, torch.float32),
)
