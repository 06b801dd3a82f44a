"""Attention of a chunk of new tokens over a paged cache that already holds them."""

from __future__ import annotations

from torch import Tensor

from ctxsweep_kernels.dispatch import Impl, choose
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.checks import (
    check_lengths,
    check_pages,
    check_table,
    checked_lengths,
)
from ctxsweep_kernels.paged_prefill.c import paged_prefill_c
from ctxsweep_kernels.paged_prefill.cpu import paged_prefill_torch
from ctxsweep_kernels.score_rule import make_rule
from ctxsweep_kernels.sliding_window import unfit_for_triton

__all__ = ["paged_prefill_attention"]


def paged_prefill_attention(
    q: Tensor,
    cache: PagedKV,
    block_table: Tensor,
    lengths: Tensor,
    window: int | None = None,
    scale: float | None = None,
    alibi_slopes: Tensor | None = None,
    sinks: int = 0,
    softcap: float | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Causal attention `[B, Hq, T, D]` of the last T positions of every row over the cache.

    q: `[B, Hq, T, D]`, rotated; row b holds positions `lengths[b] - T .. lengths[b] - 1`.
    cache: holds those positions already (append first, attend second), so that a prompt fed in
        chunks gives what it gives whole, quantised caches included.
    block_table: `[B, max_pages]` int32, logical page -> physical page; pages that neither a
        window nor the sinks reach may be -1 and are never read. On a GPU the values of the
        table and of `lengths` are not checked.
    lengths: `[B]` int64, tokens in the cache of every row.
    window, scale, alibi_slopes, sinks, softcap: as in `sliding_window_attention`.

    Raises:
        ValueError: shapes, dtypes or options that do not fit, or a page is missing.
        UnsupportedImplementation: `impl` does not exist for this op.
    """
    rule = make_rule(
        q,
        cache.kv_heads,
        window=window,
        sinks=sinks,
        scale=scale,
        alibi_slopes=alibi_slopes,
        softcap=softcap,
    )
    check_table(q, cache, block_table)
    tensors = (q, cache.pages, block_table, lengths, rule.alibi_slopes)
    devices = [x.device for x in tensors if x is not None]
    unfit = unfit_for_triton(q, rule)
    name = choose(impl, "paged_prefill_attention", devices, unfit=unfit)
    if name == "triton" and lengths.device.type != "cpu":
        rows = None  # reading them would wait for the GPU
        check_lengths(lengths, q)
    else:
        rows = checked_lengths(lengths, q, cache, block_table)
    if name == "triton":
        from ctxsweep_kernels.paged_prefill.plan import paged_prefill_triton

        if rows is not None:
            check_pages(q, cache, block_table, rows, rule)
        return paged_prefill_triton(q, cache, block_table, lengths, rule)
    if name == "c":
        return paged_prefill_c(q, cache, block_table, lengths, rule)
    return paged_prefill_torch(q, cache, block_table, rows, rule)
