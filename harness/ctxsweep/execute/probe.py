"""A short prompt, the same for every engine, whose logits show whether they run the same model."""

from __future__ import annotations

import math

import numpy as np

from ctxsweep.backends.base import Backend
from ctxsweep.records import Probe, Series

PROBE_TOKENS = 256
SHOWN = 64
"""Logits that are kept, of the whole vocabulary."""


def read_probe(
    backend: Backend, series: Series, batch_size: int, max_tokens: int, seed: int
) -> Probe | None:
    """Logits after ``PROBE_TOKENS`` seeded tokens; None from an engine that shows none.

    The prompt is fed as the series feeds its own, so that its kernels and its cache are those that
    are measured. Every row of the batch is given the same tokens; the first one's logits count.
    """
    if not backend.capabilities.logits:
        return None
    tokens = min(PROBE_TOKENS, max_tokens)
    random = np.random.default_rng([seed, tokens])
    row = random.integers(0, backend.vocab_size, size=(1, tokens), dtype=np.int64)
    shown = np.sort(random.permutation(backend.vocab_size)[:SHOWN])
    prompt = np.repeat(row, batch_size, axis=0)
    backend.reset()
    if backend.capabilities.whole_prompt:
        backend.begin(prompt)
    step = {"whole": tokens, "recurrent": 1}.get(str(series.prefill_chunk), series.prefill_chunk)
    for start in range(0, tokens, int(step)):
        backend.prefill(prompt[:, start : start + int(step)])
    logits = backend.logits()[0].astype(np.float64)
    backend.reset()
    return Probe(
        tokens=tokens,
        vocabulary=backend.vocab_size,
        logits=tuple(float(x) if math.isfinite(x) else None for x in logits[shown]),
        spread=float(np.std(logits, where=np.isfinite(logits))) if np.isfinite(logits).any() else 0,
    )
