"""The torch path of `paged_prefill_attention`."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxsweep_kernels.attention_tiles import attend, compute_dtype
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.reader import PageReader
from ctxsweep_kernels.score_rule import ScoreRule


def paged_prefill_torch(
    q: Tensor, cache: PagedKV, block_table: Tensor, lengths: list[int], rule: ScoreRule
) -> Tensor:
    """Arguments as in `paged_prefill_attention`, checked."""
    dtype = compute_dtype(q, cache.dtype)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for row, length in enumerate(lengths):
        reader = PageReader(cache, block_table[row], dtype)
        heads = (cache.kv_heads, -1)
        attend(
            q[row].unflatten(0, heads),
            reader,
            length - q.shape[2],
            rule,
            out[row].unflatten(0, heads),
        )
    return out
