"""What the recurrent mixers share: the state's precision, a causal convolution, initial values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctxsweep.models.layers import StateSpec
from ctxsweep_kernels.causal_conv import causal_conv1d
from ctxsweep_kernels.dispatch import Impl


def recurrent_dtype(dtype: torch.dtype) -> torch.dtype:
    """A recurrent state sums over the whole context, so it is never narrower than float32."""
    return torch.promote_types(dtype, torch.float32)


class CausalConv(nn.Module):
    """Depthwise causal convolution with SiLU, the short memory in front of a Mamba scan.

    Its state is the last ``kernel - 1`` inputs, ``[B, kernel - 1, channels]``. The weight is
    ``[channels, 1, kernel]``, as ``nn.Conv1d`` and the libraries store it.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        bound = kernel**-0.5
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))

    def new_state(self, spec: StateSpec) -> Tensor:
        channels, _, kernel = self.weight.shape
        shape = (spec.batch_size, kernel - 1, channels)
        return torch.zeros(shape, dtype=spec.dtype, device=spec.device)

    def forward(self, x: Tensor, state: Tensor, impl: Impl) -> Tensor:
        """``x [B, T, channels]`` to the same shape; ``state`` is advanced in place."""
        y, last = causal_conv1d(x, self.weight[:, 0], self.bias, state, "silu", impl)
        state.copy_(last)
        return y


def time_step_bias(size: int, low: float = 1e-3, high: float = 1e-1) -> Tensor:
    """Biases that softplus turns into time steps log-uniform in [low, high] (arXiv 2312.00752)."""
    step = torch.empty(size).uniform_(math.log(low), math.log(high)).exp()
    return step + torch.log(-torch.expm1(-step))
