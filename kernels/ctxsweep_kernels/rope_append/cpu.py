"""The torch path of `rope_append`."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxsweep_kernels.paged_cache import PagedKV, runs
from ctxsweep_kernels.paged_cache.storage import quantise


def rope_append_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: PagedKV,
    block_table: Tensor,
    starts: list[int],
    inv_freq: Tensor | None,
    attention_factor: float,
) -> Tensor:
    """Arguments as in `rope_append`, checked."""
    if inv_freq is not None:
        first = torch.tensor(starts, device=q.device).view(-1, 1, 1)
        positions = first + torch.arange(q.shape[2], device=q.device)
        angles = positions.unsqueeze(-1).float() * inv_freq.float()
        cos, sin = angles.cos() * attention_factor, angles.sin() * attention_factor
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    for row, start in enumerate(starts):
        _write(cache, block_table[row], start, k[row], v[row])
    return q


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R dimensions of x `[B, H, T, D]` by cos, sin `[B, 1, T, R / 2]`."""
    half = cos.shape[-1]
    out = x.clone(memory_format=torch.contiguous_format)
    a, b = x[..., :half].float(), x[..., half : 2 * half].float()
    out[..., :half] = a * cos - b * sin
    out[..., half : 2 * half] = b * cos + a * sin
    return out


def _write(cache: PagedKV, table: Tensor, start: int, k: Tensor, v: Tensor) -> None:
    """Store k, v `[Hkv, T, D]` at positions `start ..`, one copy per run of pages."""
    size, stop = cache.page_size, start + k.shape[1]
    tokens = cache.pages.flatten(2, 3)
    stored, scales = zip(quantise(k, cache.dtype), quantise(v, cache.dtype), strict=True)
    for run in runs(table, start // size, -(-stop // size)):
        first, last = max(start, run.logical * size), min(stop, (run.logical + run.count) * size)
        offset = (run.physical - run.logical) * size
        where, new = slice(first + offset, last + offset), slice(first - start, last - start)
        for side in (0, 1):
            tokens[side, :, where] = stored[side][:, new]
            if cache.scales is not None:
                cache.scales.flatten(2, 3)[side, :, where] = scales[side][:, new]
