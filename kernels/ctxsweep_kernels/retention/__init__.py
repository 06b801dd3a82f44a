"""Retention: linear attention with one fixed decay per head.

The same output has three forms: quadratic over all pairs, a recurrence over tokens, and the
chunked mixture of both that is used here. Specification: RetNet, arXiv 2307.08621, section 2.
"""

from __future__ import annotations

import torch

from ctxsweep_kernels.chunking import check_chunk, check_shapes, check_state_dtype
from ctxsweep_kernels.dispatch import Impl, choose
from ctxsweep_kernels.retention.cpu import retention_torch

__all__ = ["retention"]


def retention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_gamma: torch.Tensor,
    state: torch.Tensor,
    chunk: int = 64,
    impl: Impl = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run `S = gamma S + k v^T`, `y = q S` over T tokens, from a carried state.

    Args:
        q, k: queries and keys `[B, T, H, K]`, already rotated and scaled.
        v: values `[B, T, H, V]`.
        log_gamma: natural logarithm of each head's decay `[H]`, at most 0.
        state: `[B, H, K, V]`, float32; it is not changed.
        chunk: tokens per chunk; it changes the speed, not the result.
        impl: see `ctxsweep_kernels.dispatch.choose`.

    Returns:
        y `[B, T, H, V]` in v's dtype, and the new state in the state's dtype.

    Raises:
        ValueError: shapes disagree, or the state is not float32.
        UnsupportedImplementation: `impl` does not exist for this op.
    """
    op = "retention"
    check_shapes(
        op,
        q=(q, "B T H K"),
        k=(k, "B T H K"),
        v=(v, "B T H V"),
        log_gamma=(log_gamma, "H"),
        state=(state, "B H K V"),
    )
    check_state_dtype(op, state)
    check_chunk(op, chunk)
    choose(impl, op, [tensor.device for tensor in (q, state)])
    return retention_torch(q, k, v, log_gamma, state, chunk)
