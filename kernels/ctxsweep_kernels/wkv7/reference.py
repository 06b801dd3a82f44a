"""RWKV-7's recurrence as written in the paper, one token at a time: the oracle."""

from __future__ import annotations

import torch


def wkv7_reference(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same shapes as `wkv7`; every tensor is computed in its own dtype."""
    outputs = []
    for t in range(r.shape[1]):
        removed = torch.einsum("bhvk,bhk->bhv", state, a[:, t])
        state = (
            state * torch.exp(log_w[:, t])[:, :, None]
            + torch.einsum("bhv,bhk->bhvk", removed, b[:, t])
            + torch.einsum("bhv,bhk->bhvk", v[:, t], k[:, t])
        )
        outputs.append(torch.einsum("bhvk,bhk->bhv", state, r[:, t]))
    return torch.stack(outputs, dim=1), state
