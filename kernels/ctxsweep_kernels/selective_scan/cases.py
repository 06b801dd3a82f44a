"""What the static bench judges: a prefill of Mamba-1 2.8B over 4096 tokens."""

from __future__ import annotations

import torch

from ctxsweep_kernels.launch import INTERPRETED_AS, Launch
from ctxsweep_kernels.selective_scan.kernel import plan_scan
from ctxsweep_kernels.static.case import Case, Trace, Work

TOKENS, CHANNELS, N = 4096, 5120, 16


def prefill(
    arch: str, device: str = "meta", tokens: int = TOKENS, channels: int = CHANNELS
) -> list[Launch]:
    def zeros(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    u, dt, y = (zeros(1, tokens, channels) for _ in range(3))
    B, C = (zeros(1, tokens, N) for _ in range(2))
    A = zeros(channels, N, dtype=torch.float32)
    D = zeros(channels, dtype=torch.float32)
    state, new_state = (zeros(1, channels, N, dtype=torch.float32) for _ in range(2))
    return plan_scan(u, dt, A, B, C, state, D, y, new_state, arch)


def work(launch: Launch) -> Work:
    """State values that the tokens of an iteration update: they stay in registers."""
    given = launch.arguments
    updates = given["BLOCK"] * given["N"] * given["GROUP"]
    return Work("update", (updates,), (TOKENS / given["GROUP"],))


def trace() -> Trace:
    launches = prefill(INTERPRETED_AS, "cpu", 64, 256)
    tensors = launches[0].arguments.items()
    return Trace(launches, {n: t.nbytes for n, t in tensors if isinstance(t, torch.Tensor)})


CASES = (Case("selective_scan/bf16-n16", prefill, ("steady",), work, trace),)
