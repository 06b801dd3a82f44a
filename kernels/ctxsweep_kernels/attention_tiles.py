"""Causal attention tile by tile: partial results over blocks of keys, merged by log-sum-exp.

The merge is the one of FlashAttention-2 (arXiv:2307.08691) and of split-length decode. Long
causal stretches go to PyTorch's CPU flash kernel, which returns the log-sum-exp with the output;
what it cannot express (a soft cap, another device) is composed from matrix products. A window is
walked as a band: every block of queries sees keys of the same relative positions, so all blocks
are one batched call over overlapping views of K and V with one small mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from ctxsweep_kernels.paged_cache.reader import Tile
from ctxsweep_kernels.score_rule import ScoreRule

FLASH_DTYPES = (torch.float32, torch.bfloat16)
COMPOSED_TOKENS = 1024
MASKED_QUERIES = 512
CONVERTED_QUERIES = 2048


class KeyReader(Protocol):
    """Keys and values of one sequence, read by position."""

    dtype: torch.dtype

    def tiles(self, start: int, stop: int, most: int | None = None) -> Iterator[Tile]: ...
    def span(self, start: int, stop: int) -> Tile: ...
    def is_view(self, start: int, stop: int) -> bool: ...


class DenseReader:
    """Keys and values `[Hkv, N, D]` that are already there."""

    def __init__(self, k: Tensor, v: Tensor, dtype: torch.dtype) -> None:
        self.k, self.v, self.dtype = k.to(dtype), v.to(dtype), dtype

    def tiles(self, start: int, stop: int, most: int | None = None) -> Iterator[Tile]:
        step = most or max(1, stop - start)
        for first in range(start, stop, step):
            yield self.span(first, min(stop, first + step))

    def span(self, start: int, stop: int) -> Tile:
        return Tile(self.k[:, start:stop], self.v[:, start:stop], start, stop)

    def is_view(self, start: int, stop: int) -> bool:
        return True


def compute_dtype(q: Tensor, stored: torch.dtype) -> torch.dtype:
    """The dtype in which `q` and a cache of dtype `stored` meet.

    fp16 has no fast CPU matrix product and int8 with its scale does not fit bfloat16: both float32.
    """
    narrow = q.dtype == torch.bfloat16 and stored != torch.int8 and stored != torch.float32
    return torch.bfloat16 if narrow else torch.float32


def uses_flash(device: torch.device, rule: ScoreRule, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and rule.softcap is None and dtype in FLASH_DTYPES


def partial(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: ScoreRule,
    bias: Tensor | None = None,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attention over some of the keys: output `[N, H, T, D]` and log-sum-exp `[N, H, T]` float32.

    q `[N, H, T, D]`; k, v `[N, H, n, D]`, any strides; bias broadcasts to `[N, H, T, n]`.
    A row that sees none of the keys has output 0 and log-sum-exp -inf.
    """
    if not uses_flash(q.device, rule, q.dtype):
        return composed(q, k, v, rule, bias, causal)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, is_causal=causal, attn_mask=bias, scale=rule.scale
    )
    if bias is not None:
        # The flash kernel reports 0, not -inf, for a row without visible keys.
        lse = lse.masked_fill(bias.amax(-1) == float("-inf"), float("-inf"))
    return out, lse


def composed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: ScoreRule,
    bias: Tensor | None = None,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """`partial` out of matrix products in float32."""
    scores = (q.float() * rule.scale) @ k.float().transpose(-1, -2)
    if rule.softcap is not None:
        scores.div_(rule.softcap).tanh_().mul_(rule.softcap)
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu_(1)
        scores.masked_fill_(hidden, float("-inf"))
    if bias is not None:
        scores += bias
    top = scores.amax(-1, keepdim=True)
    top.masked_fill_(top == float("-inf"), 0.0)
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    out = (weights @ v.float()).div_(total.clamp_min(torch.finfo(torch.float32).tiny))
    return out, total.log_().add_(top).squeeze(-1)


class Merge:
    """Partial attention results over disjoint keys, merged as they come."""

    def __init__(self) -> None:
        self.out: Tensor | None = None
        self.lse: Tensor | None = None

    def add(self, out: Tensor, lse: Tensor) -> None:
        if self.out is None or self.lse is None:
            self.out, self.lse = out, lse
            return
        total = torch.logaddexp(self.lse, lse)
        base = total.masked_fill(total == float("-inf"), 0.0)
        old, new = ((x - base).exp_().unsqueeze(-1) for x in (self.lse, lse))
        self.out = self.out.float() * old + out.float() * new
        self.lse = total

    def result(self) -> Tensor:
        assert self.out is not None
        return self.out


def attend(q: Tensor, reader: KeyReader, start: int, rule: ScoreRule, out: Tensor) -> None:
    """Causal attention of one sequence into `out`; both `[Hkv, G, T, D]`, positions `start ..`."""
    q = q.to(reader.dtype)
    stop = start + q.shape[2]
    unwindowed = stop if rule.window is None else min(stop, max(start, rule.window))
    for first, last in _query_blocks(start, unwindowed, reader, rule, q.device):
        rows = slice(first - start, last - start)
        out[:, :, rows] = _causal_block(q[:, :, rows], reader, first, rule)
    for first in range(unwindowed, stop, CONVERTED_QUERIES):
        last = min(stop, first + CONVERTED_QUERIES)
        rows = slice(first - start, last - start)
        out[:, :, rows] = _window_block(q[:, :, rows], reader, first, rule)


def _query_blocks(
    start: int, stop: int, reader: KeyReader, rule: ScoreRule, device: torch.device
) -> Iterator[tuple[int, int]]:
    """Query blocks such that neither masks nor converted keys grow with the sequence."""
    if start >= stop:
        return
    step = stop - start
    if not rule.plain or not uses_flash(device, rule, reader.dtype):
        step = MASKED_QUERIES
    elif not reader.is_view(start, stop):
        step = CONVERTED_QUERIES
    for first in range(start, stop, step):
        yield first, min(stop, first + step)


def _causal_block(q: Tensor, reader: KeyReader, start: int, rule: ScoreRule) -> Tensor:
    """Queries `start ..` against every earlier key, then against their own block's triangle."""
    group, count = q.shape[1:3]
    stop = start + count
    merge = Merge()
    packed = q.flatten(1, 2).unsqueeze(0)
    most = None if rule.plain and uses_flash(q.device, rule, q.dtype) else COMPOSED_TOKENS
    for tile in reader.tiles(0, start, most):
        if rule.alibi_slopes is None:
            out, lse = partial(packed, tile.k.unsqueeze(0), tile.v.unsqueeze(0), rule)
            merge.add(out.view(q.shape), lse.view(q.shape[:3]))
        else:
            bias = rule.alibi(_relative(tile.start, tile.stop, start, stop, q.device))
            merge.add(*partial(q, _grouped(tile.k, group), _grouped(tile.v, group), rule, bias))
    tile = reader.span(start, stop)
    k, v = _grouped(tile.k, group), _grouped(tile.v, group)
    if rule.alibi_slopes is None:
        merge.add(*partial(q, k, v, rule, causal=True))
    else:
        relative = _relative(start, stop, start, stop, q.device)
        merge.add(*partial(q, k, v, rule, rule.bias(relative, relative <= 0)))
    return merge.result()


def _window_block(q: Tensor, reader: KeyReader, start: int, rule: ScoreRule) -> Tensor:
    """Queries that are all past the first window: the band, and the sinks before it."""
    assert rule.window is not None
    group, count = q.shape[1:3]
    stop = start + count
    band = reader.span(start - rule.window + 1, stop)
    block = 256 if rule.window >= 256 else 64
    whole = count // block * block
    merge = Merge()
    pieces = [
        _band(q[:, :, a:b], band, start + a, size, rule)
        for a, b, size in ((0, whole, block), (whole, count, count - whole))
        if b > a
    ]
    merge.add(torch.cat([p[0] for p in pieces], 2), torch.cat([p[1] for p in pieces], 2))
    if sinks := min(rule.sinks, stop - rule.window):
        tile = reader.span(0, sinks)
        relative = _relative(0, sinks, start, stop, q.device)
        bias = rule.bias(relative, relative <= -rule.window)
        merge.add(*partial(q, _grouped(tile.k, group), _grouped(tile.v, group), rule, bias))
    return merge.result()


def _band(q: Tensor, band: Tile, start: int, block: int, rule: ScoreRule) -> tuple[Tensor, Tensor]:
    """Windowed attention of `q` `[Hkv, G, blocks * block, D]`, all blocks of a head in one call."""
    assert rule.window is not None
    kv_heads, group, count, dim = q.shape
    seen = rule.window + block - 1
    first = start - rule.window + 1 - band.start
    relative = _relative(1 - rule.window, block, 0, block, q.device)
    bias = rule.bias(relative, (relative <= 0) & (relative > -rule.window))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], device=q.device)

    def overlapping(x: Tensor) -> Tensor:
        x = x[first:]
        strides = (block * x.stride(0), 0, x.stride(0), x.stride(1))
        return x.as_strided((count // block, group, seen, dim), strides)

    for head in range(kv_heads):
        queries = q[head].unflatten(1, (-1, block)).transpose(0, 1)
        head_bias = bias[min(head, bias.shape[0] - 1)].unsqueeze(0)
        o, m = partial(
            queries, overlapping(band.k[head]), overlapping(band.v[head]), rule, head_bias
        )
        out[head] = o.transpose(0, 1).flatten(1, 2)
        lse[head] = m.transpose(0, 1).flatten(1, 2)
    return out, lse


def _grouped(x: Tensor, group: int) -> Tensor:
    """`[Hkv, n, D]` seen as `[Hkv, G, n, D]` without a copy."""
    return x.unsqueeze(1).expand(-1, group, -1, -1)


def _relative(
    first_key: int, last_key: int, first_query: int, last_query: int, device: torch.device
) -> Tensor:
    """Key minus query position `[T, n]`."""
    keys = torch.arange(first_key, last_key, device=device)
    return keys - torch.arange(first_query, last_query, device=device).unsqueeze(-1)
