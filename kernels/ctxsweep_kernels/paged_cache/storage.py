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
NAN_CODE = 0x7F


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
        stored = x.float().clamp(-largest, largest).to(dtype)
        # One code for NaN, so that reading finds it as the largest byte.
        stored.view(torch.int8).masked_fill_(x.isnan(), NAN_CODE)
        return stored, None
    return x.to(dtype), None


def dequantise(stored: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The values that `stored` `[..., D]` stands for, in `dtype` (float32 or bfloat16)."""
    if stored.dtype in FP8_DTYPES and stored.device.type == "cpu":
        return _widen_fp8(stored, dtype)
    values = stored.to(dtype)
    return values if scales is None else values.mul_(scales.to(dtype).unsqueeze(-1))


def _widen_fp8(stored: Tensor, dtype: torch.dtype) -> Tensor:
    """fp8 -> `dtype` through float16 bits; exact, and on a CPU ten times torch's own cast.

    e5m2 is the upper byte of float16. e4m3 has its exponent bias 7 in place of 15: shifted into
    float16's fields it is 2**8 too small, subnormals included; only its NaN would pass as 480.
    """
    codes = stored.view(torch.int8)
    if stored.dtype == torch.float8_e5m2:
        return codes.to(torch.int16).bitwise_left_shift_(8).view(torch.float16).to(dtype)
    if int(codes.amax()) == NAN_CODE:
        return stored.to(dtype)
    bits = codes.to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~0x4000)
    return bits.view(torch.float16).to(dtype).mul_(2.0**8)
