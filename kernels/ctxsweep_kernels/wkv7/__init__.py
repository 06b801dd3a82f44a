"""RWKV-7's time mixing: a matrix state with a decay per channel and a rank-one correction.

The transition `diag(w) + a b^T` is diagonal plus low rank, so a chunk of them has a compact
(WY) form and becomes matrix products and one triangular solve. Specification: RWKV-7 "Goose",
arXiv 2503.14456, section 4.
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
from ctxsweep_kernels.wkv7.cpu import wkv7_torch

__all__ = ["MAX_CHUNK", "wkv7"]

# A chunk's decays are held relative to its middle, so 32 tokens of the strongest decay are the
# largest factor, exp(32 * 0.6065) = 2.7e8; products of two stay far inside float32.
MAX_CHUNK = 64
MOST_KEYS = 64  # of a head in Triton: a chunk's products keep all of them in one tile


def wkv7(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
    chunk: int = 32,
    impl: Impl = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run `S = S diag(exp(log_w)) + (S a) b^T + v k^T`, `y = S r` over T tokens.

    Args:
        r, k, a, b: receptance, key and the two sides of the correction, `[B, T, H, K]`; the
            model passes `a = -kappa` and `b = kappa * rate`, with kappa a unit vector.
        log_w: log decays `[B, T, H, K]`, in (-0.6065, 0] as the architecture bounds them;
            the bound is what makes the chunked form safe in float32, and is not checked.
        v: values `[B, T, H, V]`.
        state: `[B, H, V, K]`, float32; it is not changed.
        chunk: tokens per chunk of the torch path, 1 to 64; it changes the speed, not the result.
            The Triton path picks its own.
        impl: see `ctxsweep_kernels.dispatch.choose`.

    Returns:
        y `[B, T, H, V]` in v's dtype, and the new state in the state's dtype.

    Raises:
        ValueError: shapes disagree, `chunk` is out of range, or the state is not float32.
        UnsupportedImplementation: `impl` does not exist for this op.
    """
    op = "wkv7"
    sizes = check_shapes(
        op,
        r=(r, "B T H K"),
        log_w=(log_w, "B T H K"),
        k=(k, "B T H K"),
        v=(v, "B T H V"),
        a=(a, "B T H K"),
        b=(b, "B T H K"),
        state=(state, "B H V K"),
    )
    check_state_dtype(op, state)
    check_chunk(op, chunk, most=MAX_CHUNK)
    given = {"r": r, "log_w": log_w, "k": k, "v": v, "a": a, "b": b, "state": state}
    unfit = unfit_dtypes(**given) or unfit_sizes(sizes, MOST_KEYS)
    if choose(impl, op, [tensor.device for tensor in given.values()], unfit=unfit) == "triton":
        from ctxsweep_kernels.wkv7.plan import wkv7_triton

        return wkv7_triton(r, log_w, k, v, a, b, state)
    return wkv7_torch(r, log_w, k, v, a, b, state, chunk)
