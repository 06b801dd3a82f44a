"""What the static bench judges: the convolution in front of Mamba-2 2.7B, 4096 tokens."""

from __future__ import annotations

import torch

from ctxsweep_kernels.causal_conv.kernel import plan_convolution
from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.static.case import Case, Work

TOKENS, CHANNELS, TAPS = 4096, 5376, 4


def prefill(arch: str) -> list[Launch]:
    def meta(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device="meta")

    x, y = (meta(1, TOKENS, CHANNELS) for _ in range(2))
    state, new_state = (meta(1, TAPS - 1, CHANNELS) for _ in range(2))
    weight, bias = meta(CHANNELS, TAPS), meta(CHANNELS)
    return plan_convolution(x, weight, bias, state, "silu", y, new_state, arch)


def work(launch: Launch) -> Work:
    """Inputs read and outputs written by one program."""
    given = launch.arguments
    moved = given["BLOCK_T"] * given["BLOCK_C"] * given["x"].element_size() * 2
    return Work("KiB", (), (), units_outside_loops=moved / 1024)


CASES = (Case("causal_conv/bf16-silu-k4", prefill, (), work),)
