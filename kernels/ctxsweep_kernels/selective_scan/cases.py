"""What the static bench judges: a prefill of Mamba-1 2.8B over 4096 tokens."""

from __future__ import annotations

import torch

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.selective_scan.kernel import plan_scan
from ctxsweep_kernels.static.case import Case, Work

TOKENS, CHANNELS, N = 4096, 5120, 16


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def prefill(arch: str) -> list[Launch]:
    u, dt = (meta(1, TOKENS, CHANNELS) for _ in range(2))
    B, C = (meta(1, TOKENS, N) for _ in range(2))
    A = meta(CHANNELS, N, dtype=torch.float32)
    D = meta(CHANNELS, dtype=torch.float32)
    state, new_state = (meta(1, CHANNELS, N, dtype=torch.float32) for _ in range(2))
    return plan_scan(u, dt, A, B, C, state, D, u, new_state, arch)


def work(launch: Launch) -> Work:
    """KiB of float32 states that the tokens of an iteration pass through: none of it is moved."""
    given = launch.arguments
    passed = given["BLOCK"] * given["N"] * given["GROUP"] * 4 / 1024
    return Work("KiB", (passed,), (TOKENS / given["GROUP"],))


CASES = (Case("selective_scan/bf16-n16", prefill, ("steady",), work),)
