"""Mamba-2 chunk by chunk in plain torch, on any device, with work space of one chunk.

B and C belong to groups, so whatever touches the state is one product per group with all its
heads side by side (`[N, R P]`); only the product inside a chunk is per head.
"""

from __future__ import annotations

import torch

from ctxsweep_kernels.chunking import LOG2E, scratch_like, whole_and_tail
from ctxsweep_kernels.selective_state_update.cpu import update_heads


@torch.no_grad()
def ssd_chunk_scan_torch(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    state: torch.Tensor,
    D: torch.Tensor | None,
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The arguments of `ssd_chunk_scan`, already checked."""
    batch, tokens, heads, width = x.shape
    groups, N = B.shape[2:]
    if tokens == 1:
        now = (t[:, 0] for t in (x, dt))
        new_state = torch.empty(state.shape, dtype=state.dtype, device=state.device)
        y = update_heads(state, *now, A, B[:, 0], C[:, 0], D, out=new_state)
        return y[:, None], new_state
    split = (groups, heads // groups)
    h = state.reshape(batch * groups, -1, N).mT.clone(memory_format=torch.contiguous_format)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rate = A.to(h.dtype).unflatten(0, split) * LOG2E
    skip = None if D is None else D.to(h.dtype).unflatten(0, split)[..., None]
    for span, length in whole_and_tail(tokens, chunk):
        xs, dts, ys = (t[:, span].unflatten(2, split) for t in (x, dt, y))
        _scan(xs, dts.to(h.dtype), rate, B[:, span], C[:, span], skip, h, ys, length)
    return y, h.mT.contiguous().view(batch, heads, width, N)


def _scan(
    x: torch.Tensor,
    dt: torch.Tensor,
    rate: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    skip: torch.Tensor | None,
    h: torch.Tensor,
    y: torch.Tensor,
    length: int,
) -> None:
    """Whole chunks: x, y `[B, T, G, R, P]`, dt `[B, T, G, R]`; h `[B G, N, R P]` is updated."""
    batch, tokens, G, R, P = x.shape
    N = B.shape[-1]
    empty = scratch_like(h)
    mix = empty(batch, G, R, length, length)
    scores = empty(batch * G, length, length)
    stepped, inside = empty(batch, G, R, length, P), empty(batch, G, R, length, P)
    carried, incoming = empty(batch, G, length, R, P), empty(batch, G, length, R, P)
    # log2 of the decay since the chunk's start, `[chunks, B, G, R, length]`; float64 because
    # neighbours far into a chunk differ by little of a large sum
    log_decay = (dt * rate).unflatten(1, (-1, length)).permute(1, 0, 3, 4, 2)
    log_decay = log_decay.cumsum(-1, dtype=torch.float64)
    for a, start in zip(log_decay, range(0, tokens, length), strict=True):
        now = slice(start, start + length)
        x_now, dt_now = x[:, now], dt[:, now].permute(0, 2, 3, 1)
        B_now, C_now = (t[:, now].transpose(1, 2).flatten(0, 1).to(h.dtype) for t in (B, C))
        # inside the chunk: (C B^T * decay) (dt x). tril_ also clears what overflowed above it.
        torch.sub(a[..., :, None], a[..., None, :], out=mix).exp2_().tril_()
        torch.bmm(C_now, B_now.mT, out=scores)
        mix.mul_(scores.view(batch, G, 1, length, length))
        torch.mul(x_now.permute(0, 2, 3, 1, 4), dt_now[..., None], out=stepped)
        torch.bmm(
            mix.view(-1, length, length),
            stepped.view(-1, length, P),
            out=inside.view(-1, length, P),
        )
        # from before the chunk
        kept = a.to(h.dtype).exp2()
        torch.bmm(C_now, h, out=carried.view(-1, length, R * P))
        carried.mul_(kept.transpose(2, 3)[..., None]).add_(inside.transpose(2, 3))
        y_now = carried.transpose(1, 2)
        if skip is not None:
            y_now.addcmul_(x_now.to(h.dtype), skip)
        y[:, now] = y_now
        # the state after the chunk
        weight = (a[..., -1:] - a).to(h.dtype).exp2_().mul_(dt_now)
        torch.mul(x_now.transpose(1, 2), weight.transpose(2, 3)[..., None], out=incoming)
        h.view(batch, G, N, R, P).mul_(kept[:, :, None, :, -1:])
        h.baddbmm_(B_now.mT, incoming.view(-1, length, R * P))
