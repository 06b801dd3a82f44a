"""The oracle's view of a cache: one row's keys and values, dense and in high precision."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxsweep_kernels.paged_cache import PagedKV


def gather_row(
    cache: PagedKV, block_table_row: Tensor, length: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Keys and values `[Hkv, length, D]` of one row. Pages that are -1 read as NaN."""
    positions = torch.arange(length, device=cache.device)
    page = block_table_row.to(torch.int64)[positions // cache.page_size]
    slot = positions % cache.page_size
    stored = cache.pages[:, :, page.clamp(min=0), slot]
    values = stored.to(dtype)
    if cache.scales is not None:
        values *= cache.scales[:, :, page.clamp(min=0), slot].to(dtype).unsqueeze(-1)
    values[:, :, page < 0] = float("nan")
    return values[0], values[1]
