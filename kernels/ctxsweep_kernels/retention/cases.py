"""What the static bench judges: RetNet's heads, decode of 8 sequences and a prefill."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.retention.plan import plan_retention
from ctxsweep_kernels.static.case import Case, Trace, Work

HEADS, K, V = 8, 256, 512


def launches(
    tokens: int, batch: int, heads: int, dtype: torch.dtype, device: str, arch: str
) -> list[Launch]:
    q, k = (torch.zeros(batch, tokens, heads, K, dtype=dtype, device=device) for _ in range(2))
    v, y = (torch.zeros(batch, tokens, heads, V, dtype=dtype, device=device) for _ in range(2))
    state, new_state = (torch.zeros(batch, heads, K, V, device=device) for _ in range(2))
    log_gamma = torch.zeros(heads, device=device)
    return plan_retention(q, k, v, log_gamma, state, y, new_state, arch)


def plan(tokens: int, batch: int, dtype: torch.dtype) -> Callable[[str], list[Launch]]:
    return lambda arch: launches(tokens, batch, HEADS, dtype, "meta", arch)


def decode_work(launch: Launch) -> Work:
    """The state that one program reads and writes, a few rows in each iteration."""
    given = launch.arguments
    rows = given["REPEATS"] * given["ROWS"]
    moved = rows * given["STRIPS"] * given["LANES"] * given["VECTOR"] * 2 * 4
    return Work("KiB", (moved / 1024,), (K / rows,))


def decode_trace() -> Trace:
    made = launches(1, 1, 1, torch.bfloat16, "cpu", "sm_90")
    tensors = {n: t for n, t in made[0].arguments.items() if isinstance(t, torch.Tensor)}
    return Trace(made, {name: tensor.nbytes for name, tensor in tensors.items()})


def prefill_work(launch: Launch) -> Work:
    """The launch that carries the state, a block of tokens in each iteration."""
    given = launch.arguments
    updates = given["BLOCK"] * given["BLOCK_K"] * given["BLOCK_V"]
    trips = given["T"] / given["BLOCK"]
    return Work("update", (updates,), (trips,), flops_per_iteration=2.0 * updates)


CASES = (
    Case(
        "retention_decode/bf16-k256-v512",
        plan(1, 8, torch.bfloat16),
        ("steady",),
        decode_work,
        decode_trace,
        goal={"per_unit": 36, "traffic": 1.02},
    ),
    Case(
        "retention_decode/bf16-k256-v512-one-sequence",
        plan(1, 1, torch.bfloat16),
        ("steady",),
        decode_work,
    ),
    Case(
        "retention_prefill/bf16-k256-v512",
        plan(4096, 1, torch.bfloat16),
        ("steady",),
        prefill_work,
    ),
    Case(
        "retention_prefill/fp32-k256-v512",
        plan(4096, 1, torch.float32),
        ("steady",),
        prefill_work,
    ),
)
