"""The causal convolution as K shifted multiply-adds over contiguous channels, on any device.

A grouped `conv1d` wants time last, and transposing there and back costs more than the sums.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

SEGMENT = 1024  # tokens summed at once in the state's dtype


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
    taps = weight.to(state.dtype).T.contiguous()
    offset = taps.new_zeros(()) if bias is None else bias.to(state.dtype)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    # the first outputs reach back into the state; all others find their past in x itself
    head = torch.cat((state, x[:, : max(before, 1)].to(state.dtype)), dim=1)
    _convolve(head, taps, offset, activation, y[:, : head.shape[1] - before])
    for start in range(head.shape[1] - before, tokens, SEGMENT):
        inputs = x[:, start - before : start + SEGMENT].to(state.dtype)
        _convolve(inputs, taps, offset, activation, y[:, start : start + SEGMENT])
    past = head if tokens < before else x[:, -head.shape[1] :]
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
    out = (
        y if y.dtype == inputs.dtype else torch.empty(y.shape, dtype=inputs.dtype, device=y.device)
    )
    torch.addcmul(offset, inputs[:, :length], taps[0], out=out)
    for lag, tap in enumerate(taps[1:], start=1):
        out.addcmul_(inputs[:, lag : lag + length], tap)
    if activation == "silu":
        F.silu(out, inplace=True)
    if out is not y:
        y.copy_(out)
