"""The causal convolution as its definition says, one token at a time: the oracle."""

from __future__ import annotations

import torch


def causal_conv1d_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    state: torch.Tensor,
    activation: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same shapes as `causal_conv1d`; every tensor is computed in its own dtype."""
    outputs = []
    for t in range(x.shape[1]):
        window = torch.cat((state, x[:, t : t + 1]), dim=1)
        y = torch.einsum("bkc,ck->bc", window, weight)
        y = y if bias is None else y + bias
        outputs.append(y * torch.sigmoid(y) if activation == "silu" else y)
        state = window[:, 1:]
    return torch.stack(outputs, dim=1), state
