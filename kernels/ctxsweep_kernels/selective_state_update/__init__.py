"""One decode step of a selective state-space model: Mamba-1 and Mamba-2.

The step reads and writes the whole state once and does little else, so its speed is a
fraction of memory bandwidth. Specification: arXiv 2312.00752 (Mamba), 2405.21060 (Mamba-2).
"""

from __future__ import annotations

import torch

from ctxsweep_kernels.chunking import check_shapes, unfit_dtypes
from ctxsweep_kernels.dispatch import Impl, choose
from ctxsweep_kernels.selective_state_update.cpu import update_channels, update_heads

__all__ = ["selective_state_update"]

STATE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CHANNELS = {
    "state": "B Dm N",
    "x": "B Dm",
    "dt": "B Dm",
    "A": "Dm N",
    "B": "B N",
    "C": "B N",
    "D": "Dm",
}
HEADS = {
    "state": "B H P N",
    "x": "B H P",
    "dt": "B H",
    "A": "H",
    "B": "B G N",
    "C": "B G N",
    "D": "H",
}


def selective_state_update(
    state: torch.Tensor,
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advance one token, **changing `state` in place**; return y and that same state.

    | | state | x, y | dt (after softplus) | A (negative) | B, C | D |
    |---|---|---|---|---|---|---|
    | Mamba-1 | `[B, Dm, N]` | `[B, Dm]` | `[B, Dm]` | `[Dm, N]` | `[B, N]` | `[Dm]` |
    | Mamba-2 | `[B, H, P, N]` | `[B, H, P]` | `[B, H]` | `[H]` | `[B, G, N]` | `[H]` |

    y has x's dtype; the state is contiguous and float32, or bfloat16 or float16, which are
    updated in float32 and rounded when stored (y comes from the state before that rounding).
    There are no gradients.

    Raises:
        ValueError: shapes disagree, G does not divide H, or the state is of another dtype or not
            contiguous.
        UnsupportedImplementation: `impl` does not exist for this op.
    """
    op = "selective_state_update"
    if state.ndim not in (3, 4):
        raise ValueError(
            f"{op}: state must be [B, Dm, N] (Mamba-1) or [B, H, P, N] (Mamba-2), "
            f"got shape {list(state.shape)}"
        )
    layout = CHANNELS if state.ndim == 3 else HEADS
    given = {"state": state, "x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D}
    sizes = check_shapes(op, **{name: (given[name], dims) for name, dims in layout.items()})
    if state.ndim == 4 and sizes["H"] % sizes["G"]:
        raise ValueError(f"{op}: {sizes['G']} groups do not divide {sizes['H']} heads")
    if state.dtype not in STATE_DTYPES:
        raise ValueError(
            f"{op}: state must be float32, bfloat16 or float16 (or float64), got {state.dtype}"
        )
    if not state.is_contiguous():
        raise ValueError(f"{op}: state is changed in place and must be contiguous")
    devices = [tensor.device for tensor in given.values() if tensor is not None]
    if choose(impl, op, devices, unfit=unfit_dtypes(**given)) == "triton":
        from ctxsweep_kernels.selective_state_update.kernel import update_triton

        return update_triton(state, x, dt, A, B, C, D, out=state), state
    update = update_channels if state.ndim == 3 else update_heads
    if state.dtype in (torch.float32, torch.float64):
        return update(state, x, dt, A, B, C, D, out=state), state
    wide = state.float()
    y = update(wide, x, dt, A, B, C, D, out=wide)
    state.copy_(wide)
    return y, state
