"""The short causal depthwise convolution in front of a selective scan (arXiv 2312.00752, 3.4).

Its state is the last K - 1 inputs.
"""

from __future__ import annotations

from typing import Literal

import torch

from ctxsweep_kernels.causal_conv.cpu import causal_conv1d_torch
from ctxsweep_kernels.chunking import check_shapes, unfit_dtypes
from ctxsweep_kernels.dispatch import Impl, choose

__all__ = ["causal_conv1d"]

MOST_TAPS = 16  # of the Triton kernel, whose sum is unrolled


def causal_conv1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    state: torch.Tensor,
    activation: Literal["silu"] | None = None,
    impl: Impl = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolve every channel over its last K inputs: `y_t = sum_j weight[:, j] x_{t-K+1+j} + bias`.

    Args:
        x: inputs `[B, T, C]`.
        weight: taps `[C, K]`, oldest first; bias `[C]` or None.
        state: the K - 1 inputs before x, `[B, K - 1, C]`, oldest first; it is not changed.
        activation: `"silu"`, or None.
        impl: see `ctxsweep_kernels.dispatch.choose`.

    Returns:
        y `[B, T, C]` in x's dtype (sums are at least float32), and the new state in its own dtype.

    Raises:
        ValueError: shapes disagree, or the activation is unknown.
        UnsupportedImplementation: `impl` does not exist for this op.
    """
    op = "causal_conv1d"
    check_shapes(op, x=(x, "B T C"), weight=(weight, "C K"), bias=(bias, "C"))
    expected = [x.shape[0], weight.shape[1] - 1, x.shape[2]]
    if list(state.shape) != expected:
        raise ValueError(
            f"{op}: state must be [B, K - 1, C] = {expected}, got shape {list(state.shape)}"
        )
    if activation not in ("silu", None):
        raise ValueError(f"{op}: activation must be 'silu' or None, got {activation!r}")
    given = {"x": x, "weight": weight, "bias": bias, "state": state}
    devices = [tensor.device for tensor in given.values() if tensor is not None]
    unfit = unfit_dtypes(**given)
    if unfit is None and weight.shape[1] > MOST_TAPS:
        unfit = (
            f"it has {weight.shape[1]} taps and the kernel at most {MOST_TAPS}; use impl='torch'"
        )
    if choose(impl, op, devices, unfit=unfit) == "triton":
        from ctxsweep_kernels.causal_conv.kernel import causal_conv1d_triton

        return causal_conv1d_triton(x, weight, bias, state, activation)
    return causal_conv1d_torch(x, weight, bias, state, activation)
