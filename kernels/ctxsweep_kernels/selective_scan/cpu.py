"""The selective scan in plain torch: vectorised where tokens are independent, one call per token
where they are not.

Decays and inputs of a segment are prepared together, then every token is one `addcmul_` on
buffers that stay in cache, and the outputs of the segment are one product. Channels lie last
(`[N, Dm]`), so that every broadcast runs along contiguous memory.
"""

from __future__ import annotations

import torch

from ctxsweep_kernels.chunking import LOG2E, scratch_like, whole_and_tail
from ctxsweep_kernels.selective_state_update.cpu import update_channels

SEGMENT_VALUES = 2**19  # per buffer: 2 MiB in float32, so that both stay in cache
LONGEST_SEGMENT = 64


@torch.no_grad()
def selective_scan_torch(
    u: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    state: torch.Tensor,
    D: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The arguments of `selective_scan`, already checked."""
    tokens = u.shape[1]
    if tokens == 1:
        new_state = torch.empty(state.shape, dtype=state.dtype, device=state.device)
        now = (t[:, 0] for t in (u, dt))
        y = update_channels(state, *now, A, B[:, 0], C[:, 0], D, out=new_state)
        return y[:, None], new_state
    h = state.mT.clone(memory_format=torch.contiguous_format)
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    rate = A.to(h.dtype).mT.contiguous() * LOG2E
    skip = None if D is None else D.to(h.dtype)
    segment = min(LONGEST_SEGMENT, max(1, SEGMENT_VALUES // h.numel()))
    for span, length in whole_and_tail(tokens, segment):
        us, dts, Bs, Cs, ys = (t[:, span] for t in (u, dt, B, C, y))
        _scan(us, dts, rate, Bs, Cs, skip, h, ys, length)
    return y, h.mT.contiguous()


def _scan(
    u: torch.Tensor,
    dt: torch.Tensor,
    rate: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    skip: torch.Tensor | None,
    h: torch.Tensor,
    y: torch.Tensor,
    length: int,
) -> None:
    """Whole segments of `length` tokens; the state h `[B, N, Dm]` is updated."""
    batch, N, channels = h.shape
    empty = scratch_like(h)
    decay, states = (empty(batch, length, N, channels) for _ in range(2))
    mixed = empty(batch, length, 1, channels)
    steps = list(zip(decay.unbind(1), states.unbind(1), strict=True))
    for start in range(0, u.shape[1], length):
        now = slice(start, start + length)
        u_now, dt_now, B_now, C_now = (t[:, now].to(h.dtype) for t in (u, dt, B, C))
        torch.mul(dt_now[:, :, None], rate, out=decay).exp2_()
        torch.mul((dt_now * u_now)[:, :, None], B_now[..., None], out=states)
        last = h
        for kept, state in steps:
            last = state.addcmul_(kept, last)
        torch.matmul(C_now[:, :, None], states, out=mixed)
        y_now = mixed[:, :, 0]
        if skip is not None:
            y_now.addcmul_(u_now, skip)
        y[:, now] = y_now
        h.copy_(last)
