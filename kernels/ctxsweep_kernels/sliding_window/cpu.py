"""The torch path of `sliding_window_attention`."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxsweep_kernels.attention_tiles import DenseReader, attend, compute_dtype
from ctxsweep_kernels.score_rule import ScoreRule


def sliding_window_torch(q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule) -> Tensor:
    """Arguments as in `sliding_window_attention`, checked."""
    kv_heads = k.shape[1]
    dtype = compute_dtype(q, k.dtype)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for row in range(q.shape[0]):
        reader = DenseReader(k[row], v[row], dtype)
        heads = (kv_heads, -1)
        attend(q[row].unflatten(0, heads), reader, 0, rule, out[row].unflatten(0, heads))
    return out
