"""What the static bench judges: a prefill of Mamba-2 2.7B over 4096 tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.ssd.plan import plan_scan
from ctxsweep_kernels.static.case import Case, Work

TOKENS, HEADS, P, N = 4096, 80, 64, 128


def meta(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def prefill(dtype: torch.dtype) -> Callable[[str], list[Launch]]:
    def plan(arch: str) -> list[Launch]:
        x = meta(1, TOKENS, HEADS, P, dtype=dtype)
        dt = meta(1, TOKENS, HEADS, dtype=dtype)
        A, D = (meta(HEADS, dtype=torch.float32) for _ in range(2))
        B, C = (meta(1, TOKENS, 1, N, dtype=dtype) for _ in range(2))
        state, new_state = (meta(1, HEADS, P, N, dtype=torch.float32) for _ in range(2))
        return plan_scan(x, dt, A, B, C, state, D, x, new_state, arch)

    return plan


def work(launch: Launch) -> Work:
    """The launch that carries the state: what a chunk reads of x, dt and B and writes of states."""
    given = launch.arguments
    chunk, p, n = given["CHUNK"], given["BLOCK_P"], given["BLOCK_N"]
    moved = (chunk * (p + 1 + n) + p * n) * given["x"].element_size()
    trips = TOKENS / chunk
    return Work("KiB", (moved / 1024,), (trips,), flops_per_iteration=2.0 * chunk * p * n)


CASES = (
    Case("ssd_prefill/bf16-p64-n128", prefill(torch.bfloat16), ("steady",), work),
    Case("ssd_prefill/fp32-p64-n128", prefill(torch.float32), ("steady",), work),
)
