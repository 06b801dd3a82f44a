"""One decode step in a handful of torch calls: at this size a call costs as much as its work.

Products are written as row @ matrix, which is several times faster than matrix @ column.
"""

from __future__ import annotations

import torch


@torch.no_grad()
def update_channels(
    state: torch.Tensor,
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """Mamba-1's step: write the new state `[B, Dm, N]` to `out`, return y `[B, Dm]`."""
    x_, dt, A, B, C = (t.to(state.dtype) for t in (x, dt, A, B, C))
    torch.mul(state, (dt[..., None] * A).exp_(), out=out)
    out.addcmul_((dt * x_)[..., None], B[:, None])
    y = torch.bmm(C[:, None], out.mT)[:, 0]
    return (y if D is None else y.addcmul_(x_, D.to(y.dtype))).to(x.dtype)


@torch.no_grad()
def update_heads(
    state: torch.Tensor,
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    """Mamba-2's step: write the new state `[B, H, P, N]` to `out`, return y `[B, H, P]`."""
    batch, _, _, N = state.shape
    x_, dt, A, B, C = (t.to(state.dtype) for t in (x, dt, A, B, C))
    torch.mul(state, (dt * A).exp_()[..., None, None], out=out)
    grouped = out.view(batch, B.shape[1], -1, N)
    incoming = (dt[..., None] * x_).reshape(batch, B.shape[1], -1, 1)
    grouped.addcmul_(incoming, B[:, :, None])
    y = torch.matmul(C[:, :, None], grouped.mT).view(x.shape)
    return (y if D is None else y.addcmul_(x_, D.to(y.dtype)[:, None])).to(x.dtype)
