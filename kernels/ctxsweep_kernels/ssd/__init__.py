"""Mamba-2's state-space dual form: one scalar decay per head and token, B and C shared by groups.

State-space models are linear recurrences, but read chunk by chunk they are matrix products: a
small masked attention inside each chunk, and one rank-`chunk` update of the carried state.
Specification: "Transformers are SSMs", arXiv 2405.21060, section 6.
"""

from __future__ import annotations

import torch

from ctxsweep_kernels.chunking import check_chunk, check_shapes, check_state_dtype, unfit_dtypes
from ctxsweep_kernels.dispatch import Impl, choose
from ctxsweep_kernels.ssd.cpu import ssd_chunk_scan_torch

__all__ = ["ssd_chunk_scan"]

KERNEL_N = 256  # the Triton kernel holds all of N for a chunk of tokens


def ssd_chunk_scan(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    state: torch.Tensor,
    D: torch.Tensor | None = None,
    chunk: int = 64,
    impl: Impl = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run `h = exp(dt A) h + dt x B^T`, `y = h C + D x` over T tokens, from a carried state.

    Args:
        x: inputs `[B, T, H, P]`.
        dt: step sizes `[B, T, H]`, after softplus.
        A: decay rates `[H]`, negative.
        B, C: input and output projections `[B, T, G, N]`; G divides H, and group g serves
            heads `g H/G` to `(g + 1) H/G - 1`.
        state: `[B, H, P, N]`, float32; it is not changed.
        D: skip weights `[H]`, or None for no skip.
        chunk: tokens per chunk of the torch path (the Triton kernels choose their own); it
            changes the speed, not the result.
        impl: see `ctxsweep_kernels.dispatch.choose`.

    Returns:
        y `[B, T, H, P]` in x's dtype, and the new state in the state's dtype.

    Raises:
        ValueError: shapes disagree, G does not divide H, or the state is not float32.
        UnsupportedImplementation: `impl` does not exist for this op.
    """
    op = "ssd_chunk_scan"
    sizes = check_shapes(
        op,
        x=(x, "B T H P"),
        dt=(dt, "B T H"),
        A=(A, "H"),
        B=(B, "B T G N"),
        C=(C, "B T G N"),
        state=(state, "B H P N"),
        D=(D, "H"),
    )
    if sizes["H"] % sizes["G"]:
        raise ValueError(f"{op}: {sizes['G']} groups do not divide {sizes['H']} heads")
    check_state_dtype(op, state)
    check_chunk(op, chunk)
    given = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "state": state, "D": D}
    devices = [tensor.device for tensor in given.values() if tensor is not None]
    unfit = unfit_dtypes(**given)
    if unfit is None and sizes["N"] > KERNEL_N:
        unfit = f"N = {sizes['N']} and it takes at most {KERNEL_N}; use impl='torch'"
    if choose(impl, op, devices, unfit=unfit) == "triton":
        from ctxsweep_kernels.ssd.plan import ssd_chunk_scan_triton

        return ssd_chunk_scan_triton(x, dt, A, B, C, state, D)
    return ssd_chunk_scan_torch(x, dt, A, B, C, state, D, chunk)
