"""RWKV-6's recurrence as written in the paper, one token at a time: the oracle."""

from __future__ import annotations

import torch


def wkv6_reference(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same shapes as `wkv6`; every tensor is computed in its own dtype."""
    outputs = []
    for t in range(r.shape[1]):
        written = torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        seen = state + u[:, :, None] * written
        outputs.append(torch.einsum("bhk,bhkv->bhv", r[:, t], seen))
        state = torch.exp(log_w[:, t])[..., None] * state + written
    return torch.stack(outputs, dim=1), state
