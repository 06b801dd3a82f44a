"""How a key or value is written in a cache: the storage formats and their exact rules."""

from __future__ import annotations

import torch
from torch import Tensor

STORAGE_DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
)
FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
INT8_MAX = 127.0


def storage_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def has_scales(dtype: torch.dtype) -> bool:
    return dtype == torch.int8


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Convert `x` `[..., D]` to a storage dtype; int8 also gives scales `[...]`.

    Rules: float types round to nearest even; fp8 saturates at its largest finite value (OCP 8-bit
    floating point specification, revision 1.0) with scale 1; int8 is symmetric, with
    scale = max|x| / 127 over the last dimension.
    """
    if dtype == torch.int8:
        x = x.float()
        scales = (x.abs().amax(-1) / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
        stored = (x / scales.unsqueeze(-1)).round_().clamp_(-INT8_MAX, INT8_MAX)
        return stored.to(torch.int8), scales
    if dtype in FP8_DTYPES:
        largest = torch.finfo(dtype).max
        return x.float().clamp(-largest, largest).to(dtype), None
    return x.to(dtype), None


def dequantise(stored: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The values that `stored` `[..., D]` stands for, in `dtype`."""
    values = stored.to(dtype)
    return values if scales is None else values.mul_(scales.to(dtype).unsqueeze(-1))
