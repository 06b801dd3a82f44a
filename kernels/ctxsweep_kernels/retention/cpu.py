"""Retention chunk by chunk in plain torch, on any device, with work space of one chunk.

The decays depend on positions alone, so they are computed once per call.
"""

from __future__ import annotations

import torch

from ctxsweep_kernels.chunking import scratch_like, whole_and_tail


@torch.no_grad()
def retention_torch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_gamma: torch.Tensor,
    state: torch.Tensor,
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The arguments of `retention`, already checked."""
    tokens = q.shape[1]
    log_gamma = log_gamma.to(state.dtype)
    if tokens == 1:
        q_, k_, v_ = (t[:, 0].to(state.dtype) for t in (q, k, v))
        new_state = state * log_gamma.exp()[:, None, None]
        new_state.addcmul_(k_[..., None], v_[..., None, :])
        return torch.matmul(q_[:, :, None], new_state).transpose(1, 2).to(v.dtype), new_state
    new_state = state.clone(memory_format=torch.contiguous_format)
    y = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    for span, length in whole_and_tail(tokens, chunk):
        _scan(q[:, span], k[:, span], v[:, span], log_gamma, new_state, y[:, span], length)
    return y, new_state


def _scan(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_gamma: torch.Tensor,
    state: torch.Tensor,
    y: torch.Tensor,
    length: int,
) -> None:
    """Whole chunks of `length` tokens; y is written and the state `[B, H, K, V]` updated."""
    batch, tokens, heads, K = q.shape
    V = v.shape[-1]
    empty = scratch_like(state)
    scores = empty(batch, heads, length, length)
    out, incoming = empty(batch, heads, length, V), empty(batch, heads, length, K)
    position = torch.arange(length, dtype=state.dtype, device=state.device)
    rate = log_gamma[:, None, None]
    between = torch.exp(rate * (position[:, None] - position).clamp(min=0)).tril()
    since_start = torch.exp(rate * (position[:, None] + 1))
    to_end = torch.exp(rate * position.flip(0)[:, None])
    for start in range(0, tokens, length):
        now = slice(start, start + length)
        q_, k_, v_ = (t[:, now].transpose(1, 2).flatten(0, 1).to(state.dtype) for t in (q, k, v))
        torch.bmm(q_, k_.mT, out=scores.view(-1, length, length))
        scores.mul_(between)
        torch.bmm(q_, state.view(-1, K, V), out=out.view(-1, length, V))
        out.mul_(since_start).view(-1, length, V).baddbmm_(scores.view(-1, length, length), v_)
        y[:, now] = out.transpose(1, 2)
        torch.mul(k[:, now].transpose(1, 2), to_end, out=incoming)
        state.mul_(since_start[:, -1:]).view(-1, K, V).baddbmm_(incoming.view(-1, length, K).mT, v_)
