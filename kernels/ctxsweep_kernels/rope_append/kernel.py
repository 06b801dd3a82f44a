"""The Triton kernel of `rope_append`: one launch rotates, quantises and writes into pages.

Float8 is encoded with integer operations, so that every GPU, with float8 conversions or without,
and the interpreter store the same bytes.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.storage import FP8_DTYPES, INT8_MAX, NAN_CODE

HEADS_OF_PROGRAM = 16
MANTISSA_BITS = {torch.float8_e4m3fn: 3, torch.float8_e5m2: 2}
HALF_PI = tl.constexpr(math.pi / 2)
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
MOST_INT8 = tl.constexpr(INT8_MAX)
NAN_BYTE = tl.constexpr(NAN_CODE)
ROUNDED_BY = tl.constexpr(1.5 * 2.0**23)  # a float32 that is added and taken off leaves an integer


@triton.jit
def cos_sin(angle):
    """Cosine and sine of a float32 angle of any size, to about one unit in the last place.

    The quarter turns come off in float64, which is exact enough up to 1e15 radians; libdevice's
    reduction of large angles would keep an array in local memory. The rest, within pi / 4, is a
    Taylor polynomial.
    """
    wide = angle.to(tl.float64)
    turns = tl.floor(wide / HALF_PI + 0.5)
    x = (wide - turns * HALF_PI).to(tl.float32)
    y = x * x
    sine = x + x * y * (-1 / 6 + y * (1 / 120 + y * (-1 / 5040 + y * (1 / 362880))))
    cosine = y * (1 / 24 + y * (-1 / 720 + y * (1 / 40320 + y * (-1 / 3628800))))
    cosine = 1.0 + y * (cosine - 0.5)
    quarter = turns.to(tl.int64).to(tl.int32) & 3
    swapped = (quarter & 1) == 1
    c = tl.where(swapped, sine, cosine)
    s = tl.where(swapped, cosine, sine)
    return tl.where((quarter == 1) | (quarter == 2), -c, c), tl.where(quarter >= 2, -s, s)


@triton.jit
def float8_code(x, MANTISSA: tl.constexpr):
    """The byte of float32 `x` in e4m3 or e5m2: nearest even, saturating, one code for NaN."""
    SHIFT: tl.constexpr = 23 - MANTISSA
    LOWEST_EXPONENT: tl.constexpr = -6 if MANTISSA == 3 else -14
    LARGEST: tl.constexpr = 448.0 if MANTISSA == 3 else 57344.0
    bits = x.to(tl.int32, bitcast=True)
    size = tl.where(x == x, tl.minimum(tl.abs(x), LARGEST), 0.0)
    whole = size.to(tl.int32, bitcast=True)
    rounded = (whole + ((1 << (SHIFT - 1)) - 1) + ((whole >> SHIFT) & 1)) >> SHIFT
    normal = rounded - ((LOWEST_EXPONENT + 126) << MANTISSA)
    # Adding 2^23 steps of the subnormals rounds to a whole number of them.
    small = (size * 2.0 ** (MANTISSA - LOWEST_EXPONENT) + 2.0**23).to(tl.int32, bitcast=True)
    code = tl.where(size < 2.0**LOWEST_EXPONENT, small & 0xF, normal)
    code |= (bits >> 24) & 0x80
    return tl.where(x == x, code, NAN_BYTE).to(tl.uint8)


@triton.jit
def largest(x):
    """Largest magnitude of each row of `x`; NaN if one is in it."""
    holds_nan = tl.max((x != x).to(tl.int32), 1)
    return tl.where(holds_nan != 0, float("nan"), tl.max(tl.abs(x), 1))


@triton.jit
def stored(x, scale, MANTISSA: tl.constexpr, SCALED: tl.constexpr):
    """`x` as the cache holds it, still to be cast by the store."""
    if MANTISSA > 0:
        x = float8_code(x, MANTISSA)
    elif SCALED:
        x = tl.div_rn(x, tl.broadcast_to(scale[:, None], x.shape)) + ROUNDED_BY - ROUNDED_BY
        x = tl.clamp(x, -MOST_INT8, MOST_INT8).to(tl.int8)
    return x


@triton.jit
def append_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, pages_ptr, scales_ptr, table_ptr, starts_ptr, inv_freq_ptr,
    attention_factor, tokens, page_count,
    q_stride_b, q_stride_h, q_stride_t, k_stride_b, k_stride_h, k_stride_t,
    v_stride_b, v_stride_h, v_stride_t, table_stride,
    Q_HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
    HALF_PAD: tl.constexpr, REST_PAD: tl.constexpr, PAGE: tl.constexpr, HEADS: tl.constexpr,
    MANTISSA: tl.constexpr,
):  # fmt: skip
    """Some heads of q, k or v of one token. Q_HEADS is 0 where nothing is rotated."""
    Q_BLOCKS: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    KV_BLOCKS: tl.constexpr = (KV_HEADS + HEADS - 1) // HEADS
    SCALED: tl.constexpr = scales_ptr is not None
    REST: tl.constexpr = D - 2 * HALF
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    position = tl.load(starts_ptr + batch) + token

    count = KV_HEADS
    if part < Q_BLOCKS:
        block = part
        count = Q_HEADS
        source = q_ptr + batch * q_stride_b + token * q_stride_t
        stride = q_stride_h.to(tl.int64)
    elif part < Q_BLOCKS + KV_BLOCKS:
        block = part - Q_BLOCKS
        source = k_ptr + batch * k_stride_b + token * k_stride_t
        stride = k_stride_h.to(tl.int64)
    else:
        block = part - Q_BLOCKS - KV_BLOCKS
        source = v_ptr + batch * v_stride_b + token * v_stride_t
        stride = v_stride_h.to(tl.int64)
    heads = block * HEADS + tl.arange(0, HEADS)
    there = (heads < count)[:, None]
    rows = source + (heads * stride)[:, None]

    halves = tl.arange(0, HALF_PAD)
    rests = tl.arange(0, REST_PAD)
    in_half = there & (halves < HALF)[None, :]
    in_rest = there & (rests < REST)[None, :]
    if HALF > 0:
        a = tl.load(rows + halves[None, :], mask=in_half, other=0.0)
        b = tl.load(rows + (halves + HALF)[None, :], mask=in_half, other=0.0)
        given = a.dtype
        a = a.to(tl.float32)
        b = b.to(tl.float32)
        if part < Q_BLOCKS + KV_BLOCKS:
            inv_freq = tl.load(inv_freq_ptr + halves, mask=halves < HALF, other=0.0)
            cos, sin = cos_sin(position.to(tl.float32) * inv_freq.to(tl.float32))
            cos = (cos * attention_factor)[None, :]
            sin = (sin * attention_factor)[None, :]
            turned = a * cos - b * sin
            b = (b * cos + a * sin).to(given).to(tl.float32)
            a = turned.to(given).to(tl.float32)
    if REST > 0:
        rest = tl.load(rows + (rests + 2 * HALF)[None, :], mask=in_rest, other=0.0).to(tl.float32)

    if part < Q_BLOCKS:
        out = out_ptr + (((batch * Q_HEADS + heads) * tokens + token) * D)[:, None]
        if HALF > 0:
            tl.store(out + halves[None, :], a, mask=in_half)
            tl.store(out + (halves + HALF)[None, :], b, mask=in_half)
        if REST > 0:
            tl.store(out + (rests + 2 * HALF)[None, :], rest, mask=in_rest)
    else:
        page = tl.load(table_ptr + batch * table_stride + position // PAGE).to(tl.int64)
        allocated = (page >= 0) & (page < page_count)
        written = heads < tl.where(allocated, KV_HEADS, 0)
        in_half = written[:, None] & (halves < HALF)[None, :]
        in_rest = written[:, None] & (rests < REST)[None, :]
        side = (part >= Q_BLOCKS + KV_BLOCKS).to(tl.int64)
        slots = ((side * KV_HEADS + heads) * page_count + page) * PAGE + position % PAGE
        scale = None
        if SCALED:
            top = tl.zeros([HEADS], tl.float32)
            if HALF > 0:
                top = tl.maximum(top, largest(a), propagate_nan=tl.PropagateNan.ALL)
                top = tl.maximum(top, largest(b), propagate_nan=tl.PropagateNan.ALL)
            if REST > 0:
                top = tl.maximum(top, largest(rest), propagate_nan=tl.PropagateNan.ALL)
            scale = tl.div_rn(top, tl.full([HEADS], MOST_INT8, tl.float32))
            scale = tl.maximum(scale, TINY, propagate_nan=tl.PropagateNan.ALL)
            tl.store(scales_ptr + slots, scale, mask=written)
        page_rows = pages_ptr + (slots * D)[:, None]
        if HALF > 0:
            codes = stored(a, scale, MANTISSA, SCALED)
            tl.store(page_rows + halves[None, :], codes, mask=in_half)
            codes = stored(b, scale, MANTISSA, SCALED)
            tl.store(page_rows + (halves + HALF)[None, :], codes, mask=in_half)
        if REST > 0:
            codes = stored(rest, scale, MANTISSA, SCALED)
            tl.store(page_rows + (rests + 2 * HALF)[None, :], codes, mask=in_rest)


def plan_append(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: PagedKV,
    block_table: Tensor,
    starts: Tensor,
    inv_freq: Tensor | None,
    attention_factor: float,
    out: Tensor | None,
) -> list[Launch]:
    """The launch that writes the cache and, where q is rotated, `out`; the same on every GPU."""
    batch, q_heads, tokens, dim = q.shape
    half = 0 if inv_freq is None else inv_freq.shape[0]
    q_heads = q_heads if half else 0
    heads = min(HEADS_OF_PROGRAM, triton.next_power_of_2(max(q_heads, cache.kv_heads)))
    parts = triton.cdiv(q_heads, heads) + 2 * triton.cdiv(cache.kv_heads, heads)
    narrow = cache.dtype in FP8_DTYPES
    arguments = {
        "q_ptr": q,
        "k_ptr": k,
        "v_ptr": v,
        "out_ptr": out,
        "pages_ptr": cache.pages.view(torch.uint8) if narrow else cache.pages,
        "scales_ptr": cache.scales,
        "table_ptr": block_table,
        "starts_ptr": starts,
        "inv_freq_ptr": inv_freq,
        "attention_factor": float(attention_factor),
        "tokens": tokens,
        "page_count": cache.page_count,
        "table_stride": block_table.stride(0),
        "Q_HEADS": q_heads,
        "KV_HEADS": cache.kv_heads,
        "D": dim,
        "HALF": half,
        "HALF_PAD": triton.next_power_of_2(max(1, half)),
        "REST_PAD": triton.next_power_of_2(max(1, dim - 2 * half)),
        "PAGE": cache.page_size,
        "HEADS": heads,
        "MANTISSA": MANTISSA_BITS[cache.dtype] if narrow else 0,
    }
    for name, x in (("q", q), ("k", k), ("v", v)):
        for axis, stride in zip("bht", x.stride()[:3], strict=True):
            arguments[f"{name}_stride_{axis}"] = stride
    warps = 2 if dim <= 128 else 4
    # Tokens come first: only a grid's first axis takes more than 65535.
    return [Launch(append_kernel, (tokens, parts, batch), arguments, num_warps=warps, num_stages=1)]


def rope_append_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: PagedKV,
    block_table: Tensor,
    starts: Tensor,
    inv_freq: Tensor | None,
    attention_factor: float,
) -> Tensor:
    """Arguments as in `rope_append`, checked."""
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    table = block_table if block_table.stride(1) == 1 else block_table.contiguous()
    starts = starts.contiguous()
    out = None
    if inv_freq is not None:
        inv_freq = inv_freq.to(torch.float32).contiguous()
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    plan = plan_append(q, k, v, cache, table, starts, inv_freq, attention_factor, out)
    for launch in plan:
        launch.run()
    return q if out is None else out
