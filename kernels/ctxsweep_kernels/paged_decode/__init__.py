"""Attention of one new token, or of a few speculative ones, over a paged cache."""

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
from ctxsweep_kernels.paged_decode.c import paged_decode_c
from ctxsweep_kernels.paged_decode.cpu import paged_decode_torch
from ctxsweep_kernels.score_rule import make_rule

__all__ = ["MAX_DECODE_TOKENS", "paged_decode_attention"]

MAX_DECODE_TOKENS = 8


def paged_decode_attention(
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
    """Causal attention `[B, Hq, T, D]` of the last T <= 8 positions of every row over the cache.

    Arguments and errors are those of `paged_prefill_attention`; there are no gradients. The work is
    bound by reading the cache, so the query heads of a group share one pass over their keys and
    values, and only the pages of the window and the sinks are touched. In Triton on a GPU the
    values of `block_table` and `lengths` are not checked: that would wait for the GPU.
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
    if q.shape[2] > MAX_DECODE_TOKENS:
        raise ValueError(
            f"decode takes at most {MAX_DECODE_TOKENS} new tokens, got {q.shape[2]}; "
            "use paged_prefill_attention"
        )
    check_table(q, cache, block_table)
    check_lengths(lengths, q)
    tensors = (q, cache.pages, block_table, lengths, rule.alibi_slopes)
    devices = [x.device for x in tensors if x is not None]
    chosen = choose(impl, "paged_decode_attention", devices, unfit=_unfit_for_triton(cache))
    if chosen == "triton":
        from ctxsweep_kernels.paged_decode.plan import paged_decode_triton

        if lengths.device.type == "cpu":  # on a GPU, reading values would synchronise
            rows = checked_lengths(lengths, q, cache, block_table)
            check_pages(q, cache, block_table, rows, rule)
        return paged_decode_triton(q, cache, block_table, lengths, rule)
    rows = checked_lengths(lengths, q, cache, block_table)
    if chosen == "c":
        return paged_decode_c(q, cache, block_table, lengths, rule)
    return paged_decode_torch(q, cache, block_table, rows, rule)


def _unfit_for_triton(cache: PagedKV) -> str | None:
    dim = cache.head_dim
    if dim % 8 or dim > 256:
        return f"its head size must divide by 8 and be at most 256, not {dim}; use impl='torch'"
    return None
