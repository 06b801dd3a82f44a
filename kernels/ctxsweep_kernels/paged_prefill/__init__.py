"""Attention of a chunk of new tokens over a paged cache that already holds them."""

from __future__ import annotations

from torch import Tensor

from ctxsweep_kernels.dispatch import Impl, choose
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.checks import check_table, checked_lengths
from ctxsweep_kernels.paged_prefill.cpu import paged_prefill_torch
from ctxsweep_kernels.score_rule import make_rule

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
        window nor the sinks reach may be -1 and are never read.
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
    rows = checked_lengths(lengths, q, cache, block_table)
    devices = [x.device for x in (q, cache.pages, block_table, lengths)]
    choose(impl, "paged_prefill_attention", devices)
    return paged_prefill_torch(q, cache, block_table, rows, rule)
