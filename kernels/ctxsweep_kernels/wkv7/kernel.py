"""RWKV-7 in Triton: one pass over the state for one token, two launches for many.

With the queries, keys and decays of `cpu.py`, relative to the middle of a chunk, `M = mask(Q K^T)`
and `X = (I - M_ab)^-1`, the first launch finds for all chunks at once

    Ta = X Q_a          Tv = X M_ak v          Y1 = Q_r + M_rb Ta          Y0 = M_rb Tv + M_rk v

and the second walks the chunks with little left to do:

    u = Ta S^T + Tv     y = Y1 S^T + Y0        S = S + u^T K_b + v^T K_k

The state is carried in float32 and decays in float32: only what a chunk reads from it, and what it
adds to it, passes through the narrow operands of the tensor cores.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ctxsweep_kernels.triton_common import LOG2E


@triton.jit
def decode_kernel(
    r_ptr, log_w_ptr, k_ptr, v_ptr, a_ptr, b_ptr, state_ptr, y_ptr, new_state_ptr,
    K: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr, STRIPS: tl.constexpr,
    LANES: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """One token. Of a row, each thread holds many values and few lanes hold a share: a sum over
    the row then costs few shuffles, and the vectors over K are read once for many rows."""
    head = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    j = (
        tl.arange(0, STRIPS)[:, None, None, None] * (LANES * VECTOR)
        + tl.arange(0, LANES)[None, None, :, None] * VECTOR
        + tl.arange(0, VECTOR)[None, None, None, :]
    )
    rows = i[None, :, None, None]
    WHOLE: tl.constexpr = V % ROWS == 0
    FULL: tl.constexpr = K == STRIPS * LANES * VECTOR
    i_mask = None if WHOLE else i < V
    j_mask = None if FULL else j < K
    mask = None if WHOLE and FULL else (rows < V) & (j < K)
    zero = None if FULL else 0.0
    r = tl.load(r_ptr + head * K + j, mask=j_mask, other=zero).to(tl.float32)
    w = tl.exp2(tl.load(log_w_ptr + head * K + j, mask=j_mask, other=zero).to(tl.float32) * LOG2E)
    k = tl.load(k_ptr + head * K + j, mask=j_mask, other=zero).to(tl.float32)
    a = tl.load(a_ptr + head * K + j, mask=j_mask, other=zero).to(tl.float32)
    b = tl.load(b_ptr + head * K + j, mask=j_mask, other=zero).to(tl.float32)
    v = tl.load(v_ptr + head * V + i, mask=i_mask).to(tl.float32)
    tile = head * (V * K) + rows * K + j
    # Loaded last: the compiler lays the arithmetic out as its last load.
    S = tl.load(state_ptr + tile, mask=mask, other=None if mask is None else 0.0)
    removed = tl.sum(tl.sum(tl.sum(S * a, 3), 0), 1)
    S = S * w + removed[None, :, None, None] * b + v[None, :, None, None] * k
    tl.store(new_state_ptr + tile, S, mask=mask)
    y = tl.sum(tl.sum(tl.sum(S * r, 3), 0), 1)
    tl.store(y_ptr + head * V + i, y.to(y_ptr.dtype.element_ty), mask=i_mask)


@triton.jit
def inverse(A, row, column, C: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """`(I - A)^-1` of a strictly lower triangular `[C, C]`, by halves: with the diagonal blocks of
    size 2^s inverted in X, those of twice the size follow from `X + X A' X`, where A' is what lies
    between two neighbours. No power of A is formed, so nothing grows that must cancel."""
    X = tl.where(row == column, 1.0, tl.where(row ^ 1 == column, A.to(tl.float32), 0.0))
    for s in tl.static_range(1, 6):
        if 1 << s < C:
            between = tl.where((row >> s) ^ 1 == column >> s, A, tl.zeros_like(A))
            step = tl.dot(between, X.to(OPERAND), input_precision=PRECISION)
            X = tl.dot(X.to(OPERAND), step.to(OPERAND), acc=X, input_precision=PRECISION)
    return X.to(OPERAND)


@triton.jit
def decays(log_w, C: tl.constexpr, EXACT: tl.constexpr):
    """Decays from the chunk's middle to the end of each token `[C, K]` (above 1 before the middle,
    and so in range), their inverse, those to the token's start, and, as `[K]`, from the chunk's
    start to its middle and from there to its end.

    The tensor cores add float16 exactly. With EXACT an exponent is a sum of multiples of 2^-11,
    which float32 holds, and a small rest: one that is rounded at 7 would be the largest error.
    """
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    early = row < C // 2
    sign = tl.where((column < C // 2) & (column > row), -1.0, 0.0)
    sign = tl.where((column >= C // 2) & (column <= row), 1.0, sign).to(tl.float16)
    if EXACT:
        exponent = log_w.to(tl.float32) * LOG2E
        high = tl.floor(exponent * 2048.0 + 0.5) * (1.0 / 2048.0)
        low = exponent - high
        sums, rest = tl.dot(sign, high.to(tl.float16)), tl.dot(sign, low.to(tl.float16))
        after = tl.exp2(sums) * tl.exp2(rest)
        growth = tl.exp2(-sums) * tl.exp2(-rest)
        before = tl.exp2(sums - high) * tl.exp2(rest - low)
        start = tl.exp2(tl.sum(tl.where(early, high, 0.0), axis=0))
        start *= tl.exp2(tl.sum(tl.where(early, low, 0.0), axis=0))
        end = tl.exp2(tl.sum(tl.where(early, 0.0, high), axis=0))
        end *= tl.exp2(tl.sum(tl.where(early, 0.0, low), axis=0))
    else:
        high = log_w.to(tl.float16)
        sums = tl.dot(sign, high)
        if log_w.dtype == tl.float32:
            sums = tl.dot(sign, (log_w - high.to(tl.float32)).to(tl.float16), acc=sums)
        sums *= LOG2E
        exponent = log_w.to(tl.float32) * LOG2E
        after, growth, before = tl.exp2(sums), tl.exp2(-sums), tl.exp2(sums - exponent)
        start = tl.exp2(tl.sum(tl.where(early, exponent, 0.0), axis=0))
        end = tl.exp2(tl.sum(tl.where(early, 0.0, exponent), axis=0))
    return after, growth, before, start, end


@triton.jit
def chunks_kernel(
    r_ptr, log_w_ptr, k_ptr, v_ptr, a_ptr, b_ptr, y_ptr,
    Y1_ptr, Ta_ptr, Tv_ptr, Kb_ptr, Kk_ptr, start_ptr, end_ptr,
    T, H,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of one head. Y0 goes into y; the others are `[B, H, chunks, C, K or V]`, but
    K_b and K_k may be `[.., K, C]`."""
    chunk = tl.program_id(0)
    sequence = tl.program_id(1).to(tl.int64)
    batch, head = sequence // H, sequence % H
    t = chunk * C + tl.arange(0, C)
    j = tl.arange(0, BLOCK_K)
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    mask = (t < T)[:, None] & (j < K)[None, :]
    at = ((batch * T + t) * H + head)[:, None] * K + j[None, :]
    at_chunk = sequence * tl.cdiv(T, C) + chunk
    made = at_chunk * (C * K) + row * K + j[None, :]
    # The tensor cores want K_b and K_k transposed; without them, registers are short of that.
    turned = made if PRECISION == "ieee" else at_chunk * (C * K) + j[None, :] * C + row
    made_mask = (row < C) & (j < K)[None, :]

    log_w = tl.load(log_w_ptr + at, mask=mask, other=0.0)
    after, growth, before, start, end = decays(log_w, C, PRECISION == "ieee")
    tl.store(start_ptr + at_chunk * K + j, start, mask=j < K)
    tl.store(end_ptr + at_chunk * K + j, end, mask=j < K)
    b = tl.load(b_ptr + at, mask=mask, other=0.0).to(tl.float32)
    Kb = (b * growth).to(OPERAND)
    tl.store(Kb_ptr + turned, Kb, mask=made_mask)
    k = tl.load(k_ptr + at, mask=mask, other=0.0).to(tl.float32)
    Kk = (k * growth).to(OPERAND)
    tl.store(Kk_ptr + turned, Kk, mask=made_mask)
    a = tl.load(a_ptr + at, mask=mask, other=0.0).to(tl.float32)
    Qa = (a * before).to(OPERAND)
    r = tl.load(r_ptr + at, mask=mask, other=0.0).to(tl.float32)
    Qr = (r * after).to(OPERAND)

    Mrb = tl.dot(Qr, tl.trans(Kb), input_precision=PRECISION)
    Mrb = tl.where(row >= column, Mrb, 0.0).to(OPERAND)
    Mrk = tl.dot(Qr, tl.trans(Kk), input_precision=PRECISION)
    Mrk = tl.where(row >= column, Mrk, 0.0).to(OPERAND)
    Mab = tl.dot(Qa, tl.trans(Kb), input_precision=PRECISION)
    Mab = tl.where(row > column, Mab, 0.0).to(OPERAND)
    X = inverse(Mab, row, column, C, OPERAND, PRECISION)
    Ta = tl.dot(X, Qa, input_precision=PRECISION).to(OPERAND)
    tl.store(Ta_ptr + made, Ta, mask=made_mask)
    Y1 = tl.dot(Mrb, Ta, acc=Qr.to(tl.float32), input_precision=PRECISION)
    tl.store(Y1_ptr + made, Y1.to(OPERAND), mask=made_mask)
    Mak = tl.dot(Qa, tl.trans(Kk), input_precision=PRECISION)
    Mak = tl.where(row > column, Mak, 0.0).to(OPERAND)
    for first in range(0, V, BLOCK_V):
        i = first + tl.arange(0, BLOCK_V)
        v_mask = (t < T)[:, None] & (i < V)[None, :]
        v_at = ((batch * T + t) * H + head)[:, None] * V + i[None, :]
        v = tl.load(v_ptr + v_at, mask=v_mask, other=0.0).to(OPERAND)
        seen = tl.dot(Mak, v, input_precision=PRECISION).to(OPERAND)
        Tv = tl.dot(X, seen, input_precision=PRECISION).to(OPERAND)
        y = tl.dot(Mrk, v, input_precision=PRECISION)
        y = tl.dot(Mrb, Tv, acc=y, input_precision=PRECISION)
        tl.store(y_ptr + v_at, y.to(y_ptr.dtype.element_ty), mask=v_mask)
        in_chunk = at_chunk * (C * V) + row * V + i[None, :]
        tl.store(Tv_ptr + in_chunk, Tv, mask=(row < C) & (i < V)[None, :])


@triton.jit
def walk_kernel(
    v_ptr, state_ptr, y_ptr, new_state_ptr,
    Y1_ptr, Ta_ptr, Tv_ptr, Kb_ptr, Kk_ptr, start_ptr, end_ptr,
    T, H, chunks,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """All chunks of BLOCK_V rows of the state, which is held transposed `[K, V]`: y is completed
    and the last state written."""
    sequence = tl.program_id(1).to(tl.int64)
    batch, head = sequence // H, sequence % H
    i = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    j = tl.arange(0, BLOCK_K)
    step = tl.arange(0, C)
    in_state = sequence * (V * K) + i[None, :] * K + j[:, None]
    state_mask = (j < K)[:, None] & (i < V)[None, :]
    S = tl.load(state_ptr + in_state, mask=state_mask, other=0.0)
    for chunk in tl.range(0, chunks, num_stages=STAGES):
        at_chunk = sequence * chunks + chunk
        t = chunk * C + step
        y_mask = (t < T)[:, None] & (i < V)[None, :]
        y_at = ((batch * T + t) * H + head)[:, None] * V + i[None, :]
        k_mask = (step < C)[:, None] & (j < K)[None, :]
        k_at = at_chunk * (C * K) + step[:, None] * K + j[None, :]
        v_mask = (step < C)[:, None] & (i < V)[None, :]
        v_at = at_chunk * (C * V) + step[:, None] * V + i[None, :]
        start = tl.load(start_ptr + at_chunk * K + j, mask=j < K, other=0.0)
        Ta = tl.load(Ta_ptr + k_at, mask=k_mask, other=0.0)
        Tv = tl.load(Tv_ptr + v_at, mask=v_mask, other=0.0)
        Y1 = tl.load(Y1_ptr + k_at, mask=k_mask, other=0.0)
        Y0 = tl.load(y_ptr + y_at, mask=y_mask, other=0.0)
        v = tl.load(v_ptr + y_at, mask=y_mask, other=0.0).to(OPERAND)
        if PRECISION == "ieee":
            Kb = tl.load(Kb_ptr + k_at, mask=k_mask, other=0.0)
            Kk = tl.load(Kk_ptr + k_at, mask=k_mask, other=0.0)
        else:
            turned = at_chunk * (C * K) + j[:, None] * C + step[None, :]
            turned_mask = (j < K)[:, None] & (step < C)[None, :]
            Kb = tl.load(Kb_ptr + turned, mask=turned_mask, other=0.0)
            Kk = tl.load(Kk_ptr + turned, mask=turned_mask, other=0.0)
        end = tl.load(end_ptr + at_chunk * K + j, mask=j < K, other=0.0)
        S *= start[:, None]
        narrow = S.to(OPERAND)
        U = tl.dot(Ta, narrow, acc=Tv.to(tl.float32), input_precision=PRECISION)
        y = tl.dot(Y1, narrow, acc=Y0.to(tl.float32), input_precision=PRECISION)
        if PRECISION == "ieee":
            Kb, Kk = tl.trans(Kb), tl.trans(Kk)
        S = tl.dot(Kk, v, acc=S, input_precision=PRECISION)
        S = tl.dot(Kb, U.to(OPERAND), acc=S, input_precision=PRECISION)
        S *= end[:, None]
        tl.store(y_ptr + y_at, y.to(y_ptr.dtype.element_ty), mask=y_mask)
    tl.store(new_state_ptr + in_state, S, mask=state_mask)
