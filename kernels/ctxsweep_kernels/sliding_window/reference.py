"""The oracle of all attention ops: one dense softmax, in the precision of its arguments."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: int = 0,
    window: int | None = None,
    sinks: int = 0,
    scale: float | None = None,
    alibi_slopes: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """q `[Hq, T, D]` at positions `start ..` over k, v `[Hkv, start + T, D]` -> `[Hq, T, D]`.

    Keys that no query sees may hold anything, NaN included.
    """
    group = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = torch.einsum("htd,hnd->htn", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    query = torch.arange(start, start + q.shape[1]).unsqueeze(1)
    key = torch.arange(k.shape[1]).unsqueeze(0)
    if alibi_slopes is not None:
        scores = scores + alibi_slopes.to(scores.dtype).view(-1, 1, 1) * (key - query)
    seen = key <= query
    if window is not None:
        seen &= (query - key < window) | (key < sinks)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("htn,hnd->htd", weights, v.masked_fill(~seen.any(0).view(1, -1, 1), 0.0))
