"""The causal convolution on a GPU: one launch, channels along the lanes, 16 bytes in each.

A program sums K shifted tiles; their rows overlap, so all but the first read of a row come from
cache. One more program per block of channels writes the new state.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxsweep_kernels.launch import Launch, architecture, within_32_bits
from ctxsweep_kernels.triton_common import strides

TOKENS, CHANNELS = 32, 256  # of a program


@triton.jit
def rows_of(x, state, t, mask, x_token, state_token, BEFORE: tl.constexpr):
    """Inputs at the tokens t in float32; those before token 0 are in the state."""
    at = tl.maximum(t, 0).to(tl.int64)[:, None] * x_token
    now = tl.load(x + at, mask=mask & (t >= 0)[:, None], other=0.0).to(tl.float32)
    at = tl.minimum(t + BEFORE, BEFORE)[:, None] * state_token
    past = tl.load(state + at, mask=mask & (t < 0)[:, None], other=0.0).to(tl.float32)
    return now + past


@triton.jit
def store_state(
    x,
    state,
    new_state,
    tokens,
    in_channels,
    x_token,
    state_token,
    C: tl.constexpr,
    BEFORE: tl.constexpr,
    BLOCK_STATE: tl.constexpr,
):
    """Write the last `BEFORE` inputs; the pointers are `[1, channels]`."""
    row = tl.arange(0, BLOCK_STATE)
    mask = (row < BEFORE)[:, None] & in_channels
    last = rows_of(x, state, tokens - BEFORE + row, mask, x_token, state_token, BEFORE)
    tl.store(new_state + row[:, None] * C, last.to(new_state.dtype.element_ty), mask=mask)


@triton.jit
def convolve_kernel(
    x,
    weight,
    bias,
    state,
    new_state,
    y,
    x_batch,
    x_token,
    x_channel,
    weight_channel,
    weight_tap,
    bias_channel,
    state_batch,
    state_token,
    state_channel,
    tokens,
    C: tl.constexpr,
    K: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_STATE: tl.constexpr,
):
    """`BLOCK_T` tokens of `BLOCK_C` channels, or, after all tokens, their new state."""
    BEFORE: tl.constexpr = K - 1
    block, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_channels = (channel < C)[None, :]
    first = block.to(tl.int64) * BLOCK_T
    state += batch * state_batch + (channel * state_channel)[None, :]
    x += batch * x_batch + (channel * x_channel)[None, :]
    if first < tokens:
        x += first * x_token
        row = tl.arange(0, BLOCK_T)
        left = tokens - first
        sums = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        if bias is not None:
            added = tl.load(bias + channel * bias_channel, mask=channel < C)
            sums += added.to(tl.float32)[None, :]
        for k in tl.static_range(K):
            tap = tl.load(weight + channel * weight_channel + k * weight_tap, mask=channel < C)
            t = row - BEFORE + k
            mask = (t < left)[:, None] & in_channels
            if first >= BEFORE:
                now = tl.load(x + t[:, None] * x_token, mask=mask, other=0.0).to(tl.float32)
            else:
                # the first block: BLOCK_T is at least K, so that only it reaches the state
                now = rows_of(x, state, t, mask, x_token, state_token, BEFORE)
            sums += now * tap.to(tl.float32)[None, :]
        if SILU:
            sums = sums / (1.0 + tl.exp(-sums))
        at = (batch * tokens + first + row)[:, None] * C + channel[None, :]
        tl.store(y + at, sums.to(y.dtype.element_ty), mask=(row < left)[:, None] & in_channels)
    elif K > 1:
        to = new_state + batch * BEFORE * C + channel[None, :]
        store_state(x, state, to, tokens, in_channels, x_token, state_token, C, BEFORE, BLOCK_STATE)


def plan_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    activation: str | None,
    y: Tensor,
    new_state: Tensor,
    arch: str,
) -> list[Launch]:
    """One launch that writes y and `new_state`, both contiguous; all else has any strides."""
    batch, tokens, channels = x.shape
    taps = weight.shape[1]
    most_tokens = max(TOKENS, triton.next_power_of_2(taps))
    block_t = min(most_tokens, triton.next_power_of_2(max(tokens, taps)))
    block_c = min(CHANNELS, triton.next_power_of_2(channels))
    return [
        Launch(
            convolve_kernel,
            (triton.cdiv(tokens, block_t) + 1, triton.cdiv(channels, block_c), batch),
            {
                "x": x,
                **strides("x", x, "batch token channel"),
                "weight": weight,
                **strides("weight", weight, "channel tap"),
                "bias": bias,
                "bias_channel": 0 if bias is None else bias.stride(0),
                "state": state,
                **strides("state", state, "batch token channel"),
                "new_state": new_state,
                "y": y,
                "tokens": tokens,
                "C": channels,
                "K": taps,
                "SILU": activation == "silu",
                "BLOCK_T": block_t,
                "BLOCK_C": block_c,
                "BLOCK_STATE": triton.next_power_of_2(max(1, taps - 1)),
            },
            num_warps=4 if block_t * block_c >= 4096 else 1,
        )
    ]


def causal_conv1d_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, activation: str | None
) -> tuple[Tensor, Tensor]:
    """The arguments of `causal_conv1d`, already checked."""
    x = within_32_bits(x, 2)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    new_state = torch.empty(state.shape, dtype=state.dtype, device=state.device)
    arch = architecture(x.device)
    for launch in plan_convolution(x, weight, bias, state, activation, y, new_state, arch):
        launch.run()
    return y, new_state
