"""The Triton kernels of `paged_decode_attention`: split-length decode, then a merge.

The query rows of a KV head (its query heads times the new tokens) are the columns of a tile of
scores: S^T = K q^T and O^T = V^T P^T. The keys then fill the tensor cores' long side, K and V
feed it from shared memory as they lie there, and a group of 4 is padded to 8, not to 64.
Splitting the length with a log-sum-exp merge is Flash-Decoding (Dao et al. 2023).
"""

from __future__ import annotations

import triton
import triton.language as tl

from ctxsweep_kernels.triton_common import INTERPRETED, LOG2E, product

LOWEST = tl.constexpr(-1e30)  # finite: a column that has seen no key yet must not make NaN


@triton.jit
def tiles_of_row(
    length, tokens, window, SPLITS: tl.constexpr, LEAST: tl.constexpr, BLOCK: tl.constexpr
):
    """First tile of a row, one past its last, and the tiles that each live split takes."""
    first = 0
    if window is not None:
        first = tl.maximum(length - tokens - window + 1, 0) // BLOCK
    last = tl.cdiv(length, BLOCK)
    return first, last, tl.maximum(tl.cdiv(last - first, SPLITS), LEAST)


@triton.jit
def widen(x, TO: tl.constexpr):
    """Stored values in the dtype of the product."""
    if INTERPRETED:
        x = x.to(tl.float32)
    return x.to(TO)


@triton.jit
def load_rows(ptr, rows, mask, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK: tl.constexpr):
    """`[BLOCK, D_PAD]`: rows of D elements, zero where `mask` (or None) says so and past D."""
    dims = tl.arange(0, D_PAD)
    ptr += rows[:, None] * D + dims[None, :]
    if mask is not None:
        return tl.load(ptr, mask=mask[:, None] & (dims < D)[None, :], other=0.0)
    if D_PAD > D:
        return tl.load(ptr, mask=tl.broadcast_to((dims < D)[None, :], [BLOCK, D_PAD]), other=0.0)
    return tl.load(ptr)


@triton.jit
def in_turn(a, b, c, d):
    """Four `[n, m]` as one `[n, 4 * m]`: a, b, c, d, a, b, ..."""
    parts = tl.join(tl.join(a, c), tl.join(b, d))
    return parts.reshape([a.shape[0], 4 * a.shape[1]])


@triton.jit
def bytes_of(words, TO: tl.constexpr):
    """The four bytes of every int32 of `[n, m]`, as `[n, 4 * m]` of a type of one byte."""
    a, b = words.to(tl.int8), (words >> 8).to(tl.int8)
    c, d = (words >> 16).to(tl.int8), (words >> 24).to(tl.int8)
    return in_turn(a, b, c, d).to(TO, bitcast=True)


@triton.jit
def e4m3_of(words):
    """The e4m3 numbers in every int32 of `[n, m]`, divided by 256, as `[n, 4 * m]` float16.

    Shifted into float16's fields the exponent is 8 too small, its bias being 7 and not 15; two
    numbers are shifted at a time. NaN, 0x7F, gets the bit that makes it float16's.
    """
    nan = ((words & 0x7F7F7F7F) + 0x01010101) & -0x7F7F7F80
    even = ((words << 7) & 0x3F803F80) | ((words << 8) & -0x7FFF8000) | ((nan << 7) & 0x40004000)
    odd = ((words >> 1) & 0x3F803F80) | (words & -0x7FFF8000) | ((nan >> 1) & 0x40004000)
    a, c = even.to(tl.int16), (even >> 16).to(tl.int16)
    b, d = odd.to(tl.int16), (odd >> 16).to(tl.int16)
    return in_turn(a, b, c, d).to(tl.float16, bitcast=True)


@triton.jit
def attend(
    state, q, units, positions, slopes, pages_ptr, scales_ptr, table, k_slots, v_slots,
    tile, length, first, window, sinks, softcap,
    MASKED: tl.constexpr, PAGE: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
    BLOCK: tl.constexpr, QK: tl.constexpr, PV: tl.constexpr,
    PERMUTED: tl.constexpr, E4M3_BITS: tl.constexpr,
):  # fmt: skip
    """Add one tile of keys to the running softmax (weighted values, maximum, sums)."""
    acc, top, total = state
    local = tl.arange(0, BLOCK)
    keys = tile * BLOCK + local
    mask = None
    zero = None
    if MASKED:
        mask = keys < length
        zero = 0.0
        if window is not None:
            mask &= (keys >= first) | (keys < sinks)
    if PAGE % BLOCK == 0:
        page = tl.load(table + tile // (PAGE // BLOCK)).to(tl.int64)
        start = page * PAGE + tile % (PAGE // BLOCK) * BLOCK
        rows = local
        slots = start + local
    else:
        pages = tl.load(table + keys // PAGE, mask=mask, other=zero)
        start = tl.full([], 0, tl.int64)
        rows = pages.to(tl.int64) * PAGE + keys % PAGE
        slots = rows
    k_ptr = pages_ptr + (k_slots + start) * D
    v_ptr = pages_ptr + (v_slots + start) * D
    if pages_ptr.dtype.element_ty.primitive_bitwidth == 8:
        # Values wait in registers for the next iteration, where bytes would take one each.
        v_ptr = v_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
        v = load_rows(v_ptr, rows, mask, D // 4, D_PAD // 4, BLOCK)
        if E4M3_BITS:
            k_ptr = k_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
            k = e4m3_of(load_rows(k_ptr, rows, mask, D // 4, D_PAD // 4, BLOCK))
            v = e4m3_of(v)
        else:
            k = load_rows(k_ptr, rows, mask, D, D_PAD, BLOCK)
            v = bytes_of(v, k.dtype)
    else:
        k = load_rows(k_ptr, rows, mask, D, D_PAD, BLOCK)
        v = load_rows(v_ptr, rows, mask, D, D_PAD, BLOCK)
    k = widen(k, QK)
    v = widen(v, PV)
    if PERMUTED:
        # A lane's operands of all steps of the product are then consecutive bytes of a key.
        k = (
            k.reshape([BLOCK, 4, D_PAD // 16, 2, 2])
            .permute([0, 2, 3, 1, 4])
            .reshape([BLOCK, D_PAD])
        )
    s = product(k, q, tl.zeros([BLOCK, q.shape[1]], tl.float32), QK)
    if scales_ptr is not None:
        s *= tl.load(scales_ptr + k_slots + slots, mask=mask, other=zero)[:, None]
    relative = keys[:, None] - positions[None, :]
    if softcap is not None or slopes is not None:
        s *= units[None, :]
        if softcap is not None:
            s = (softcap * LOG2E) * (1.0 - 2.0 / (tl.exp2(s * (2.0 / softcap)) + 1.0))
        if slopes is not None:
            s += slopes[None, :] * relative
        units = tl.full(units.shape, 1.0, tl.float32)
    if MASKED:
        seen = relative <= 0
        if window is not None:
            seen &= (relative > -window) | (keys < sinks)[:, None]
        s = tl.where(seen, s, float("-inf"))
    now = tl.maximum(top, tl.max(s, 0))
    p = tl.exp2(s * units[None, :] - (now * units)[None, :])
    decay = tl.exp2((top - now) * units)
    total = total * decay[None, :] + p
    if scales_ptr is not None:
        p *= tl.load(scales_ptr + v_slots + slots, mask=mask, other=zero)[:, None]
    acc = product(tl.trans(v), p.to(PV), acc * decay[None, :], PV)
    return acc, now, total


@triton.jit
def decode_kernel(
    q_ptr, pages_ptr, scales_ptr, table_ptr, lengths_ptr, slopes_ptr, out_ptr, lse_ptr,
    scale, softcap, window, sinks, tokens, rows, slot_count,
    q_stride_b, q_stride_h, q_stride_t, table_stride,
    KV_HEADS: tl.constexpr, PAGE: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr, LEAST: tl.constexpr,
    QK: tl.constexpr, PV: tl.constexpr, NORMALISED: tl.constexpr,
    PERMUTED: tl.constexpr, E4M3_BITS: tl.constexpr,
):  # fmt: skip
    """One split of one KV head of one row of the batch; with one split, the output itself.

    q `[B, Hq, T, D]`; out `[B, Hkv, rows, SPLITS, D]` and lse (base 2) `[B, Hkv, rows, SPLITS]`.
    slot_count: slots (tokens) of one head's pages.
    """
    split = tl.program_id(0)
    head = tl.program_id(1) % KV_HEADS
    row_block = tl.program_id(1) // KV_HEADS
    batch = tl.program_id(2).to(tl.int64)
    length = tl.load(lengths_ptr + batch).to(tl.int32)
    tile0, tile1, per = tiles_of_row(length, tokens, window, SPLITS, LEAST, BLOCK)
    begin = tile0 + split * per
    end = tl.minimum(begin + per, tile1)
    if (SPLITS > 1) & (begin >= end):  # the only split of a row without keys writes zeros
        return

    cols = row_block * ROWS + tl.arange(0, ROWS)
    group = rows // tokens
    dims = tl.arange(0, D_PAD)
    if PERMUTED:
        dims = (dims // 2 % 4) * (D_PAD // 4) + dims // 16 * 4 + dims // 8 % 2 * 2 + dims % 2
    q_offsets = (head * group + cols // tokens).to(tl.int64) * q_stride_h
    q_offsets += (cols % tokens).to(tl.int64) * q_stride_t
    q = tl.load(
        q_ptr + batch * q_stride_b + q_offsets[None, :] + dims[:, None],
        mask=(cols < rows)[None, :] & (dims < D)[:, None],
        other=0.0,
    )
    # A maximum of scores before they are scaled needs a positive scale.
    q = tl.where(scale < 0.0, -q.to(tl.float32), q.to(tl.float32))
    units = tl.full([ROWS], 0.0, tl.float32) + tl.maximum(tl.abs(scale), 1e-37)
    if NORMALISED:  # bfloat16 queries of any size as float16, exactly: by a power of 2 each
        largest = tl.max(tl.abs(q), 0)
        power = (largest.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        power = tl.where(power > 0.0, power, 1.0)
        q /= power[None, :]
        units *= power
    q = q.to(QK)
    if E4M3_BITS:
        units *= 256.0
    positions = length - tokens + cols % tokens
    slopes = None
    if slopes_ptr is not None:
        slopes = tl.load(slopes_ptr + head * group + cols // tokens, mask=cols < rows, other=0.0)
        slopes *= LOG2E

    k_slots = head.to(tl.int64) * slot_count
    v_slots = (head + KV_HEADS).to(tl.int64) * slot_count
    table = table_ptr + batch * table_stride
    first = 0
    inner0 = begin
    sink_tiles = 0
    if window is not None:
        first = tl.maximum(length - tokens - window + 1, 0)
        inner0 = tl.cdiv(tl.maximum(length - window, 0), BLOCK)
        sink_tiles = tl.where(split == 0, tl.minimum(tl.cdiv(sinks, BLOCK), tile0), 0)
    inner0 = tl.minimum(tl.maximum(begin, inner0), end)
    inner1 = tl.maximum(tl.minimum((length - tokens + 1) // BLOCK, end), inner0)
    left = sink_tiles + inner0 - begin

    state = (
        tl.zeros([D_PAD, ROWS], tl.float32),
        tl.full([ROWS], LOWEST, tl.float32),
        tl.zeros([BLOCK, ROWS], tl.float32),
    )
    for i in tl.range(left + end - inner1):
        tile = tl.where(i < left, begin + i - sink_tiles, inner1 + i - left)
        tile = tl.where(i < sink_tiles, i, tile)
        state = attend(
            state, q, units, positions, slopes, pages_ptr, scales_ptr, table, k_slots, v_slots,
            tile, length, first, window, sinks, softcap,
            True, PAGE, D, D_PAD, BLOCK, QK, PV, PERMUTED, E4M3_BITS,
        )  # fmt: skip
    for tile in tl.range(inner0, inner1):
        state = attend(
            state, q, units, positions, slopes, pages_ptr, scales_ptr, table, k_slots, v_slots,
            tile, length, first, window, sinks, softcap,
            False, PAGE, D, D_PAD, BLOCK, QK, PV, PERMUTED, E4M3_BITS,
        )  # fmt: skip
    acc, top, total = state
    total = tl.sum(total, 0)
    acc /= tl.where(total > 0.0, total, 1.0)[None, :]
    if E4M3_BITS:
        acc *= 256.0
    # acc's rows are dimensions of V, which are not permuted.
    dims = tl.arange(0, D_PAD)
    places_out = ((batch * KV_HEADS + head) * rows + cols) * SPLITS + split
    tl.store(
        out_ptr + places_out[None, :] * D + dims[:, None],
        acc,
        mask=(cols < rows)[None, :] & (dims < D)[:, None],
    )
    if lse_ptr is not None:
        if softcap is not None or slopes is not None:
            units = tl.full([ROWS], 1.0, tl.float32)
        tl.store(lse_ptr + places_out, top * units + tl.log2(total), mask=cols < rows)


@triton.jit
def merge_kernel(
    partial_ptr, lse_ptr, lengths_ptr, out_ptr, window, tokens, rows_of_batch,
    D: tl.constexpr, D_PAD: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    LEAST: tl.constexpr, SPLIT_BLOCK: tl.constexpr,
):  # fmt: skip
    """One query row: partial `[.., SPLITS, D]` and lse `[.., SPLITS]` -> out `[.., D]`."""
    row = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths_ptr + row // rows_of_batch).to(tl.int32)
    tile0, tile1, per = tiles_of_row(length, tokens, window, SPLITS, LEAST, BLOCK)
    live = tl.cdiv(tile1 - tile0, per)
    dims = tl.arange(0, D_PAD)
    top = LOWEST
    total = 0.0
    acc = tl.zeros([D_PAD], tl.float32)
    for start in tl.range(0, live, SPLIT_BLOCK, num_stages=1):
        splits = start + tl.arange(0, SPLIT_BLOCK)
        lse = tl.load(lse_ptr + row * SPLITS + splits, mask=splits < live, other=float("-inf"))
        now = tl.maximum(top, tl.max(lse, 0))
        weights = tl.exp2(lse - now)
        part = tl.load(
            partial_ptr + (row * SPLITS + splits)[:, None] * D + dims[None, :],
            mask=(splits < live)[:, None] & (dims < D)[None, :],
            other=0.0,
        )
        decay = tl.exp2(top - now)
        acc = acc * decay + tl.sum(part * weights[:, None], 0)
        total = total * decay + tl.sum(weights, 0)
        top = now
    acc /= tl.where(total > 0.0, total, 1.0)
    tl.store(out_ptr + row * D + dims, acc, mask=dims < D)
