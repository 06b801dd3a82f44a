"""The weighted decision matrix: scores from facts, ties, and how the ranking hangs on the weights.

Every score is in [0, 1], of the best candidate 1 where it is a ratio:

- quality: the proxy (``quality_proxy``);
- speed: least time of a request / its time, a request being one prefill and an answer;
- memory: least bytes of a device / its bytes, at the context;
- ecosystem: engines of ctxsweep that accept the model / all engines;
- training: least FLOPs of a token at the context / its FLOPs, forward and backward; where nothing
  is trained, 1 for a model whose weights can be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctxsweep.planning.advice.assess import Assessment
from ctxsweep.planning.advice.decision import Figure, Figures, Flip, Part, Sensitivity
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.needs import CRITERIA, Criterion, Needs
from ctxsweep.planning.advice.quality_proxy import PROXY_HALF_WIDTH, parts, proxy

Array = npt.NDArray[np.float64]

BOUND_HALF_WIDTH = 0.30
"""What bounds of two candidates may err by against each other, as engines reach different shares of
them: a convention, taken as 95%."""
MIXED_HALF_WIDTH = 2.0
"""The same where some times are measured or fitted: beside those a bound may be off three times."""
DRAWS = 4000
SEED = 20
WEIGHT_DRAWS = 2000
CONCENTRATION = 50.0  # of the Dirichlet: a weight of 0.2 then moves by about ±0.06
Z95 = 1.959964
EDGE = 0.005  # a weight of nothing or of everything is no weighting


@dataclass(frozen=True)
class Scored:
    """A candidate that passed, its scores, and the weighted sum with what it may err by."""

    assessment: Assessment
    engines: tuple[str, ...]
    quality: tuple[Part, ...]
    scores: dict[Criterion, float]
    total: Figure

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.assessment.candidate.name


@dataclass(frozen=True)
class Matrix:
    """All that passed, best total first, with who cannot be told from the first (itself among
    them, where there is anybody)."""

    rows: tuple[Scored, ...]
    tie: tuple[str, ...]
    take: str
    tie_breaker: str


def weigh(passed: Sequence[Assessment], needs: Needs, grounds: Grounds) -> Matrix:
    """Rank at least one candidate."""
    quality = _quality(passed, needs, grounds)
    scores = _scores(passed, quality, needs, grounds)
    weights = needs.criterion_weights
    vector = np.array([weights[name] for name in CRITERIA])
    drawn = _draws(passed, quality, scores) @ vector
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    totals = scores @ vector
    order = sorted(range(len(passed)), key=lambda i: (-totals[i], passed[i].candidate.name))
    rows = tuple(
        Scored(
            assessment=passed[i],
            engines=grounds.engines_of(passed[i].candidate, needs.context),
            quality=quality[i],
            scores={name: float(scores[i, k]) for k, name in enumerate(CRITERIA)},
            total=Figure(
                value=float(totals[i]),
                low=float(min(low[i], totals[i])),
                high=float(max(high[i], totals[i])),
                basis="formula",
                source="weighted sum",
            ),
        )
        for i in order
    )
    return _decided(rows, drawn[:, order])


def sensitivity(rows: Sequence[Scored], weights: dict[Criterion, float]) -> Sensitivity | None:
    """How the first place by total hangs on the weights; None for a single candidate."""
    if len(rows) < 2:
        return None
    scores = np.array([[row.scores[name] for name in CRITERIA] for row in rows])
    vector = np.array([weights[name] for name in CRITERIA])
    flips = [
        Flip(criterion=name, weight=float(vector[k]), at=at, leader=rows[who].name)
        for k, name in enumerate(CRITERIA)
        for at, who in _flips(scores, vector, k)
    ]
    generator = np.random.default_rng(SEED)
    around = generator.dirichlet(CONCENTRATION * vector + 1e-3, WEIGHT_DRAWS)
    leaders = np.argmax(around @ scores.T, axis=1)
    counts = np.bincount(leaders, minlength=len(rows)) / WEIGHT_DRAWS
    others = {rows[i].name: float(counts[i]) for i in np.argsort(-counts) if i and counts[i] > 0}
    return Sensitivity(flips=tuple(flips), kept=float(counts[0]), draws=WEIGHT_DRAWS, others=others)


def _quality(
    passed: Sequence[Assessment], needs: Needs, grounds: Grounds
) -> list[tuple[Part, ...]]:
    largest = max(one.candidate.effective_parameters for one in passed)
    return [
        parts(one.candidate, largest, needs, one.deployment, grounds.quality_runs) for one in passed
    ]


def _scores(
    passed: Sequence[Assessment],
    quality: Sequence[tuple[Part, ...]],
    needs: Needs,
    grounds: Grounds,
) -> Array:
    """``[candidates, criteria]`` in the order of ``CRITERIA``."""
    figures = [_figures(one) for one in passed]
    request = np.array([one.request_s.value for one in figures])
    memory = np.array([one.memory_bytes.value for one in figures])
    flops = np.array([one.flops_per_token for one in figures])
    engines = [len(grounds.engines_of(one.candidate, needs.context)) for one in passed]
    weights = np.array([float(one.candidate.has_weights) for one in passed])
    by_criterion: dict[Criterion, Array] = {
        "quality": np.array([proxy(found) for found in quality]),
        "speed": request.min() / request,
        "memory": memory.min() / memory,
        "ecosystem": np.array(engines) / grounds.engine_count,
        "training": weights if needs.training == "none" else flops.min() / flops,
    }
    return np.stack([by_criterion[name] for name in CRITERIA], axis=1)


def _draws(
    passed: Sequence[Assessment], quality: Sequence[tuple[Part, ...]], scores: Array
) -> Array:
    """Scores as they might be instead, ``[draws, candidates, criteria]``, seeded."""
    generator = np.random.default_rng(SEED)
    shape = (DRAWS, len(passed))
    drawn = np.broadcast_to(scores, (*shape, len(CRITERIA))).copy()
    request = np.array([_figures(one).request_s.value for one in passed])
    bases = {_figures(one).request_s.basis for one in passed}
    bound = BOUND_HALF_WIDTH if bases == {"bound"} else MIXED_HALF_WIDTH
    spread = np.array([_log_deviation(_figures(one).request_s, bound) for one in passed])
    times = request * np.exp(generator.standard_normal(shape) * spread)
    drawn[..., CRITERIA.index("speed")] = times.min(axis=1, keepdims=True) / times
    error = np.array([_proxy_deviation(found) for found in quality])
    moved = drawn[..., CRITERIA.index("quality")] + generator.standard_normal(shape) * error
    drawn[..., CRITERIA.index("quality")] = np.clip(moved, 0, 1)
    return drawn


def _decided(rows: tuple[Scored, ...], drawn: Array) -> Matrix:
    """The tie around the first place, and who is taken: ``drawn`` ``[draws, rows]``."""
    behind = np.quantile(drawn[:, :1] - drawn, 0.025, axis=0)
    tied = [row for row, gap in zip(rows, behind, strict=True) if gap <= 0]
    if len(tied) < 2:
        return Matrix(rows, (), rows[0].name, "")
    most = max(len(row.engines) for row in tied)
    best = [row for row in tied if len(row.engines) == most]
    by = f"ecosystem: {best[0].name} runs on {most} engines"
    if len(best) > 1:
        by = f"the higher total, as the ecosystem ({most} engines) is equal"
    return Matrix(rows, tuple(row.name for row in tied), best[0].name, by)


def _flips(scores: Array, weights: Array, k: int) -> list[tuple[float, int]]:
    """Nearest weights of criterion ``k`` below and above at which another row leads row 0."""
    others = np.delete(np.arange(len(weights)), k)
    rest = weights[others].sum()
    share = weights[others] / rest if rest > 0 else np.full(len(others), 1 / len(others))
    plain = scores[:, others] @ share
    own, base = scores[0, k] - scores[1:, k], plain[0] - plain[1:]
    slope = own - base  # the lead is base + x·slope, at weight x of the criterion
    crossings = [
        (float(-b / s), i + 1)
        for i, (b, s) in enumerate(zip(base, slope, strict=True))
        if abs(s) > 1e-12
    ]
    inside = [(at, who) for at, who in crossings if EDGE <= at <= 1 - EDGE]
    below = [c for c in inside if c[0] < weights[k]]
    above = [c for c in inside if c[0] > weights[k]]
    return [*sorted(below)[-1:], *sorted(above)[:1]]


def _figures(one: Assessment) -> Figures:
    assert one.figures is not None
    return one.figures


def _log_deviation(figure: Figure, bound: float) -> float:
    """Standard deviation of the logarithm of a time; ``bound``: half-width of one that is one."""
    if figure.basis == "bound" or figure.low is None or figure.high is None or figure.low <= 0:
        return float(np.log1p(bound)) / Z95
    return float(np.log(figure.high / figure.low)) / (2 * Z95)


def _proxy_deviation(found: tuple[Part, ...]) -> float:
    """What is measured does not err as a proxy does."""
    guessed = sum(part.share for part in found if not part.reason.startswith("measured"))
    return PROXY_HALF_WIDTH * guessed / Z95
