"""Scores of a candidate against the needs, each in [0, 1], and what they might be instead.

None hangs on who else stands there, so that nobody's place changes because another came or went:

- quality: the proxy (``quality_proxy``);
- speed: reference / (reference + time of a request), a request being one prefill and an answer; the
  reference is what the limits allow, else what the task's convention does;
- memory: the share of a device's usable memory that is left;
- ecosystem: engines of ctxsweep that accept the model / all engines;
- training: reference / (reference + FLOPs), the reference being the budget, else the training of a
  7B; where nothing is trained, 1 for a model whose weights can be had.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctxsweep.planning.advice.assess import Assessment
from ctxsweep.planning.advice.decision import Figure, Figures, Part
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.limits import usable_bytes
from ctxsweep.planning.advice.needs import CRITERIA, Criterion, Needs
from ctxsweep.planning.advice.quality_proxy import PROXY_HALF_WIDTH, parts, proxy
from ctxsweep.planning.advice.training import reference_flops, training_flops

Array = npt.NDArray[np.float64]

SLOWEST_OF_BOUND = 3.0
"""A real time is taken to be between its bound and so many times it, all alike likely on a log
scale, the same for all bounds of a device: a convention."""
USUAL_OF_BOUND = math.sqrt(SLOWEST_OF_BOUND)  # the middle of that: what a bound is scored as
BETWEEN_BOUNDS = 0.30
"""What two bounds may err by against each other, as engines reach different shares of them: a
convention, taken as 95%."""
DRAWS = 2000
SEED = 20
Z95 = 1.959964


@dataclass(frozen=True)
class Card:
    """A candidate's scores, with what stands behind them."""

    assessment: Assessment
    engines: tuple[str, ...]
    quality: tuple[Part, ...]
    scores: dict[Criterion, float]

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.assessment.candidate.name


def score(one: Assessment, needs: Needs, grounds: Grounds) -> Card:
    """The scores of a candidate that can be laid out."""
    figures = figures_of_one(one)
    engines = grounds.engines_of(one.candidate, needs.context)
    quality = parts(one.candidate, needs, one.deployment, grounds.quality_runs)
    scores: dict[Criterion, float] = {
        "quality": proxy(quality),
        "speed": float(_speed(_usual_request(figures, needs), needs)),
        "memory": _headroom(one, needs, grounds),
        "ecosystem": min(1.0, len(engines) / grounds.engine_count),
        "training": _training(one, needs),
    }
    return Card(one, engines, quality, scores)


def figures_of_one(one: Assessment) -> Figures:
    """The figures of a candidate that was laid out."""
    assert one.figures is not None
    return one.figures


def _speed(request_s: float | Array, needs: Needs) -> float | Array:
    prefill, token = needs.reference_s
    reference = prefill + needs.answer_tokens * token
    return reference / (reference + request_s)


def _usual_request(figures: Figures, needs: Needs) -> float:
    """Seconds of a request, a bound counted as what it usually takes."""
    return _usual(figures.prefill_s) + needs.answer_tokens * _usual(figures.decode_s)


def _usual(figure: Figure) -> float:
    return figure.value * (USUAL_OF_BOUND if figure.basis == "bound" else 1.0)


def _headroom(one: Assessment, needs: Needs, grounds: Grounds) -> float:
    usable = usable_bytes(needs, grounds, one.deployment)
    return max(0.0, 1 - figures_of_one(one).memory_bytes.value / usable)


def _training(one: Assessment, needs: Needs) -> float:
    flops = training_flops(one.candidate, needs, figures_of_one(one).flops_per_token)
    if flops is None:
        return float(one.candidate.has_weights)
    reference = reference_flops(needs)
    return reference / (reference + flops)


def draws(cards: Sequence[Card], needs: Needs) -> Array:
    """Scores as they might be instead, ``[draws, candidates, criteria]``, seeded.

    Every candidate draws from a generator of its own: what it draws does not hang on the others.
    """
    plain = np.array([[card.scores[name] for name in CRITERIA] for card in cards])
    drawn = np.broadcast_to(plain, (DRAWS, *plain.shape)).copy()
    device = np.random.default_rng(SEED).uniform(0, math.log(SLOWEST_OF_BOUND), DRAWS)
    for i, card in enumerate(cards):
        generator = np.random.default_rng([SEED, *card.name.encode()])
        own, proxied = generator.standard_normal((2, DRAWS))
        figures = figures_of_one(card.assessment)
        request = _drawn_time(figures.prefill_s, device, own)
        request = request + needs.answer_tokens * _drawn_time(figures.decode_s, device, own)
        drawn[:, i, CRITERIA.index("speed")] = _speed(request, needs)
        quality = card.scores["quality"] + proxied * _proxy_deviation(card.quality)
        drawn[:, i, CRITERIA.index("quality")] = np.clip(quality, 0, 1)
    return drawn


def _drawn_time(figure: Figure, device: Array, own: Array) -> Array:
    """Times ``[draws]``. ``device``: logarithms of how far all its bounds are exceeded; ``own``:
    standard normal."""
    if figure.basis == "bound":
        each = math.log1p(BETWEEN_BOUNDS) / Z95 / math.sqrt(2)
        slower: Array = figure.value * np.exp(np.maximum(0.0, device + own * each))
        return slower
    if figure.low is None or figure.high is None or figure.low <= 0:
        return np.full(DRAWS, figure.value)
    moved: Array = figure.value * np.exp(own * math.log(figure.high / figure.low) / (2 * Z95))
    return moved


def _proxy_deviation(found: tuple[Part, ...]) -> float:
    """What is measured does not err as a proxy does."""
    guessed = sum(part.share for part in found if not part.reason.startswith("measured"))
    return PROXY_HALF_WIDTH * guessed / Z95
