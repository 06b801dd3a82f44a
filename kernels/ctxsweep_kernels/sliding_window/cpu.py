"""The torch path of `sliding_window_attention`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ctxsweep_kernels.attention_tiles import DenseReader, attend, compute_dtype
from ctxsweep_kernels.score_rule import ScoreRule


def sliding_window_torch(
    q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule, edges: Tensor | None = None
) -> Tensor:
    """Arguments as in `sliding_window_attention`, checked. edges: cu_seqlens."""
    heads = (k.shape[1], -1)
    dtype = compute_dtype(q, k.dtype)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    cuts = [0, q.shape[2]] if edges is None else edges.tolist()
    for row in range(q.shape[0]):
        for first, stop in pairwise(cuts):
            if first == stop:
                continue
            span = slice(first, stop)
            reader = DenseReader(k[row, :, span], v[row, :, span], dtype)
            queries, result = (x[row, :, span].unflatten(0, heads) for x in (q, out))
            attend(queries, reader, 0, rule, result)
    return out
