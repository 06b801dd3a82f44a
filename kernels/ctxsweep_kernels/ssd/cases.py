"""What the static bench judges: a prefill of Mamba-2 2.7B over 4096 tokens."""

from __future__ import annotations

from functools import partial

import torch

from ctxsweep_kernels.launch import INTERPRETED_AS, Launch
from ctxsweep_kernels.ssd.plan import plan_scan
from ctxsweep_kernels.static.case import Case, Trace, Work

TOKENS, HEADS, P, N = 4096, 80, 64, 128


def prefill(
    dtype: torch.dtype, arch: str, device: str = "meta", tokens: int = TOKENS, heads: int = HEADS
) -> list[Launch]:
    def zeros(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    x, y = (zeros(1, tokens, heads, P) for _ in range(2))
    dt = zeros(1, tokens, heads)
    A, D = (zeros(heads, dtype=torch.float32) for _ in range(2))
    B, C = (zeros(1, tokens, 1, N) for _ in range(2))
    state, new_state = (zeros(1, heads, P, N, dtype=torch.float32) for _ in range(2))
    return plan_scan(x, dt, A, B, C, state, D, y, new_state, arch)


def trace(dtype: torch.dtype) -> Trace:
    """Every input and output once; the states at the chunks' starts are not needed, and count."""
    launches = prefill(dtype, INTERPRETED_AS, "cpu", 512, 4)
    tensors = {
        name: value
        for launch in launches
        for name, value in launch.arguments.items()
        if isinstance(value, torch.Tensor) and name != "first_states"
    }
    return Trace(launches, {name: tensor.nbytes for name, tensor in tensors.items()})


def work(launch: Launch) -> Work:
    """The launch that carries the state over chunks: state values that a chunk's tokens update."""
    given = launch.arguments
    updates = given["CHUNK"] * given["BLOCK_P"] * given["BLOCK_N"]
    trips = TOKENS / given["CHUNK"]
    return Work("update", (updates,), (trips,), flops_per_iteration=2.0 * updates)


def case(name: str, dtype: torch.dtype) -> Case:
    plan, traced = partial(prefill, dtype), partial(trace, dtype)
    return Case(f"ssd_prefill/{name}", plan, ("steady",), work, traced)


CASES = (
    case("bf16-p64-n128", torch.bfloat16),
    case("fp32-p64-n128", torch.float32),
)
