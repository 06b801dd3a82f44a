"""Mamba-2's prefill on a GPU, in two launches.

The first carries the state over the chunks, in float32 registers, and writes down the state that
every chunk begins with. The second computes all chunks' outputs at once: what is inside a chunk is
a masked product whose scores C B^T are shared by the heads of a group, and what came before it is
one product with the chunk's first state.
"""

from __future__ import annotations

import triton
import triton.language as tl

LARGEST = tl.constexpr(100.0)  # exponent of 2: finite, so that a future token's score stays 0


@triton.jit
def decays(dt, there, rate, SUMS: tl.constexpr):
    """Steps (0 for tokens that are not there) and log2 of the decay since the chunk's start."""
    step = tl.load(dt, mask=there, other=0.0).to(tl.float32)
    return step, tl.cumsum(step.to(SUMS) * rate, 0)


@triton.jit
def rows_of_chunk(chunk, tokens, CHUNK: tl.constexpr):
    """Offsets of a chunk's tokens in it, the last one again for those that are not there, and
    which are there. A token that is not there has step 0, so what is read for it has no weight.
    """
    position = tl.arange(0, CHUNK)
    last = tokens - 1 - chunk * CHUNK
    return tl.minimum(position, last), position <= last


@triton.jit
def sliced_product(
    left,
    right,
    left_n,
    right_n,
    right_mask,
    N: tl.constexpr,
    SLICE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`left @ right^T` over N, `SLICE` columns at a time; left and right: pointers to rows."""
    out = tl.zeros((left.shape[0], right.shape[0]), tl.float32)
    for start in range(0, N, SLICE):
        n = start + tl.arange(0, SLICE)[None, :]
        a = tl.load(left + n * left_n, mask=n < N, other=0.0)
        b = tl.load(right + n * right_n, mask=right_mask & (n < N), other=0.0)
        out = tl.dot(a.to(OPERAND), tl.trans(b.to(OPERAND)), out, input_precision=PRECISION)
    return out


@triton.jit
def states_kernel(
    x,
    dt,
    A,
    B,
    state,
    first_states,
    new_state,
    x_batch,
    x_token,
    x_head,
    x_p,
    dt_batch,
    dt_token,
    dt_head,
    A_head,
    B_batch,
    B_token,
    B_group,
    B_n,
    state_batch,
    state_head,
    state_p,
    state_n,
    tokens,
    H: tl.constexpr,
    HEADS_PER_GROUP: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SUMS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    LOG2E: tl.constexpr,
):
    """Carry a block `[BLOCK_P, BLOCK_N]` of one head's state over all chunks.

    first_states: `[B, chunks, H, P, N]`; SUMS: the type in which log-decays are summed;
    OPERAND: what matrix products take.
    """
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    blocks_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    p = tl.program_id(0) // blocks_n * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.program_id(0) % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    FULL_P: tl.constexpr = P % BLOCK_P == 0
    FULL_N: tl.constexpr = N % BLOCK_N == 0
    in_p = None if FULL_P else (p < P)[None, :]
    in_n = None if FULL_N else (n < N)[None, :]
    in_state = None if FULL_P and FULL_N else (p < P)[:, None] & (n < N)[None, :]

    x += batch * x_batch + head * x_head
    dt += batch * dt_batch + head * dt_head
    B += batch * B_batch + head // HEADS_PER_GROUP * B_group
    chunks = tl.cdiv(tokens, CHUNK)
    tile = p[:, None] * N + n[None, :]
    first_states += (batch * chunks * H + head) * (P * N)
    rate = (tl.load(A + head * A_head).to(tl.float32) * LOG2E).to(SUMS)
    state += batch * state_batch + head * state_head
    h = tl.load(state + p[:, None] * state_p + n[None, :] * state_n, mask=in_state)

    for chunk in range(chunks):
        tl.store(first_states + tile, h.to(first_states.dtype.element_ty), mask=in_state)
        row, there = rows_of_chunk(chunk, tokens, CHUNK)
        step, log_decay = decays(dt + row * dt_token, there, rate, SUMS)
        x_now = tl.load(x + row[:, None] * x_token + p[None, :] * x_p, mask=in_p)
        b_now = tl.load(B + row[:, None] * B_token + n[None, :] * B_n, mask=in_n)
        total = tl.sum(step.to(SUMS) * rate, 0)
        weight = step * tl.exp2((total - log_decay).to(tl.float32))
        incoming = (x_now.to(tl.float32) * weight[:, None]).to(OPERAND)
        h *= tl.exp2(total.to(tl.float32))
        h = tl.dot(tl.trans(incoming), b_now.to(OPERAND), h, input_precision=PRECISION)
        x += CHUNK * x_token
        dt += CHUNK * dt_token
        B += CHUNK * B_token
        first_states += H * P * N
    tl.store(new_state + (batch * H + head) * (P * N) + tile, h, mask=in_state)


@triton.jit
def outputs_kernel(
    x,
    dt,
    A,
    B,
    C,
    D,
    first_states,
    y,
    x_batch,
    x_token,
    x_head,
    x_p,
    dt_batch,
    dt_token,
    dt_head,
    A_head,
    B_batch,
    B_token,
    B_group,
    B_n,
    C_batch,
    C_token,
    C_group,
    C_n,
    D_head,
    tokens,
    H: tl.constexpr,
    HEADS_PER_GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SLICE: tl.constexpr,
    SUMS: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    LOG2E: tl.constexpr,
):
    """Outputs of one chunk for `HEADS` heads of a group and `BLOCK_P` of P.

    BLOCK_N covers N. If SLICE is less, products over N are made slice by slice, from memory.
    """
    chunk, batch = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    blocks_p: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    first_head = tl.program_id(1) // blocks_p * HEADS
    group = first_head // HEADS_PER_GROUP
    p = tl.program_id(1) % blocks_p * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    FULL_P: tl.constexpr = P % BLOCK_P == 0
    FULL_N: tl.constexpr = N == BLOCK_N
    in_p = None if FULL_P else (p < P)[None, :]
    in_n = None if FULL_N else (n < N)[None, :]
    in_state = None if FULL_P and FULL_N else (p < P)[:, None] & (n < N)[None, :]
    ZERO: tl.constexpr = None if FULL_N else 0.0  # sums run over n
    ZERO_STATE: tl.constexpr = None if FULL_P and FULL_N else 0.0
    row, there = rows_of_chunk(tl.program_id(0), tokens, CHUNK)
    position = tl.arange(0, CHUNK)

    start = chunk * CHUNK
    B += batch * B_batch + start * B_token + group * B_group
    C += batch * C_batch + start * C_token + group * C_group
    B += row[:, None] * B_token
    C += row[:, None] * C_token
    if SLICE == BLOCK_N:
        b = tl.load(B + n[None, :] * B_n, mask=in_n, other=ZERO).to(OPERAND)
        c = tl.load(C + n[None, :] * C_n, mask=in_n, other=ZERO).to(OPERAND)
        scores = tl.dot(c, tl.trans(b), input_precision=PRECISION)
    else:
        scores = sliced_product(C, B, C_n, B_n, row[:, None] >= 0, N, SLICE, OPERAND, PRECISION)
    scores = tl.where(position[:, None] >= position[None, :], scores, 0.0)

    chunks = tl.cdiv(tokens, CHUNK)
    x += batch * x_batch + start * x_token
    dt += batch * dt_batch + start * dt_token
    y += (batch * tokens + start) * (H * P)
    first_states += (batch * chunks + chunk) * (H * P * N)
    stored = there[:, None] & (p < P)[None, :]
    for head in range(first_head, first_head + HEADS):
        x_at = x + head * x_head
        x_now = tl.load(x_at + row[:, None] * x_token + p[None, :] * x_p, mask=in_p)
        rate = (tl.load(A + head * A_head).to(tl.float32) * LOG2E).to(SUMS)
        step, log_decay = decays(dt + head * dt_head + row * dt_token, there, rate, SUMS)
        h_at = first_states + head * (P * N) + p[:, None] * N
        if SLICE == BLOCK_N:
            h = tl.load(h_at + n[None, :], mask=in_state, other=ZERO_STATE)
            out = tl.dot(c, tl.trans(h.to(OPERAND)), input_precision=PRECISION)
        else:
            out = sliced_product(C, h_at, C_n, 1, p[:, None] < P, N, SLICE, OPERAND, PRECISION)
        out *= tl.exp2(log_decay.to(tl.float32))[:, None]
        incoming = log_decay - tl.log2(step)  # so that one exponential is decay and step size
        weight = (log_decay[:, None] - incoming[None, :]).to(tl.float32)
        mix = scores * tl.exp2(tl.minimum(weight, LARGEST))
        out = tl.dot(mix.to(OPERAND), x_now.to(OPERAND), out, input_precision=PRECISION)
        if D is not None:
            out += tl.load(D + head * D_head).to(tl.float32) * x_now.to(tl.float32)
        y_at = y + head * P + position[:, None] * (H * P) + p[None, :]
        tl.store(y_at, out.to(y.dtype.element_ty), mask=stored)
