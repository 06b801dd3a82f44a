"""Retention in Triton: one pass over the state for one token, two launches for many.

The first launch carries the state over the sequence and leaves a copy at the start of every chunk;
the second finds all outputs at once, from the state before a chunk and the tokens in it. A decay
between two tokens is a product of two factors of at most 1, one for each side of the start of a
block of queries: so no exponential is taken for a score, except on the diagonal.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ctxsweep_kernels.triton_common import LOG2E


@triton.jit
def decode_kernel(
    q_ptr, k_ptr, v_ptr, log_gamma_ptr, state_ptr, y_ptr, new_state_ptr,
    q_batch, q_head, k_batch, k_head, v_batch, v_head,
    H, K: tl.constexpr, V: tl.constexpr, REPEATS: tl.constexpr, STRIPS: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """One token. Each thread holds STRIPS columns of 16 bytes in every row it has, for which the
    row's q and k are read once; y is summed over the rows by the thread until the end."""
    sequence = tl.program_id(0).to(tl.int64)
    batch, head = sequence // H, sequence % H
    COLUMNS: tl.constexpr = STRIPS * LANES * VECTOR
    row = (
        tl.arange(0, REPEATS)[:, None, None, None, None] * ROWS
        + tl.arange(0, ROWS)[None, None, :, None, None]
    )
    column = (
        tl.program_id(1) * COLUMNS
        + tl.arange(0, STRIPS)[None, :, None, None, None] * (LANES * VECTOR)
        + tl.arange(0, LANES)[None, None, None, :, None] * VECTOR
        + tl.arange(0, VECTOR)[None, None, None, None, :]
    )
    WHOLE: tl.constexpr = K % (REPEATS * ROWS) == 0
    FULL: tl.constexpr = V % COLUMNS == 0
    gamma = tl.exp2(tl.load(log_gamma_ptr + head).to(tl.float32) * LOG2E)
    v_mask = None if FULL else column < V
    v = tl.load(v_ptr + batch * v_batch + head * v_head + column, mask=v_mask).to(tl.float32)
    y = tl.zeros((STRIPS, ROWS, LANES, VECTOR), tl.float32)
    for first in range(0, K, REPEATS * ROWS):
        i = first + row
        i_mask = None if WHOLE else i < K
        mask = None if WHOLE and FULL else (i < K) & (column < V)
        q = tl.load(q_ptr + batch * q_batch + head * q_head + i, mask=i_mask).to(tl.float32)
        k = tl.load(k_ptr + batch * k_batch + head * k_head + i, mask=i_mask).to(tl.float32)
        tile = sequence * (K * V) + i * V + column
        S = tl.load(state_ptr + tile, mask=mask) * gamma + k * v
        tl.store(new_state_ptr + tile, S, mask=mask)
        terms = S * q
        if not WHOLE:
            terms = tl.where(i < K, terms, 0.0)
        y += tl.sum(terms, 0)
    total = tl.expand_dims(tl.expand_dims(tl.sum(y, 1), 1), 0)
    tl.store(y_ptr + sequence * V + column, total.to(y_ptr.dtype.element_ty), mask=v_mask)


@triton.jit
def states_kernel(
    k_ptr, v_ptr, log_gamma_ptr, state_ptr, states_ptr, new_state_ptr,
    k_batch, k_token, k_head, v_batch, v_token, v_head,
    T, H, chunks, K: tl.constexpr, V: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """A tile of the state over the whole sequence, copied into states `[B, H, chunks, K, V]` at
    the start of every chunk."""
    sequence = tl.program_id(2).to(tl.int64)
    batch, head = sequence // H, sequence % H
    i = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    j = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    step = tl.arange(0, BLOCK)
    rate = tl.load(log_gamma_ptr + head).to(tl.float32) * LOG2E
    k_ptr += batch * k_batch + head * k_head
    v_ptr += batch * v_batch + head * v_head
    tile = i[:, None] * V + j[None, :]
    mask = (i < K)[:, None] & (j < V)[None, :]
    k_tile = step[:, None] * k_token + i[None, :]
    v_tile = step[:, None] * v_token + j[None, :]
    S = tl.load(state_ptr + sequence * (K * V) + tile, mask=mask, other=0.0)
    for start in tl.range(0, T, BLOCK, num_stages=STAGES):
        if start % CHUNK == 0:
            at_chunk = sequence * chunks + start // CHUNK
            narrow = S.to(states_ptr.dtype.element_ty)
            tl.store(states_ptr + at_chunk * (K * V) + tile, narrow, mask=mask)
        count = tl.minimum(BLOCK, T - start)
        at = tl.cast(start, tl.int64)
        k_mask = (step < count)[:, None] & (i < K)[None, :]
        v_mask = (step < count)[:, None] & (j < V)[None, :]
        k = tl.load(k_ptr + at * k_token + k_tile, mask=k_mask, other=0.0)
        v = tl.load(v_ptr + at * v_token + v_tile, mask=v_mask, other=0.0)
        to_end = tl.exp2(rate * tl.maximum(count - 1 - step, 0).to(tl.float32))
        k = (k.to(tl.float32) * to_end[:, None]).to(OPERAND)
        S *= tl.exp2(rate * tl.cast(count, tl.float32))
        S = tl.dot(tl.trans(k), v.to(OPERAND), acc=S, input_precision=PRECISION)
    tl.store(new_state_ptr + sequence * (K * V) + tile, S, mask=mask)


@triton.jit
def outputs_kernel(
    q_ptr, k_ptr, v_ptr, log_gamma_ptr, states_ptr, y_ptr,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
    T, H, chunks, K: tl.constexpr, V: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_K: tl.constexpr, ALL_K: tl.constexpr, BLOCK_V: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """QUERIES tokens and BLOCK_V values of y."""
    sequence = tl.program_id(2).to(tl.int64)
    batch, head = sequence // H, sequence % H
    first = tl.program_id(0) * QUERIES
    chunk = first // CHUNK
    t = first + tl.arange(0, QUERIES)
    i = tl.arange(0, ALL_K)
    j = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    rate = tl.load(log_gamma_ptr + head).to(tl.float32) * LOG2E
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head * k_head
    v_ptr += batch * v_batch + head * v_head
    states_ptr += (sequence * chunks + chunk) * (K * V)
    q_at = t.to(tl.int64)[:, None] * q_token

    y = tl.zeros((QUERIES, BLOCK_V), tl.float32)
    for first_k in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        part = first_k + tl.arange(0, BLOCK_K)
        q_mask = (t < T)[:, None] & (part < K)[None, :]
        S_mask = (part < K)[:, None] & (j < V)[None, :]
        q_part = tl.load(q_ptr + q_at + part[None, :], mask=q_mask, other=0.0).to(OPERAND)
        S = tl.load(states_ptr + part[:, None] * V + j[None, :], mask=S_mask, other=0.0)
        y = tl.dot(q_part, S, acc=y, input_precision=PRECISION)
    y *= tl.exp2(rate * (first - chunk * CHUNK + 1).to(tl.float32))

    q_mask = (t < T)[:, None] & (i < K)[None, :]
    q = tl.load(q_ptr + q_at + i[None, :], mask=q_mask, other=0.0).to(OPERAND)
    step = tl.arange(0, KEYS)
    k_tile = step[:, None] * k_token + i[None, :]
    v_tile = step[:, None] * v_token + j[None, :]
    to_end = tl.exp2(rate * (KEYS - step).to(tl.float32))
    for start in tl.range(chunk * CHUNK, first, KEYS, num_stages=STAGES):
        at = tl.cast(start, tl.int64)
        k = tl.load(k_ptr + at * k_token + k_tile, mask=(i < K)[None, :], other=0.0)
        v = tl.load(v_ptr + at * v_token + v_tile, mask=(j < V)[None, :], other=0.0)
        scores = tl.dot(q, tl.trans(k.to(OPERAND)), input_precision=PRECISION)
        scores *= (to_end * tl.exp2(rate * tl.cast(first - KEYS - start, tl.float32)))[None, :]
        y = tl.dot(scores.to(OPERAND), v.to(OPERAND), acc=y, input_precision=PRECISION)
    row = tl.arange(0, QUERIES).to(tl.float32)
    y *= tl.exp2(rate * row)[:, None]
    for start in tl.range(first, tl.minimum(first + QUERIES, T), KEYS, num_stages=STAGES):
        at = tl.cast(start, tl.int64)
        s = start + step
        k_mask = (s < T)[:, None] & (i < K)[None, :]
        v_mask = (s < T)[:, None] & (j < V)[None, :]
        k = tl.load(k_ptr + at * k_token + k_tile, mask=k_mask, other=0.0)
        v = tl.load(v_ptr + at * v_token + v_tile, mask=v_mask, other=0.0)
        scores = tl.dot(q, tl.trans(k.to(OPERAND)), input_precision=PRECISION)
        distance = row[:, None] - (start - first + step).to(tl.float32)[None, :]
        scores *= tl.exp2(tl.where(distance >= 0.0, rate * distance, float("-inf")))
        y = tl.dot(scores.to(OPERAND), v.to(OPERAND), acc=y, input_precision=PRECISION)
    y_at = ((batch * T + t) * H + head)[:, None] * V + j[None, :]
    y_mask = (t < T)[:, None] & (j < V)[None, :]
    tl.store(y_ptr + y_at, y.to(y_ptr.dtype.element_ty), mask=y_mask)
