"""Mamba-1's recurrence as written in the paper, one token at a time: the oracle."""

from __future__ import annotations

import torch


def selective_scan_reference(
    u: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    state: torch.Tensor,
    D: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same shapes as `selective_scan`; every tensor is computed in its own dtype."""
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * A)
        state = decay * state + (dt[:, t] * u[:, t])[..., None] * B[:, t, None]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[:, t]))
    y = torch.stack(outputs, dim=1)
    return (y if D is None else y + D * u), state
