"""The causal convolution as K shifted multiply-adds over contiguous channels, on any device.

A grouped `conv1d` wants time last, and transposing there and back costs more than the sums.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

SEGMENT = 1024  # tokens summed at once, so that narrow inputs are widened piece by piece


@torch.no_grad()
def causal_conv1d_torch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    state: torch.Tensor,
    activation: str | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The arguments of `causal_conv1d`, already checked."""
    tokens, before = x.shape[1], state.shape[1]
    wide = torch.promote_types(x.dtype, torch.float32)
    taps, state_ = weight.to(wide).T, state.to(wide)
    offset = taps.new_zeros(()) if bias is None else bias.to(wide)
    if tokens == 1:
        window = torch.cat((state_, x.to(wide)), dim=1)
        out = (window * taps).sum(1, keepdim=True).add_(offset)
        return _activate(out, activation).to(x.dtype), window[:, 1:].to(state.dtype, copy=True)
    taps = taps.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    # the first outputs reach back into the state; all others find their past in x itself
    head = torch.cat((state_, x[:, :before].to(wide)), dim=1)
    first = head.shape[1] - before
    if first:
        _convolve(head, taps, offset, activation, y[:, :first])
    for start in range(first, tokens, SEGMENT):
        now = slice(start, min(start + SEGMENT, tokens))
        inputs = x[:, start - before : now.stop].to(wide)
        _convolve(inputs, taps, offset, activation, y[:, now])
    past = head if tokens < before else x
    return y, past[:, past.shape[1] - before :].to(state.dtype, copy=True)


def _convolve(
    inputs: torch.Tensor,
    taps: torch.Tensor,
    offset: torch.Tensor,
    activation: str | None,
    y: torch.Tensor,
) -> None:
    """Write the outputs `[B, L, C]` that the inputs `[B, L + K - 1, C]` determine."""
    length = y.shape[1]
    same = y.dtype == inputs.dtype
    out = y if same else torch.empty(y.shape, dtype=inputs.dtype, device=y.device)
    torch.addcmul(offset, inputs[:, :length], taps[0], out=out)
    for lag, tap in enumerate(taps[1:], start=1):
        out.addcmul_(inputs[:, lag : lag + length], tap)
    _activate(out, activation)
    if not same:
        y.copy_(out)


def _activate(out: torch.Tensor, activation: str | None) -> torch.Tensor:
    return out if activation is None else F.silu(out, inplace=True)
