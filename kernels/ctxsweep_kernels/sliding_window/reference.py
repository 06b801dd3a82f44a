"""The oracle of all attention ops: one dense softmax, in the precision of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

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
    scores, v = _scores(q, k, v, start, window, sinks, scale, alibi_slopes, softcap)
    return torch.einsum("htn,hnd->htd", scores.softmax(-1), v)


def rounded_weights_reference(
    q: Tensor, k: Tensor, v: Tensor, start: int = 0, window: int | None = None, **options: Any
) -> Tensor:
    """`attention_reference` as tensor cores of q's dtype compute it, returned in that dtype.

    All is float32, but for the weights exp(score - max) <= 1, which are rounded to q's dtype
    before they meet v; they are normalised last, by the sum of the weights not rounded.
    """
    scores, values = _scores(q.float(), k.float(), v.float(), start, window, **options)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    out = torch.einsum("htn,hnd->htd", weights.to(q.dtype).float(), values)
    return (out / weights.sum(-1, keepdim=True)).to(q.dtype)


def _scores(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: int,
    window: int | None,
    sinks: int = 0,
    scale: float | None = None,
    alibi_slopes: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores `[Hq, T, n]`, -inf where hidden, and v for every query head, 0 where never seen."""
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
    values = v.masked_fill(~seen.any(0).view(1, -1, 1), 0.0)
    return scores.masked_fill(~seen, float("-inf")), values


def ragged_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edges: list[int],
    reference: Callable[..., Tensor] = attention_reference,
    **options: Any,
) -> Tensor:
    """`reference` of every sequence `edges[i] .. edges[i + 1] - 1` alone, one after the other."""
    spans = [slice(a, b) for a, b in pairwise(edges) if b > a]
    return torch.cat([reference(q[:, s], k[:, s], v[:, s], **options) for s in spans], dim=1)
