"""One decode step on a GPU: every state value is read once, updated in registers, written once.

A tile of the state is laid out `[repeats, rows, lanes, 16 bytes]`: the lanes of a row load whole
cache lines, each holds many of the row's N values, and so the sum over N costs few shuffles.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ctxsweep_kernels.chunking import LOG2E
from ctxsweep_kernels.launch import Launch, architecture, multiprocessors

LANES = 8  # of one row: 8 x 16 bytes are a cache line


@triton.jit
def update_heads_kernel(
    state,
    new_state,
    x,
    dt,
    A,
    B,
    C,
    D,
    y,
    stride_xb,
    stride_xh,
    stride_xp,
    stride_db,
    stride_dh,
    stride_a,
    stride_bb,
    stride_bg,
    stride_bn,
    stride_cb,
    stride_cg,
    stride_cn,
    stride_skip,
    heads_per_group,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    REPEATS: tl.constexpr,
    ROW_LANES: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG2E: tl.constexpr,
):
    """Mamba-2: one program per `ROWS` of P of one head."""
    head, batch = tl.program_id(1), tl.program_id(2)
    group = head // heads_per_group
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rows = p[None, :, None, None]
    n = (
        tl.arange(0, REPEATS)[:, None, None, None] * (ROW_LANES * VECTOR)
        + tl.arange(0, ROW_LANES)[None, None, :, None] * VECTOR
        + tl.arange(0, VECTOR)[None, None, None, :]
    )
    WHOLE: tl.constexpr = P % ROWS == 0
    FULL: tl.constexpr = N == REPEATS * ROW_LANES * VECTOR
    p_mask = None if WHOLE else p < P
    n_mask = None if FULL else n < N
    mask = None if WHOLE and FULL else (rows < P) & (n < N)

    tile = (batch * H + head).to(tl.int64) * (P * N) + rows * N + n
    h = tl.load(state + tile, mask=mask).to(tl.float32)
    b = tl.load(B + batch * stride_bb + group * stride_bg + n * stride_bn, mask=n_mask)
    c = tl.load(C + batch * stride_cb + group * stride_cg + n * stride_cn, mask=n_mask)
    step = tl.load(dt + batch * stride_db + head * stride_dh).to(tl.float32)
    rate = tl.load(A + head * stride_a).to(tl.float32)
    x_now = tl.load(x + batch * stride_xb + head * stride_xh + p * stride_xp, mask=p_mask)
    x_now = x_now.to(tl.float32)

    h = h * tl.exp2(step * rate * LOG2E) + (step * x_now)[None, :, None, None] * b.to(tl.float32)
    tl.store(new_state + tile, h.to(new_state.dtype.element_ty), mask=mask)
    terms = h * c.to(tl.float32)
    if not FULL:
        terms = tl.where(n < N, terms, 0.0)
    out = tl.sum(tl.sum(tl.sum(terms, 3), 0), 1)
    if D is not None:
        out += tl.load(D + head * stride_skip).to(tl.float32) * x_now
    tl.store(y + (batch * H + head) * P + p, out.to(y.dtype.element_ty), mask=p_mask)
