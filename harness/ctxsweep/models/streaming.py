"""Attention sinks: the first tokens stay visible beside a window (StreamingLLM, arXiv 2309.17453).

With S sinks and a window W, the query at position p sees the keys j < S and p − j < W: all of them
while p < S + W. As in the paper, positions count within the cache of S + W tokens: distances in
the window are the true ones, that to sink i is min(p, S + W − 1) − i, however long the text.

Rotary scores depend on differences alone, so keys are turned once, by their place in the text, and
the query twice: by p for the window, by min(p, S + W − 1) for the sinks. The two parts are merged.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ctxsweep.models.attention import AttentionMixer
from ctxsweep.models.layers import LayerState, StateSpec, Step
from ctxsweep.models.streaming_cache import StreamingState
from ctxsweep_kernels.attention_tiles import Merge, compute_dtype, partial
from ctxsweep_kernels.dispatch import choose
from ctxsweep_kernels.rope_append.cpu import rotate
from ctxsweep_kernels.score_rule import ScoreRule

OP = "streaming_attention"
BLOCK = 256
"""Queries at a time. Masks are of this size squared, since only the window's edges need one."""


class StreamingMixer(AttentionMixer):
    """Attention over sinks and a window; the weights are those of ``AttentionMixer``."""

    ops = (OP,)

    def new_state(self, spec: StateSpec) -> LayerState:
        self.rotary = spec.rotary
        return StreamingState(self.section, spec)

    def forward(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        assert isinstance(state, StreamingState) and self.rotary is not None
        choose(step.impl, OP, [x.device])
        heads = self.qkv(x).unflatten(-1, (-1, self.section.head_dim)).transpose(1, 2)
        q, k, v = heads.split(self.sizes, dim=1)
        start, turning = state.length, self.rotary.at(step.horizon)
        place = torch.arange(start, start + x.shape[1], device=x.device)
        near, k = (_turned(t, place, *turning) for t in (q, k))
        far = _turned(q, place.clamp(max=state.slots - 1), *turning)
        dtype = compute_dtype(q, state.stored.dtype)
        sinks, window = state.extend(torch.stack([k, v]), dtype)
        rule = ScoreRule(self.section.head_dim**-0.5, state.window, state.sinks)
        y = attend(near.to(dtype), far.to(dtype), sinks, window, start, rule)
        return self.out(y.to(x.dtype).transpose(1, 2).flatten(2))


def _turned(x: Tensor, place: Tensor, inv_freq: Tensor, attention_factor: float) -> Tensor:
    """``x [B, H, T, D]`` rotated by the positions ``[T]``."""
    angles = place.unsqueeze(-1).float() * inv_freq
    return rotate(x, angles.cos() * attention_factor, angles.sin() * attention_factor)


def attend(
    near: Tensor, far: Tensor, sinks: Tensor, window: Tensor, start: int, rule: ScoreRule
) -> Tensor:
    """Attention ``[B, H, T, D]`` of the queries at ``start ..`` over sinks and window.

    near, far: the queries ``[B, H, T, D]``, turned for the window and for the sinks.
    sinks, window: keys and values ``[2, B, Hkv, n, D]`` as ``StreamingState.extend`` gives them.
    Scratch does not grow with T.
    """
    shape, kv_heads = near.shape, sinks.shape[2]
    near, far = (q.reshape(shape[0] * kv_heads, -1, *shape[2:]) for q in (near, far))
    sinks, window = sinks.flatten(1, 2), window.flatten(1, 2)
    stop = start + shape[2]
    keys_from = stop - window.shape[2]
    blocks = []
    for first in range(start, stop, BLOCK):
        queries = range(first, min(stop, first + BLOCK))
        rows = slice(queries.start - start, queries.stop - start)
        merge = Merge()
        _add(merge, far[:, :, rows], sinks, queries, range(sinks.shape[2]), rule)
        for keys in _bands(queries, keys_from, rule):
            some = window[:, :, keys.start - keys_from : keys.stop - keys_from]
            _add(merge, near[:, :, rows], some, queries, keys, rule)
        blocks.append(merge.result())
    return torch.cat(blocks, dim=2).view(shape)


def _bands(queries: range, keys_from: int, rule: ScoreRule) -> Iterator[range]:
    """The window's keys of a block: those that only its first see, that all see, its own."""
    assert rule.window is not None
    first = max(keys_from, queries.start - rule.window + 1)
    own = queries.start + 1
    common = min(max(first, queries.stop - rule.window), own)
    yield from (range(first, common), range(common, own), range(max(first, own), queries.stop))


def _add(merge: Merge, q: Tensor, kv: Tensor, queries: range, keys: range, rule: ScoreRule) -> None:
    """Attention of ``q [N, G, t, D]`` over ``kv [2, N, n, D]``, masked where need be."""
    if not keys:
        return
    k, v = kv.unsqueeze(2)
    if _all_seen(queries, keys, rule):
        packed = q.flatten(1, 2).unsqueeze(1)  # a group reads its keys once
        out, lse = partial(packed, k, v, rule)
        merge.add(out.view(q.shape), lse.view(q.shape[:3]))
        return
    k, v = (x.expand(-1, q.shape[1], -1, -1) for x in (k, v))
    at, of = (torch.arange(r.start, r.stop, device=q.device) for r in (queries, keys))
    merge.add(*partial(q, k, v, rule, rule.bias(of - at.unsqueeze(-1), rule.visible(at, of))))


def _all_seen(queries: range, keys: range, rule: ScoreRule) -> bool:
    assert rule.window is not None
    kept = keys.stop <= rule.sinks or queries[-1] - keys.start < rule.window
    return keys[-1] <= queries.start and kept
