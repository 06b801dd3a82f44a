"""Retention: linear attention with one fixed decay per head.

The same output has three forms: quadratic over all pairs, a recurrence over tokens, and the
chunked mixture of both that is used here. Specification: RetNet, arXiv 2307.08621, section 2.
"""

from __future__ import annotations

import torch

from ctxsweep_kernels.chunking import (
    check_chunk,
    check_shapes,
    check_state_dtype,
    unfit_dtypes,
    unfit_sizes,
)
from ctxsweep_kernels.dispatch import Impl, choose
from ctxsweep_kernels.retention.cpu import retention_torch

__all__ = ["MOST_KEYS", "retention"]

MOST_KEYS = 256  # of a head in Triton, where a block of queries keeps all of them


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
        chunk: tokens per chunk of the torch path; it changes the speed, not the result. The
            Triton path has its own.
        impl: see `ctxsweep_kernels.dispatch.choose`.

    Returns:
        y `[B, T, H, V]` in v's dtype, and the new state in the state's dtype.

    Raises:
        ValueError: shapes disagree, or the state is not float32.
        UnsupportedImplementation: `impl` does not exist for this op.
    """
    op = "retention"
    sizes = check_shapes(
        op,
        q=(q, "B T H K"),
        k=(k, "B T H K"),
        v=(v, "B T H V"),
        log_gamma=(log_gamma, "H"),
        state=(state, "B H K V"),
    )
    check_state_dtype(op, state)
    check_chunk(op, chunk)
    given = {"q": q, "k": k, "v": v, "log_gamma": log_gamma, "state": state}
    unfit = unfit_dtypes(**given) or unfit_sizes(sizes, MOST_KEYS)
    if choose(impl, op, [tensor.device for tensor in given.values()], unfit=unfit) == "triton":
        from ctxsweep_kernels.retention.plan import retention_triton

        return retention_triton(q, k, v, log_gamma, state)
    return retention_torch(q, k, v, log_gamma, state, chunk)
