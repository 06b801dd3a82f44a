"""Mamba-1's prefill on a GPU: the state stays in registers while a program walks the tokens.

A decay for every channel, state entry and token leaves no matrix product; the work is one
exponential and four multiply-adds for each. Tokens are loaded in groups, so that the walk, a
chain, waits for memory once a group and not at every step.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxsweep_kernels.chunking import LOG2E
from ctxsweep_kernels.launch import Launch, architecture, multiprocessors, within_32_bits
from ctxsweep_kernels.triton_common import strides

STATE_VALUES = 1024  # of one program of two warps at most: 16 in each thread
GROUP = 8


@triton.jit
def scan_kernel(
    u,
    dt,
    A,
    B,
    C,
    D,
    state,
    new_state,
    y,
    u_batch,
    u_token,
    u_channel,
    dt_batch,
    dt_token,
    dt_channel,
    A_channel,
    A_n,
    B_batch,
    B_token,
    B_n,
    C_batch,
    C_token,
    C_n,
    D_channel,
    state_batch,
    state_channel,
    state_n,
    tokens,
    CHANNELS: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP: tl.constexpr,
    LOG2E: tl.constexpr,
):
    """`BLOCK` channels of one sequence, `GROUP` tokens at a time."""
    batch = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, BLOCK_N)
    in_channels = channel < CHANNELS
    in_n = n < N
    mask = in_channels[:, None] & in_n[None, :]

    u += batch * u_batch
    dt += batch * dt_batch
    B += batch * B_batch
    C += batch * C_batch
    y += batch * tokens * CHANNELS
    rate = tl.load(A + channel[:, None] * A_channel + n[None, :] * A_n, mask=mask, other=0.0)
    rate = rate.to(tl.float32) * LOG2E
    state += batch * state_batch + channel[:, None] * state_channel + n[None, :] * state_n
    h = tl.load(state, mask=mask, other=0.0)
    if D is not None:
        skip = tl.load(D + channel * D_channel, mask=in_channels, other=0.0).to(tl.float32)

    for start in range(0, tokens, GROUP):
        last = tokens - 1 - start
        us, dts, bs, cs = (), (), (), ()
        for i in tl.static_range(GROUP):
            t = tl.minimum(i, last)
            us += (tl.load(u + t * u_token + channel * u_channel, mask=in_channels, other=0.0),)
            dts += (tl.load(dt + t * dt_token + channel * dt_channel, mask=in_channels, other=0.0),)
            bs += (tl.load(B + t * B_token + n * B_n, mask=in_n, other=0.0),)
            cs += (tl.load(C + t * C_token + n * C_n, mask=in_n, other=0.0),)
        for i in tl.static_range(GROUP):
            now = us[i].to(tl.float32)
            step = tl.where(last >= i, dts[i].to(tl.float32), 0.0)  # 0 leaves the state as it is
            decay = tl.exp2(step[:, None] * rate)
            h = decay * h + (step * now)[:, None] * bs[i].to(tl.float32)[None, :]
            out = tl.sum(h * cs[i].to(tl.float32)[None, :], 1)
            if D is not None:
                out += skip * now
            at = y + i * CHANNELS + channel
            written = channel < tl.where(last >= i, CHANNELS, 0)
            tl.store(at, out.to(y.dtype.element_ty), mask=written)
        u += GROUP * u_token
        dt += GROUP * dt_token
        B += GROUP * B_token
        C += GROUP * C_token
        y += GROUP * CHANNELS
    tile = (batch * CHANNELS + channel[:, None]) * N + n[None, :]
    tl.store(new_state + tile, h, mask=mask)


def plan_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    D: Tensor | None,
    y: Tensor,
    new_state: Tensor,
    arch: str,
) -> list[Launch]:
    """One launch that writes y and `new_state`, both contiguous; all else has any strides."""
    batch, tokens, channels = u.shape
    N = state.shape[-1]
    block_n = triton.next_power_of_2(N)
    block = max(1, min(triton.next_power_of_2(channels), STATE_VALUES // block_n))
    enough = 2 * multiprocessors(u.device)
    while block * block_n > STATE_VALUES // 4 and triton.cdiv(channels, block) * batch < enough:
        block //= 2
    return [
        Launch(
            scan_kernel,
            (triton.cdiv(channels, block), batch),
            {
                "u": u,
                "dt": dt,
                "A": A,
                "B": B,
                "C": C,
                "D": D,
                "state": state,
                "new_state": new_state,
                "y": y,
                **strides("u", u, "batch token channel"),
                **strides("dt", dt, "batch token channel"),
                **strides("A", A, "channel n"),
                **strides("B", B, "batch token n"),
                **strides("C", C, "batch token n"),
                **strides("state", state, "batch channel n"),
                "D_channel": 0 if D is None else D.stride(0),
                "tokens": tokens,
                "CHANNELS": channels,
                "N": N,
                "BLOCK": block,
                "BLOCK_N": block_n,
                "GROUP": min(GROUP, triton.next_power_of_2(tokens)),
                "LOG2E": LOG2E,
            },
            num_warps=2 if block * block_n >= STATE_VALUES // 2 else 1,
        )
    ]


def selective_scan_triton(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    D: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The arguments of `selective_scan`, already checked."""
    u, dt, B, C = (within_32_bits(t, 2) for t in (u, dt, B, C))
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    new_state = torch.empty(state.shape, dtype=state.dtype, device=state.device)
    for launch in plan_scan(u, dt, A, B, C, state, D, y, new_state, architecture(u.device)):
        launch.run()
    return y, new_state
