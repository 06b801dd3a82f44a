"""Argument checks that the ops over a paged cache share."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxsweep_kernels.paged_cache import PagedKV, runs
from ctxsweep_kernels.score_rule import ScoreRule


def check_table(q: Tensor, cache: PagedKV, block_table: Tensor) -> None:
    """Raise ValueError unless `block_table`, `q` `[B, Hq, T, D]` and the cache fit each other."""
    if q.shape[3] != cache.head_dim:
        raise ValueError(f"q has head size {q.shape[3]}, the cache {cache.head_dim}")
    if block_table.dim() != 2 or block_table.shape[0] != q.shape[0]:
        raise ValueError(
            f"block_table must be [{q.shape[0]}, max_pages], got {list(block_table.shape)}"
        )
    if block_table.dtype != torch.int32:
        raise ValueError(f"block_table must be int32, got {block_table.dtype}")


def check_lengths(lengths: Tensor, q: Tensor) -> None:
    """Raise ValueError unless `lengths` is int64 `[B]`; its values are not read."""
    if lengths.shape != (q.shape[0],) or lengths.dtype != torch.int64:
        raise ValueError(
            f"lengths must be int64 [{q.shape[0]}], got {lengths.dtype} {list(lengths.shape)}"
        )


def checked_lengths(lengths: Tensor, q: Tensor, cache: PagedKV, block_table: Tensor) -> list[int]:
    """Tokens per row; ValueError unless each covers the new tokens and fits the table."""
    check_lengths(lengths, q)
    capacity = block_table.shape[1] * cache.page_size
    rows: list[int] = lengths.tolist()
    for row, length in enumerate(rows):
        if not q.shape[2] <= length <= capacity:
            raise ValueError(
                f"lengths[{row}] = {length} must lie between the {q.shape[2]} new tokens "
                f"and the block table's capacity of {capacity}"
            )
    return rows


def check_pages(
    q: Tensor, cache: PagedKV, block_table: Tensor, lengths: list[int], rule: ScoreRule
) -> None:
    """Raise ValueError unless every page that the new tokens see is allocated."""
    size = cache.page_size
    for table, length in zip(block_table, lengths, strict=True):
        first = rule.first_key(length - q.shape[2])
        runs(table, 0, -(-min(rule.sinks, first) // size))
        runs(table, first // size, -(-length // size))
