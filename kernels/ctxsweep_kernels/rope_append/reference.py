"""The oracle of `rope_append`: rotation by complex numbers, in float64, token by token."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate_reference(
    x: Tensor, starts: Tensor, inv_freq: Tensor | None, attention_factor: float = 1.0
) -> Tensor:
    """x `[B, H, T, D]` at positions `starts[b] ..`, rotated, in float64."""
    out = x.double().clone()
    if inv_freq is None:
        return out
    half = inv_freq.shape[0]
    for row, start in enumerate(starts.tolist()):
        for step in range(x.shape[2]):
            angle = (start + step) * inv_freq.double()
            turn = torch.polar(torch.full_like(angle, attention_factor), angle)
            pair = torch.complex(out[row, :, step, :half], out[row, :, step, half : 2 * half])
            pair = pair * turn
            out[row, :, step, :half], out[row, :, step, half : 2 * half] = pair.real, pair.imag
    return out
