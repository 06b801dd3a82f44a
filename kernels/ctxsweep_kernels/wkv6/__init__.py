"""RWKV-6's time mixing: linear attention with a decay per channel that depends on the data.

Specification: "Eagle and Finch", arXiv 2404.05892, section 4.2. There is no Triton kernel: on a
GPU it runs in torch.
"""

from __future__ import annotations

import torch

from ctxsweep_kernels.chunking import check_chunk, check_shapes, check_state_dtype
from ctxsweep_kernels.dispatch import Impl, choose
from ctxsweep_kernels.wkv6.cpu import wkv6_torch

__all__ = ["wkv6"]


def wkv6(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    state: torch.Tensor,
    chunk: int = 64,
    impl: Impl = "auto",
    in_place: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run `y = r (S + diag(u) k^T v)`, `S = diag(exp(log_w)) S + k^T v` over T tokens.

    Args:
        r, k: receptance and key `[B, T, H, K]`.
        log_w: log decays `[B, T, H, K]`, anything from -inf to 0. The upper bound is not checked.
        v: values `[B, T, H, V]`.
        u: bonus `[H, K]`, by which a token counts for itself.
        state: `[B, H, K, V]`, float32.
        chunk: tokens per chunk, a power of two; it changes the speed, not the result.
        impl: see `ctxsweep_kernels.dispatch.choose`.
        in_place: advance `state` itself, which is returned, instead of a copy of it.

    Returns:
        y `[B, T, H, V]` in v's dtype, and the new state in the state's dtype.

    Raises:
        ValueError: shapes disagree, `chunk` is no power of two, the state is not float32, or
            `in_place` is asked for a state that is not contiguous.
        UnsupportedImplementation: `impl` does not exist for this op.
    """
    op = "wkv6"
    check_shapes(
        op,
        r=(r, "B T H K"),
        log_w=(log_w, "B T H K"),
        k=(k, "B T H K"),
        v=(v, "B T H V"),
        u=(u, "H K"),
        state=(state, "B H K V"),
    )
    check_state_dtype(op, state)
    check_chunk(op, chunk)
    if chunk & (chunk - 1):
        raise ValueError(f"{op}: chunk must be a power of two, got {chunk}")
    if in_place and not state.is_contiguous():
        raise ValueError(f"{op}: a state that is advanced in place must be contiguous")
    choose(impl, op, [tensor.device for tensor in (r, log_w, k, v, u, state)])
    carried = state if in_place else state.clone(memory_format=torch.contiguous_format)
    return wkv6_torch(r, log_w, k, v, u, carried, chunk), carried
