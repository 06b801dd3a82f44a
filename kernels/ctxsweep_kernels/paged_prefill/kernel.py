"""The Triton kernel of `paged_prefill_attention`."""

from __future__ import annotations

import triton
import triton.language as tl

from ctxsweep_kernels.sliding_window.stretches import attend


@triton.jit
def paged_prefill_kernel(
    q,
    pages,
    scales,
    table,
    lengths,
    out,
    slopes,
    tokens,
    kv_heads,
    pool,
    window,
    sinks,
    factor,
    softcap,
    q_batch,
    q_head,
    q_row,
    out_batch,
    out_head,
    out_row,
    table_row,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PAGE: tl.constexpr,
    COMPUTE: tl.constexpr,
    OPERAND: tl.constexpr,
    E4M3_BYTES: tl.constexpr,
    WINDOWED: tl.constexpr,
    NARROW: tl.constexpr,
    SINKS: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    """One block of BM queries of one head: grid (heads, blocks of queries, batch).

    tokens: queries of a row; pool: tokens that all pages of one head hold.
    COMPUTE: the dtype in which queries, keys and weights meet.
    E4M3_BYTES: pages are fp8 e4m3 as bytes, for GPUs that do not know the type.
    """
    head = tl.program_id(0)
    block = tl.num_programs(1) - 1 - tl.program_id(1)  # the longest rows first
    batch = tl.program_id(2)
    start = (tl.load(lengths + batch)).to(tl.int32) - tokens
    first = start + block * BM
    stop = min(first + BM, start + tokens)
    row = block * BM + tl.arange(0, BM)
    depth = tl.arange(0, DP)
    inside = (row[:, None] < tokens) & (depth[None, :] < D)
    q += batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head
    out += batch.to(tl.int64) * out_batch + head.to(tl.int64) * out_head
    at = row[:, None].to(tl.int64) * q_row + depth[None, :]
    queries = tl.load(q + at, mask=inside, other=0.0).to(COMPUTE)
    kv_head = head // GROUP
    key_tokens = kv_head.to(tl.int64) * pool
    value_tokens = (kv_heads + kv_head).to(tl.int64) * pool
    table += batch.to(tl.int64) * table_row
    keys = (pages + key_tokens * D, table)
    values = (pages + value_tokens * D, table)
    if scales is not None:
        keys = (pages + key_tokens * D, table, scales + key_tokens)
        values = (pages + value_tokens * D, table, scales + value_tokens)
    slope = 0.0
    if slopes is not None:
        slope = tl.load(slopes + head)
    result = attend(
        queries,
        _load_e4m3_bytes if E4M3_BYTES else _load_pages,
        None if scales is None else _load_scales,
        keys,
        values,
        first,
        stop,
        window,
        sinks,
        factor,
        softcap,
        slope,
        BM,
        BN,
        D,
        DP,
        PAGE,
        OPERAND,
        WINDOWED,
        NARROW,
        SINKS,
        SOFTCAP,
        slopes is not None,
    )
    at = row[:, None].to(tl.int64) * out_row + depth[None, :]
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _slots(table, start, oldest, stop, sinks, EDGE: tl.constexpr, BN: tl.constexpr, PAGE):
    """Where positions `start ..` lie in a head's pages, in tokens, and whether to read them."""
    position = start + tl.arange(0, BN)
    if EDGE:
        wanted = ((position >= oldest) & (position < stop)) | (position < sinks)
        page = tl.load(table + position // PAGE, mask=wanted, other=0)
    else:
        wanted = position >= 0
        if PAGE % BN == 0:
            page = tl.load(table + start // PAGE)
        else:
            page = tl.load(table + position // PAGE)
    return page * PAGE + position % PAGE, wanted


@triton.jit
def _load_pages(
    source,
    start,
    oldest,
    stop,
    sinks,
    EDGE: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PAGE: tl.constexpr,
):
    slot, wanted = _slots(source[1], start, oldest, stop, sinks, EDGE, BN, PAGE)
    depth = tl.arange(0, DP)[None, :]
    at = source[0] + slot[:, None].to(tl.int64) * D + depth
    if EDGE:
        return tl.load(at, mask=wanted[:, None] & (depth < D), other=0.0)
    if D < DP:
        return tl.load(at, mask=depth < D, other=0.0)
    return tl.load(at)


@triton.jit
def _load_e4m3_bytes(
    source,
    start,
    oldest,
    stop,
    sinks,
    EDGE: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PAGE: tl.constexpr,
):
    """e4m3 in the fields of float16 is 2**8 too small; its NaN, the code 0x7F, would be 480."""
    code = _load_pages(source, start, oldest, stop, sinks, EDGE, BN, D, DP, PAGE)
    bits = (code.to(tl.int16) << 7) & -0x4001
    value = bits.to(tl.float16, bitcast=True) * 256.0
    return tl.where((code & 0x7F) == 0x7F, float("nan"), value)


@triton.jit
def _load_scales(
    source, start, oldest, stop, sinks, EDGE: tl.constexpr, BN: tl.constexpr, PAGE: tl.constexpr
):
    slot, wanted = _slots(source[1], start, oldest, stop, sinks, EDGE, BN, PAGE)
    return tl.load(source[2] + slot, mask=wanted, other=0.0)
