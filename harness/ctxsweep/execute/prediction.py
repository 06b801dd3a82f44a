"""How long a prefill will take, from the chunks seen so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctxsweep.records import Sample

MIN_POINTS_FOR_SLOPE = 4
MAX_POINTS = 256


class PrefillCurve:
    """Time per token, ``a + b·position``, fitted to prefill samples by Theil and Sen's estimator.

    One slow chunk does not bend it (up to 29% of outliers do not); ``b`` is never below 0, so that
    noise cannot promise that a longer context gets cheaper.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        step = -(-len(samples) // MAX_POINTS) or 1
        used = samples[::step]
        middle = np.array([s.position + s.tokens / 2 for s in used])
        per_token = np.array([s.wall_s / s.tokens for s in used])
        self.known = len(used) > 0
        self._slope = 0.0
        if len(np.unique(middle)) >= MIN_POINTS_FOR_SLOPE:
            first, second = np.triu_indices(len(middle), k=1)
            run = middle[second] - middle[first]
            rise = (per_token[second] - per_token[first])[run != 0]
            self._slope = max(0.0, float(np.median(rise / run[run != 0])))
        self._base = float(np.median(per_token - self._slope * middle)) if self.known else 0.0

    def seconds(self, start: int, end: int) -> float:
        """Predicted time to prefill from position ``start`` to ``end``; 0 if nothing is known."""
        return self._base * (end - start) + self._slope * (end**2 - start**2) / 2
