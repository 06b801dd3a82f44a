"""Retention as written in the paper, in its recurrent and its parallel form: two oracles."""

from __future__ import annotations

import torch


def retention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_gamma: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence. Same shapes as `retention`; every tensor is computed in its own dtype."""
    gamma = torch.exp(log_gamma)[:, None, None]
    outputs = []
    for t in range(q.shape[1]):
        state = gamma * state + torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, dim=1), state


def retention_parallel(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, log_gamma: torch.Tensor
) -> torch.Tensor:
    """The quadratic form, from an empty state: `(q k^T * gamma^(i - j)) v` for j <= i.

    q, k `[B, T, H, K]`, v `[B, T, H, V]`, log_gamma `[H]`; returns `[B, T, H, V]`.
    """
    position = torch.arange(q.shape[1], device=q.device, dtype=q.dtype)
    distance = position[:, None] - position
    decay = torch.exp(log_gamma[:, None, None] * distance.clamp(min=0)).tril()
    scores = torch.einsum("bihk,bjhk->bhij", q, k) * decay
    return torch.einsum("bhij,bjhv->bihv", scores, v)
