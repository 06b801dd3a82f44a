"""Attention of one block of queries over stretches of key tiles: what all prefill kernels share.

The online softmax is FlashAttention-2's (arXiv:2307.08691), in powers of two with the scale folded
into the exponent's multiply-add. The keys that a block of queries sees fall into stretches: the
sinks, the window's left edge, the inside (no mask at all) and the diagonal; each is a loop of its
own, so that a mask costs instructions only where it hides something.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ctxsweep_kernels.triton_common import product


@triton.jit
def key_stretches(first, stop, window, sinks, WINDOWED: tl.constexpr, BN: tl.constexpr):
    """Tiles of BN keys that queries at positions `first .. stop - 1` see, as five edges.

    `[0, sink_end)` sinks before the window, `[low, inside)` left edge, `[inside, diagonal)` seen
    whole by every query, `[diagonal, end)` diagonal. Every tile holds a key that a query sees.
    Also a function of plain integers: `key_stretches.fn`.
    """
    end = (stop - 1) // BN + 1
    diagonal = (first + 1) // BN
    if WINDOWED:
        low = max(first - window + 1, 0) // BN
        inside = min((max(stop - window, 0) + BN - 1) // BN, diagonal)
        sink_end = min((sinks + BN - 1) // BN, low)
    else:
        low = 0
        inside = 0
        sink_end = 0
    return sink_end, low, inside, diagonal, end


@triton.jit
def attend(
    q,
    load: tl.constexpr,
    load_scales: tl.constexpr,
    keys,
    values,
    first,
    stop,
    window,
    sinks,
    factor,
    softcap,
    slope,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PAGE: tl.constexpr,
    OPERAND: tl.constexpr,
    WINDOWED: tl.constexpr,
    NARROW: tl.constexpr,
    SINKS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ALIBI: tl.constexpr,
):
    """Softmax-weighted values `[BM, DP]` float32 of queries `q` `[BM, DP]` at `first .. stop - 1`.

    load(source, start, oldest, stop, sinks, EDGE, BN, D, DP, PAGE): keys or values
        `start .. start + BN - 1` from the tuple `keys` or `values`; with EDGE, zeros for what is
        neither in `oldest .. stop - 1` nor a sink.
    load_scales: the same, one float32 factor per key, or None.
    factor: on q . k, to powers of two; with SOFTCAP, to twice the argument of tanh.
    softcap, slope: in powers of two.
    OPERAND: what a matrix product takes; the dtype of q, but for bfloat16 in the interpreter,
        which multiplies its bit patterns: there float32.
    NARROW: a tile of the diagonal may also lie on the window's left edge.
    """
    sink_end, low, inside, diagonal, end = key_stretches(first, stop, window, sinks, WINDOWED, BN)
    rows = first + tl.arange(0, BM)
    out = tl.zeros([BM, DP], tl.float32)
    total = tl.zeros([BM], tl.float32)
    # Finite, so that a tile in which a row sees nothing adds exp2(-inf) = 0 and not NaN.
    top = tl.full([BM], -1e30, tl.float32)
    for stretch in tl.static_range(4):
        if stretch == 0:
            begin, until = 0, sink_end
        elif stretch == 1:
            begin, until = low, inside
        elif stretch == 2:
            begin, until = inside, diagonal
        else:
            begin, until = diagonal, end
        if (stretch > 1) or (WINDOWED and (SINKS or stretch == 1)):
            out, total, top = _walk(
                out, total, top, q, load, load_scales, keys, values, begin, until, rows,
                first, stop, window, sinks, factor, softcap, slope, BM, BN, D, DP, PAGE, OPERAND,
                WINDOWED,
                stretch == 0,
                stretch == 1 or (stretch == 3 and NARROW),
                stretch == 3,
                SINKS, SOFTCAP, ALIBI,
            )  # fmt: skip
    return out / total[:, None]


@triton.jit
def _walk(
    out,
    total,
    top,
    q,
    load: tl.constexpr,
    load_scales: tl.constexpr,
    keys,
    values,
    begin,
    until,
    rows,
    first,
    stop,
    window,
    sinks,
    factor,
    softcap,
    slope,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PAGE: tl.constexpr,
    OPERAND: tl.constexpr,
    WINDOWED: tl.constexpr,
    HEAD: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    SINKS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ALIBI: tl.constexpr,
):
    """Add key tiles `begin .. until - 1`, masked at the window's left, the right, or past sinks."""
    EDGE: tl.constexpr = HEAD or LEFT or RIGHT
    column = tl.arange(0, BN)
    oldest = first - window + 1 if WINDOWED else 0
    for tile in tl.range(begin, until):
        start = tile * BN
        k = load(keys, start, oldest, stop, sinks, EDGE, BN, D, DP, PAGE)
        s = product(q, k.T, tl.zeros([BM, BN], tl.float32), OPERAND)
        if load_scales is not None:
            s *= load_scales(keys, start, oldest, stop, sinks, EDGE, BN, PAGE)[None, :]
        if SOFTCAP:
            # softcap * tanh(x), with tanh(x) = 1 - 2 / (1 + exp(2 x)).
            s = softcap - 2 * softcap / (1 + tl.exp2(s * factor))
        elif ALIBI:
            s *= factor
        if ALIBI:
            s += slope * (column[None, :] - (rows - start)[:, None]).to(tl.float32)
        if HEAD:
            s = tl.where((column < sinks - start)[None, :], s, float("-inf"))
        if LEFT:
            seen = column[None, :] > (rows - window - start)[:, None]
            if SINKS:
                seen |= (column < sinks - start)[None, :]
            s = tl.where(seen, s, float("-inf"))
        if RIGHT:
            s = tl.where(column[None, :] <= (rows - start)[:, None], s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        if SOFTCAP or ALIBI:
            rescale = tl.exp2(top - higher)
            p = tl.exp2(s - higher[:, None])
        else:
            rescale = tl.exp2((top - higher) * factor)
            p = tl.exp2(s * factor - (higher * factor)[:, None])
        total = total * rescale + tl.sum(p, 1)
        top = higher
        if load_scales is not None:
            p *= load_scales(values, start, oldest, stop, sinks, EDGE, BN, PAGE)[None, :]
        v = load(values, start, oldest, stop, sinks, EDGE, BN, D, DP, PAGE)
        out = product(p.to(q.dtype), v, out * rescale[:, None], OPERAND)
    return out, total, top
