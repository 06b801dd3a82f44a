"""What the static bench judges: the convolution in front of Mamba-2 2.7B, 4096 tokens."""

from __future__ import annotations

import torch

from ctxsweep_kernels.causal_conv.kernel import plan_convolution
from ctxsweep_kernels.launch import INTERPRETED_AS, Launch
from ctxsweep_kernels.static.case import Case, Trace, Work

TOKENS, CHANNELS, TAPS = 4096, 5376, 4


def prefill(
    arch: str, device: str = "meta", tokens: int = TOKENS, channels: int = CHANNELS
) -> list[Launch]:
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.bfloat16, device=device)

    x, y = (zeros(1, tokens, channels) for _ in range(2))
    state, new_state = (zeros(1, TAPS - 1, channels) for _ in range(2))
    weight, bias = zeros(channels, TAPS), zeros(channels)
    return plan_convolution(x, weight, bias, state, "silu", y, new_state, arch)


def work(launch: Launch) -> Work:
    """Inputs read and outputs written by one program."""
    given = launch.arguments
    moved = given["BLOCK_T"] * given["BLOCK_C"] * given["x"].element_size() * 2
    return Work("KiB", (), (), units_outside_loops=moved / 1024)


def trace() -> Trace:
    launches = prefill(INTERPRETED_AS, "cpu", 512, 256)
    tensors = launches[0].arguments.items()
    return Trace(launches, {n: t.nbytes for n, t in tensors if isinstance(t, torch.Tensor)})


CASES = (Case("causal_conv/bf16-silu-k4", prefill, (), work, trace),)
