"""Mamba-1's selective scan: a decay of its own for every channel, state entry and token.

The decay's freedom leaves no matrix product to find inside a chunk: the scan is elementwise
and sequential. Specification: arXiv 2312.00752, section 3.
"""

from __future__ import annotations

import torch

from ctxsweep_kernels.chunking import check_shapes, check_state_dtype, unfit_dtypes
from ctxsweep_kernels.dispatch import Impl, choose
from ctxsweep_kernels.selective_scan.cpu import selective_scan_torch

__all__ = ["selective_scan"]


def selective_scan(
    u: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    state: torch.Tensor,
    D: torch.Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run `h = exp(dt A) h + dt u B`, `y = h C + D u` over T tokens, from a carried state.

    Args:
        u: inputs `[B, T, Dm]`.
        dt: step sizes `[B, T, Dm]`, after softplus.
        A: decay rates `[Dm, N]`, negative.
        B, C: input and output projections `[B, T, N]`.
        state: `[B, Dm, N]`, float32; it is not changed.
        D: skip weights `[Dm]`, or None for no skip.
        impl: see `ctxsweep_kernels.dispatch.choose`.

    Returns:
        y `[B, T, Dm]` in u's dtype, and the new state in the state's dtype.

    Raises:
        ValueError: shapes disagree, or the state is not float32.
        UnsupportedImplementation: `impl` does not exist for this op.
    """
    op = "selective_scan"
    check_shapes(
        op,
        u=(u, "B T Dm"),
        dt=(dt, "B T Dm"),
        A=(A, "Dm N"),
        B=(B, "B T N"),
        C=(C, "B T N"),
        state=(state, "B Dm N"),
        D=(D, "Dm"),
    )
    check_state_dtype(op, state)
    given = {"u": u, "dt": dt, "A": A, "B": B, "C": C, "state": state, "D": D}
    devices = [tensor.device for tensor in given.values() if tensor is not None]
    if choose(impl, op, devices, unfit=unfit_dtypes(**given)) == "triton":
        from ctxsweep_kernels.selective_scan.kernel import selective_scan_triton

        return selective_scan_triton(u, dt, A, B, C, state, D)
    return selective_scan_torch(u, dt, A, B, C, state, D)
