"""One step of Mamba-1 or Mamba-2 as written in the papers: the oracle. The state is not changed."""

from __future__ import annotations

import torch

from ctxsweep_kernels.selective_scan.reference import selective_scan_reference
from ctxsweep_kernels.ssd.reference import ssd_chunk_scan_reference


def selective_state_update_reference(
    state: torch.Tensor,
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same shapes as `selective_state_update`."""
    loop = selective_scan_reference if state.ndim == 3 else ssd_chunk_scan_reference
    y, new_state = loop(x[:, None], dt[:, None], A, B[:, None], C[:, None], state, D)
    return y[:, 0], new_state
