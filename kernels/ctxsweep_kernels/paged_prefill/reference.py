"""The oracle of prefill and decode over a cache: gather a row densely, then one softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.reference import gather_row
from ctxsweep_kernels.sliding_window.reference import attention_reference


def paged_attention_reference(
    q: Tensor,
    cache: PagedKV,
    block_table: Tensor,
    lengths: Tensor,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Tensor:
    """Arguments as in `paged_prefill_attention`; computes and returns `[B, Hq, T, D]` in `dtype`.

    Quantised values are taken as what they stand for, so only arithmetic can differ.
    """
    rows = []
    for row, length in enumerate(lengths.tolist()):
        k, v = gather_row(cache, block_table[row], length, dtype)
        start = length - q.shape[2]
        rows.append(attention_reference(q[row].to(dtype), k, v, start, **options))
    return torch.stack(rows)
