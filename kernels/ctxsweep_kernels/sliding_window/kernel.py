"""The Triton path of `sliding_window_attention`."""

from __future__ import annotations

import triton
import triton.language as tl

from ctxsweep_kernels.sliding_window.stretches import attend


@triton.jit
def window_kernel(
    q,
    k,
    v,
    out,
    edges,
    slopes,
    n,
    sequences,
    window,
    sinks,
    factor,
    softcap,
    q_batch,
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    out_batch,
    out_head,
    out_row,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    OPERAND: tl.constexpr,
    TMA: tl.constexpr,
    WINDOWED: tl.constexpr,
    NARROW: tl.constexpr,
    SINKS: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    """One block of BM queries of one head: grid (heads, blocks of queries, batch).

    q, k, v are tensor descriptors with TMA, else pointers. edges: sequence boundaries `[R + 1]` of
    a ragged batch, or None. DP is D padded to a power of two.
    """
    head = tl.program_id(0)
    block = tl.num_programs(1) - 1 - tl.program_id(1)  # the longest rows first
    batch = tl.program_id(2).to(tl.int64)
    origin = 0
    if edges is not None:
        sequence, block = _find(edges, block, sequences, BM)
        origin = tl.load(edges + sequence).to(tl.int64)
        n = (tl.load(edges + sequence + 1) - origin).to(tl.int32)
    first = block * BM
    if first >= n:
        return
    stop = min(first + BM, n)
    row = first + tl.arange(0, BM)
    depth = tl.arange(0, DP)
    kv_head = head // GROUP
    if TMA:
        queries = q.load([tl.program_id(2), head, first, 0]).reshape(BM, DP)
        keys = (k, tl.program_id(2), kv_head)
        values = (v, tl.program_id(2), kv_head)
    else:
        at = q + batch * q_batch + head.to(tl.int64) * q_head
        at += (origin + row[:, None]).to(tl.int64) * q_row
        queries = tl.load(
            at + depth[None, :], mask=(row[:, None] < n) & (depth[None, :] < D), other=0.0
        )
        k += batch * k_batch + kv_head.to(tl.int64) * k_head + origin * k_row
        v += batch * v_batch + kv_head.to(tl.int64) * v_head + origin * v_row
        keys = (k, k_row)
        values = (v, v_row)
    slope = 0.0
    if slopes is not None:
        slope = tl.load(slopes + head)
    result = attend(
        queries,
        _load_described if TMA else _load_rows,
        None,
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
        0,
        OPERAND,
        WINDOWED,
        NARROW,
        SINKS,
        SOFTCAP,
        slopes is not None,
    )
    at = out + batch * out_batch + head.to(tl.int64) * out_head + (origin + row[:, None]) * out_row
    tl.store(
        at + depth[None, :],
        result.to(out.dtype.element_ty),
        mask=(row[:, None] < n) & (depth[None, :] < D),
    )


@triton.jit
def _find(edges, block, sequences, BM: tl.constexpr):
    """Sequence that holds `block`, and the block's index in it; may lie past the sequence's end.

    Sequence i begins at block edges[i] // BM + i, which leaves room for a ragged last block each.
    """
    low = block * 0
    high = low + sequences
    while high - low > 1:
        middle = (low + high) // 2
        if (tl.load(edges + middle) // BM).to(tl.int32) + middle <= block:
            low = middle
        else:
            high = middle
    return low, block - low - (tl.load(edges + low) // BM).to(tl.int32)


@triton.jit
def _load_described(
    source,
    start,
    low,
    stop,
    sinks,
    EDGE: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PAGE: tl.constexpr,
):
    """A tile by TMA, which fills with zeros past the end."""
    descriptor, batch, head = source
    return descriptor.load([batch, head, start, 0]).reshape(BN, DP)


@triton.jit
def _load_rows(
    source,
    start,
    low,
    stop,
    sinks,
    EDGE: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PAGE: tl.constexpr,
):
    base, stride = source
    row = tl.arange(0, BN)[:, None]
    depth = tl.arange(0, DP)[None, :]
    # One wide base and narrow offsets that no iteration changes: wide pointers take registers.
    at = base + start.to(tl.int64) * stride + (row * stride + depth)
    if EDGE:
        return tl.load(at, mask=(row < stop - start) & (depth < D), other=0.0)
    if D < DP:
        return tl.load(at, mask=depth < D, other=0.0)
    return tl.load(at)
