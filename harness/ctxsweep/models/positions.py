"""Positions in attention: rotary frequencies and ALiBi slopes."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_frequencies(head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Inverse frequencies ``theta^(-2i/d)``, ``[D/2]`` in fp32 (RoFormer, arXiv 2104.09864).

    Always fp32: a rounded frequency turns the far end of a long context by whole radians.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    return 1.0 / (theta**exponents)


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """Slope of the linear distance penalty of each head, ``[H]`` in fp32 (arXiv 2108.12409).

    For a power of two, ``2^(-8/H), 2^(-16/H), ...``. Otherwise the slopes of the power of two
    below, then every other slope of the power of two above, as the paper's code has it.
    """
    below = 1 << (heads.bit_length() - 1)
    slopes = _geometric(below)
    if below != heads:
        slopes += _geometric(2 * below)[::2][: heads - below]
    return torch.tensor(slopes, dtype=torch.float32, device=device)


def _geometric(heads: int) -> list[float]:
    return [2.0 ** (-8.0 * (i + 1) / heads) for i in range(heads)]
