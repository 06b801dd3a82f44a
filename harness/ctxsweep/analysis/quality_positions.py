"""Where in its context a series breaks: loss by position against healthy losses there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctxsweep.analysis.block_bootstrap import MIN_VALUES
from ctxsweep.analysis.fits import Array
from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.paired import Losses, PassKey
from ctxsweep.analysis.quality_summary import PositionCurve

MOST_BUCKET_TOKENS = 512
BUCKETS = 32
RUNNING = 2
"""Buckets in a row that make a break, not a hard passage of the text."""


def position_curve(
    losses: Losses, series: str, context_tokens: int, reference: tuple[str, int]
) -> PositionCurve | None:
    """The curve of a series over one of its contexts; None where there is nothing to compare."""
    block = losses.block_tokens
    passes = losses.stretches(losses.own(series, context_tokens))
    rows = [
        own - healthy
        for stretch, own in sorted(passes.items())
        if (healthy := _healthy(losses, reference, stretch, context_tokens, len(own))) is not None
    ]
    if not rows:
        return None
    differences = np.stack([row[-min(map(len, rows)) :] for row in rows])
    width = bucket_tokens(context_tokens, block)
    blocks = differences.shape[1]
    positions = context_tokens - block * np.arange(blocks, 0, -1)
    starts, means = [], []
    for bucket in np.unique(positions // width):
        inside = (positions // width == bucket) & np.isfinite(differences).all(axis=0)
        if inside.sum() * len(rows) > 1:
            starts.append(int(bucket * width))
            means.append(losses.mean_of(differences[:, inside]).estimate)
    if not starts:
        return None
    return PositionCurve(
        series=series,
        context_tokens=context_tokens,
        bucket_tokens=width,
        starts=tuple(starts),
        differences=tuple(means),
    )


def bucket_tokens(context_tokens: int, block: int) -> int:
    """Width of a bucket: whole blocks, as many as an interval needs at least."""
    wanted = min(MOST_BUCKET_TOKENS, context_tokens // BUCKETS)
    return max(MIN_VALUES, wanted // block) * block


def _healthy(
    losses: Losses, reference: tuple[str, int], stretch: int, context_tokens: int, blocks: int
) -> Array | None:
    """The reference's losses of the last ``blocks`` of a context; NaN where it has none.

    Of the passes that hold a target the one that ends nearest after it is taken, hence with the
    most before it; but none that begins before the context does, which would know more.
    """
    series, context = reference
    block = losses.block_tokens
    found = np.full(blocks, np.nan)
    for offset in losses.offsets(series, context):
        held = losses.stretches(PassKey(series, context, context, offset)).get(stretch)
        if held is None or offset % block or offset + context > context_tokens:
            continue
        end = blocks - offset // block
        start = max(0, end - len(held))
        if end > start:
            found[start:end] = held[-(end - start) :]
    return found if np.isfinite(found).any() else None


def breaking_position(
    starts: Sequence[int], differences: Sequence[Estimate], max_loss: float
) -> int | None:
    """Start of the first of two buckets running whose lower bound is above ``max_loss``."""
    above = [e.low is not None and e.low > max_loss for e in differences]
    runs = (all(above[i : i + RUNNING]) for i in range(len(above) - RUNNING + 1))
    return next((starts[i] for i, broken in enumerate(runs) if broken), None)
