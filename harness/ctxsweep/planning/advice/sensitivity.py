"""How what is taken hangs on the weights: decided anew, ties and all, at other weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from ctxsweep.planning.advice.decision import Flip, Sensitivity
from ctxsweep.planning.advice.needs import CRITERIA, Criterion
from ctxsweep.planning.advice.scoring import SEED, Array
from ctxsweep.planning.advice.weighing import Table, vector_of

WEIGHT_DRAWS = 400
CONCENTRATION = 50.0  # of the Dirichlet: a weight of 0.2 then moves by about ±0.06
EDGE = 0.005  # a weight of nothing or of everything is no weighting
STRIDE, CLOSE = 0.05, 0.002  # a change is sought in strides, then halved until so close


def sensitivity(table: Table, weights: dict[Criterion, float]) -> Sensitivity | None:
    """What other weights would take; None for a single candidate."""
    if len(table.cards) < 2:
        return None
    vector = vector_of(weights)
    taken = table.choose(vector).taken
    flips = [
        Flip(criterion=name, weight=weights[name], at=at, leader=table.cards[who].name)
        for k, name in enumerate(CRITERIA)
        for end in (EDGE, 1 - EDGE)
        for at, who in _flip(table, vector, k, end)
    ]
    around = np.random.default_rng(SEED).dirichlet(CONCENTRATION * vector + 1e-3, WEIGHT_DRAWS)
    counts = Counter(table.choose(one).taken for one in around)
    others = {
        table.cards[who].name: count / WEIGHT_DRAWS
        for who, count in counts.most_common()
        if who != taken
    }
    return Sensitivity(
        take=table.cards[taken].name,
        flips=tuple(flips),
        kept=counts[taken] / WEIGHT_DRAWS,
        draws=WEIGHT_DRAWS,
        others=others,
    )


def _flip(table: Table, weights: Array, k: int, end: float) -> Iterator[tuple[float, int]]:
    """The nearest weight of criterion ``k`` towards ``end`` at which another is taken."""
    start = float(weights[k])
    taken = table.choose(weights).taken
    kept = start
    for at in [*np.arange(start, end, STRIDE if end > start else -STRIDE)[1:], end]:
        if table.choose(_moved(weights, k, at)).taken != taken:
            break
        kept = float(at)
    else:
        return
    gone = float(at)
    while abs(gone - kept) > CLOSE:
        middle = (gone + kept) / 2
        same = table.choose(_moved(weights, k, middle)).taken == taken
        kept, gone = (middle, gone) if same else (kept, middle)
    yield gone, table.choose(_moved(weights, k, gone)).taken


def _moved(weights: Array, k: int, at: float) -> Array:
    """Criterion ``k`` weighted ``at``, the others in their proportions."""
    moved = weights.copy()
    moved[k] = 0.0
    rest = moved.sum()
    moved = moved / rest if rest > 0 else np.full(len(weights), 1 / (len(weights) - 1))
    moved = moved * (1 - at)
    moved[k] = at
    return moved
