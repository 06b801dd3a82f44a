"""The torch path of `paged_decode_attention`: read every key and value once.

The G query heads of a KV head and the T new tokens are the rows of one small matrix, so K and V
are read once for all of them. In float32, scores come from K @ q^T: with the long side as rows the
BLAS streams K instead of packing it, about twice as fast as q @ K^T. In bfloat16 a plain matrix
product would round the scores to 8 bits; the flash kernel keeps them in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctxsweep_kernels.attention_tiles import Merge, compute_dtype, partial
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.reader import PageReader, Tile
from ctxsweep_kernels.score_rule import ScoreRule


def paged_decode_torch(
    q: Tensor, cache: PagedKV, block_table: Tensor, lengths: list[int], rule: ScoreRule
) -> Tensor:
    """Arguments as in `paged_decode_attention`, checked."""
    dtype = compute_dtype(q, cache.dtype)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for row, length in enumerate(lengths):
        reader = PageReader(cache, block_table[row], dtype)
        grouped = q[row].to(dtype).unflatten(0, (cache.kv_heads, -1))
        out[row] = _decode_row(grouped, reader, length, rule).view(q.shape[1:])
    return out


def _decode_row(q: Tensor, reader: PageReader, length: int, rule: ScoreRule) -> Tensor:
    """q `[Hkv, G, T, D]` -> `[Hkv, G * T, D]`."""
    tokens = q.shape[2]
    packed = q.flatten(1, 2)
    start = length - tokens
    # All queries see inner .. start; only with several of them do the edges need a mask.
    outer, inner = rule.first_key(start), min(rule.first_key(length - 1), start)
    edges = [(outer, inner), (start, length)] if tokens > 1 else []
    body = (inner, start if edges else length)
    merge = Merge()
    for first, last in ((0, min(rule.sinks, outer)), body):
        if first < last:
            for tile in reader.tiles(first, last):
                merge.add(*_tile(packed, tile, rule, _alibi(q, tile, start, rule)))
    for first, last in edges:
        if first < last:
            tile = reader.span(first, last)
            merge.add(*_tile(packed, tile, rule, _edge_bias(q, tile, start, rule)))
    return merge.result()


def _tile(q: Tensor, tile: Tile, rule: ScoreRule, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    if q.dtype != torch.float32 or q.device.type != "cpu" or rule.softcap is not None:
        bias = None if bias is None else bias.unsqueeze(0)
        out, lse = partial(q[None], tile.k[None], tile.v[None], rule, bias)
        return out[0], lse[0]
    scores = torch.bmm(tile.k, (q * rule.scale).transpose(1, 2)).transpose(1, 2).contiguous()
    if bias is None:
        return torch.bmm(scores.softmax(-1), tile.v), scores.logsumexp(-1)
    scores += bias
    lse = scores.logsumexp(-1)
    unseen = (lse == float("-inf")).unsqueeze(-1)
    return torch.bmm(scores.softmax(-1).masked_fill_(unseen, 0.0), tile.v), lse


def _positions(q: Tensor, tile: Tile, start: int) -> tuple[Tensor, Tensor]:
    queries = torch.arange(start, start + q.shape[2], device=q.device)
    return queries, torch.arange(tile.start, tile.stop, device=q.device)


def _alibi(q: Tensor, tile: Tile, start: int, rule: ScoreRule) -> Tensor | None:
    """`[Hkv, G * T, n]` where every query sees every key of the tile."""
    if rule.alibi_slopes is None:
        return None
    queries, keys = _positions(q, tile, start)
    bias = rule.alibi(keys - queries.unsqueeze(-1))
    return None if bias is None else bias.flatten(1, 2)


def _edge_bias(q: Tensor, tile: Tile, start: int, rule: ScoreRule) -> Tensor:
    queries, keys = _positions(q, tile, start)
    bias = rule.bias(keys - queries.unsqueeze(-1), rule.visible(queries, keys))
    return bias.expand(*q.shape[:3], -1).flatten(1, 2)
