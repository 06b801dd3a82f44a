"""Rotate new queries and keys, then write keys and values into the paged cache."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxsweep_kernels.dispatch import Impl, choose
from ctxsweep_kernels.paged_cache import PagedKV, runs
from ctxsweep_kernels.paged_cache.checks import check_table
from ctxsweep_kernels.rope_append.c import rope_append_c
from ctxsweep_kernels.rope_append.cpu import rope_append_torch
from ctxsweep_kernels.score_rule import COMPUTE_DTYPES

__all__ = ["rope_append"]


def rope_append(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: PagedKV,
    block_table: Tensor,
    starts: Tensor,
    inv_freq: Tensor | None = None,
    attention_factor: float = 1.0,
    impl: Impl = "auto",
) -> Tensor:
    """Append T tokens to every row; returns the rotated q `[B, Hq, T, D]`.

    q: `[B, Hq, T, D]`; k, v: `[B, Hkv, T, D]`.
    block_table: `[B, max_pages]` int32, the pages of all new positions allocated.
    starts: `[B]` int64, position of the first new token of every row.
    inv_freq: `[R / 2]` rotary frequencies in radians per token; the first R of the D dimensions
        are rotated as two halves (arXiv:2104.09864 in the layout that transformers' Llama uses).
        None rotates nothing (ALiBi, learned positions).
    attention_factor: multiplies the rotated dimensions of q and k (YaRN, arXiv:2309.00071).
    Angles and rotation are float32; the cache's storage rules are in `paged_cache.storage`.
    In Triton on a GPU the values of `block_table` and `starts` are not checked, since that would
    wait for the GPU; what falls on a page that is -1 is then not written.

    Raises:
        ValueError: shapes, dtypes or positions that do not fit, or a page is missing.
        UnsupportedImplementation: `impl` does not exist for this op.
    """
    if q.dim() != 4 or k.dim() != 4 or k.shape != v.shape:
        raise ValueError(
            "q must be [B, Hq, T, D], k and v [B, Hkv, T, D], "
            f"got {list(q.shape)}, {list(k.shape)}, {list(v.shape)}"
        )
    expected = (q.shape[0], cache.kv_heads, *q.shape[2:])
    if k.shape != expected:
        raise ValueError(f"k and v must be {list(expected)}, got {list(k.shape)}")
    if q.dtype not in COMPUTE_DTYPES or {k.dtype, v.dtype} != {q.dtype}:
        raise ValueError(
            "q, k and v must have one dtype, float32, bfloat16 or float16, "
            f"got {q.dtype}, {k.dtype}, {v.dtype}"
        )
    check_table(q, cache, block_table)
    if inv_freq is not None and not (
        inv_freq.dim() == 1 and 0 < 2 * inv_freq.shape[0] <= q.shape[3]
    ):
        raise ValueError(
            f"inv_freq must be [R / 2] with 0 < R <= {q.shape[3]}, got {list(inv_freq.shape)}"
        )
    if starts.shape != (q.shape[0],) or starts.dtype != torch.int64:
        raise ValueError(
            f"starts must be int64 [{q.shape[0]}], got {starts.dtype} {list(starts.shape)}"
        )
    tensors = (q, k, v, cache.pages, block_table, starts, inv_freq)
    devices = {x.device for x in tensors if x is not None}
    chosen = choose(impl, "rope_append", devices)
    if chosen == "triton":
        from ctxsweep_kernels.rope_append.kernel import rope_append_triton

        if starts.device.type == "cpu":  # on a GPU, reading values would synchronise
            _check_pages(_checked_starts(starts, q, cache, block_table), q, cache, block_table)
        return rope_append_triton(q, k, v, cache, block_table, starts, inv_freq, attention_factor)
    rows = _checked_starts(starts, q, cache, block_table)
    if chosen == "c":
        return rope_append_c(q, k, v, cache, block_table, starts, inv_freq, attention_factor)
    return rope_append_torch(q, k, v, cache, block_table, rows, inv_freq, attention_factor)


def _check_pages(starts: list[int], q: Tensor, cache: PagedKV, block_table: Tensor) -> None:
    """Raise ValueError unless every page that is written is allocated."""
    size = cache.page_size
    for table, start in zip(block_table, starts, strict=True):
        runs(table, start // size, -(-(start + q.shape[2]) // size))


def _checked_starts(starts: Tensor, q: Tensor, cache: PagedKV, block_table: Tensor) -> list[int]:
    capacity = block_table.shape[1] * cache.page_size
    rows: list[int] = starts.tolist()
    for row, start in enumerate(rows):
        if start < 0 or start + q.shape[2] > capacity:
            raise ValueError(
                f"starts[{row}] = {start} with {q.shape[2]} new tokens is outside the block "
                f"table's capacity of {capacity}"
            )
    return rows
