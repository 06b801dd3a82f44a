"""What RWKV-6 and RWKV-7 share: token shift and its state, low-rank maps, the norm of the heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxsweep.models.layers import StateSpec

GROUP_NORM_EPS = 64e-5


class LowRank(nn.Sequential):
    """hidden → rank → hidden, with an activation between and a bias after where there is one."""

    def __init__(
        self, hidden: int, rank: int, activation: nn.Module | None = None, bias: bool = True
    ) -> None:
        down, up = nn.Linear(hidden, rank, bias=False), nn.Linear(rank, hidden, bias=bias)
        super().__init__(down, activation or nn.Identity(), up)


def shift_state(spec: StateSpec, hidden: int) -> Tensor:
    """The token before the first one: zeros ``[B, 1, hidden]``."""
    return torch.zeros(spec.batch_size, 1, hidden, dtype=spec.dtype, device=spec.device)


def token_shift(x: Tensor, last: Tensor, mix: Tensor) -> Tensor:
    """Each token mixed with the one before it: ``x [B, T, C]`` to ``mix``'s leading shape + x's.

    ``last [B, 1, C]`` is the token before the first one, and is advanced in place.
    """
    mixed = torch.lerp(x, _before(x, last), mix)
    last.copy_(x[:, -1:])
    return mixed


def token_change(x: Tensor, last: Tensor) -> Tensor:
    """From each token of ``x [B, T, C]`` to the one before it, for mixes that depend on the data.

    ``last`` as in ``token_shift``.
    """
    change = _before(x, last) - x
    last.copy_(x[:, -1:])
    return change


def _before(x: Tensor, last: Tensor) -> Tensor:
    return last if x.shape[1] == 1 else torch.cat((last, x[:, :-1]), dim=1)


def head_norm(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Group norm of ``y [B, T, H, D]``, a group for each head; weight and bias ``[H * D]``."""
    rows = y.reshape(-1, weight.shape[0])
    return F.group_norm(rows, y.shape[2], weight, bias, GROUP_NORM_EPS).view(y.shape)
