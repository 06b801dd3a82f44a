"""One decode step on a GPU: every state value is read once, updated in registers, written once.

A tile of the state is laid out `[repeats, rows, lanes, 16 bytes]`: the lanes of a row load whole
cache lines and each of them holds many of the row's N values, so that the sum over N costs few
shuffles. Mamba-1 is one head with a step size and a decay of its own in every row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxsweep_kernels.chunking import LOG2E
from ctxsweep_kernels.launch import Launch, architecture, multiprocessors

LANES = 8  # of one row: 8 x 16 bytes are a cache line
TILE = 8192  # state values of one program at most


@triton.jit
def update_kernel(
    state,
    new_state,
    x,
    dt,
    A,
    B,
    C,
    D,
    y,
    x_batch,
    x_head,
    x_row,
    dt_batch,
    dt_head,
    A_head,
    A_n,
    B_batch,
    B_group,
    B_n,
    C_batch,
    C_group,
    C_n,
    D_head,
    H: tl.constexpr,
    HEADS_PER_GROUP: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    REPEATS: tl.constexpr,
    ROW_LANES: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG2E: tl.constexpr,
):
    """`ROWS` rows of one head's state. CHANNELS: Mamba-1, whose strides of a head are a row's."""
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    WHOLE: tl.constexpr = P % ROWS == 0
    FULL: tl.constexpr = N == REPEATS * ROW_LANES * VECTOR
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rows = p[None, :, None, None]
    n = (
        tl.arange(0, REPEATS)[:, None, None, None] * (ROW_LANES * VECTOR)
        + tl.arange(0, ROW_LANES)[None, None, :, None] * VECTOR
        + tl.arange(0, VECTOR)[None, None, None, :]
    )
    p_mask = None if WHOLE else p < P
    n_mask = None if FULL else n < N
    mask = None if WHOLE and FULL else (rows < P) & (n < N)

    owner = p if CHANNELS else head  # of a step size, a decay and a skip weight
    owner_mask = p_mask if CHANNELS else None
    step = tl.load(dt + batch * dt_batch + owner * dt_head, mask=owner_mask).to(tl.float32)
    x_now = tl.load(x + batch * x_batch + head * x_head + p * x_row, mask=p_mask).to(tl.float32)
    if D is not None:
        skip = tl.load(D + owner * D_head, mask=owner_mask).to(tl.float32)
    group = head // HEADS_PER_GROUP
    b = tl.load(B + batch * B_batch + group * B_group + n * B_n, mask=n_mask).to(tl.float32)
    c = tl.load(C + batch * C_batch + group * C_group + n * C_n, mask=n_mask).to(tl.float32)
    if CHANNELS:
        rate = tl.load(A + rows * A_head + n * A_n, mask=mask).to(tl.float32)
        decay = tl.exp2((step * LOG2E)[None, :, None, None] * rate)
    else:
        decay = tl.exp2(step * LOG2E * tl.load(A + head * A_head).to(tl.float32))

    # The state is loaded last: the compiler lays the arithmetic out as the last load is.
    tile = (batch * H + head) * (P * N) + rows * N + n
    h = tl.load(state + tile, mask=mask).to(tl.float32)
    h = h * decay + (step * x_now)[None, :, None, None] * b
    tl.store(new_state + tile, h.to(new_state.dtype.element_ty), mask=mask)
    terms = h * c if FULL else tl.where(n < N, h * c, 0.0)
    out = tl.sum(tl.sum(tl.sum(terms, 3), 0), 1)
    if D is not None:
        out += skip * x_now
    tl.store(y + (batch * H + head) * P + p, out.to(y.dtype.element_ty), mask=p_mask)


def plan_update(
    state: Tensor,
    new_state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    y: Tensor,
    arch: str,
) -> list[Launch]:
    """One launch that reads `state` and writes `new_state`, which may be the same, and y.

    The states and y are contiguous; all else has any strides.
    """
    channels = state.ndim == 3
    if channels:
        x, B, C = x[:, None], B[:, None], C[:, None]
    batch, heads, P = x.shape
    N = state.shape[-1]
    width = triton.next_power_of_2(N)
    vector = min(width, 16 // state.element_size())
    lanes = min(width // vector, LANES)
    rows = max(1, min(triton.next_power_of_2(P), TILE // width))
    enough = 4 * multiprocessors(state.device)
    while rows * width > TILE // 8 and triton.cdiv(P, rows) * heads * batch < enough:
        rows //= 2
    strides = {
        "x": ("batch", "head", "row"),
        "dt": ("batch", "head"),
        "A": ("head", "n"),
        "B": ("batch", "group", "n"),
        "C": ("batch", "group", "n"),
    }
    tensors = {"x": x, "dt": dt, "A": A, "B": B, "C": C}
    arguments = {
        f"{name}_{dim}": tensors[name].stride(axis)
        for name, dims in strides.items()
        for axis, dim in enumerate(dims[: tensors[name].ndim])
    }
    return [
        Launch(
            update_kernel,
            (triton.cdiv(P, rows), heads, batch),
            tensors
            | {"A_n": 1}
            | arguments
            | {
                "state": state,
                "new_state": new_state,
                "y": y,
                "D": D,
                "D_head": 0 if D is None else D.stride(0),
                "H": heads,
                "HEADS_PER_GROUP": heads // B.shape[1],
                "P": P,
                "N": N,
                "CHANNELS": channels,
                "ROWS": rows,
                "REPEATS": width // (vector * lanes),
                "ROW_LANES": lanes,
                "VECTOR": vector,
                "LOG2E": LOG2E,
            },
            num_warps=max(1, min(4, rows * width // 2048)),
        )
    ]


def update_triton(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    *,
    out: Tensor,
) -> Tensor:
    """Write the new state to `out` and return y; checked arguments, either Mamba."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for launch in plan_update(state, out, x, dt, A, B, C, D, y, architecture(x.device)):
        launch.run()
    return y
