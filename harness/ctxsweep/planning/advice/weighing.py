"""The weighted decision matrix: totals, who cannot be told from the first, and who is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ctxsweep.planning.advice.assess import STRENGTH, Assessment
from ctxsweep.planning.advice.decision import Figure, Part
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.needs import CRITERIA, Criterion, Needs
from ctxsweep.planning.advice.scoring import Array, Card, draws, figures_of_one, score

NOISE = 0.025
"""A candidate that is not behind the first in so large a share of draws cannot be told from it."""


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
class Choice:
    """Places of the cards at some weights: by total, those that cannot be told from the first
    (itself among them, where there is anybody), the one taken, and what decided between them."""

    order: tuple[int, ...]
    tie: tuple[int, ...]
    taken: int
    tie_breaker: str


@dataclass(frozen=True)
class Table:
    """All candidates that passed, with their scores and what those might be instead."""

    cards: tuple[Card, ...]
    drawn: Array

    @cached_property
    def scores(self) -> Array:
        """``[candidates, criteria]`` in the order of ``CRITERIA``."""
        return np.array([[card.scores[name] for name in CRITERIA] for card in self.cards])

    @cached_property
    def known(self) -> tuple[int, ...]:
        """How well founded the times of each are, as ``STRENGTH``."""
        figures = [figures_of_one(card.assessment) for card in self.cards]
        return tuple(STRENGTH[one.request_s.basis] for one in figures)

    def choose(self, weights: Array) -> Choice:
        """Who is taken at these weights, ``[criteria]``."""
        totals, drawn = self.scores @ weights, self.drawn @ weights
        places = [
            (-round(float(total), 12), card.name)
            for total, card in zip(totals, self.cards, strict=True)
        ]
        order = tuple(sorted(range(len(places)), key=lambda i: places[i]))
        first = order[0]
        ahead = np.mean(drawn >= drawn[:, first : first + 1], axis=0)
        tied = tuple(i for i in order if i == first or ahead[i] >= NOISE)
        if len(tied) < 2:
            return Choice(order, (), first, "")
        return Choice(order, tied, *self._break(tied))

    def _break(self, tied: tuple[int, ...]) -> tuple[int, str]:
        """Measured before not measured, then more engines, then the higher total."""
        best = max(self.known[i] for i in tied)
        left, by = list(tied), []
        if any(self.known[i] < best for i in tied):
            left = [i for i in tied if self.known[i] == best]
            by.append("evidence: the others' times are less well known")
        if len(left) > 1:
            most = max(len(self.cards[i].engines) for i in left)
            several = [i for i in left if len(self.cards[i].engines) == most]
            if len(several) < len(left):
                by.append(f"ecosystem: {self.cards[several[0]].name} runs on {most} engines")
                by += ["the higher total"] if len(several) > 1 else []
            else:
                by.append(f"the higher total, as the ecosystem ({most} engines) is equal")
            left = several
        return left[0], ", then ".join(by)


@dataclass(frozen=True)
class Matrix:
    """All that passed, best total first, the tie around the first, and who is taken."""

    rows: tuple[Scored, ...]
    tie: tuple[str, ...]
    take: str
    tie_breaker: str
    table: Table


def weigh(passed: Sequence[Assessment], needs: Needs, grounds: Grounds) -> Matrix:
    """Rank at least one candidate."""
    cards = tuple(score(one, needs, grounds) for one in passed)
    table = Table(cards, draws(cards, needs))
    weights = vector_of(needs.criterion_weights)
    choice = table.choose(weights)
    totals, drawn = table.scores @ weights, table.drawn @ weights
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    rows = tuple(
        Scored(
            assessment=cards[i].assessment,
            engines=cards[i].engines,
            quality=cards[i].quality,
            scores=cards[i].scores,
            total=Figure(
                value=float(totals[i]),
                low=float(min(low[i], totals[i])),
                high=float(max(high[i], totals[i])),
                basis="formula",
                source="weighted sum",
            ),
        )
        for i in choice.order
    )
    tie = tuple(cards[i].name for i in choice.tie)
    return Matrix(rows, tie, cards[choice.taken].name, choice.tie_breaker, table)


def vector_of(weights: dict[Criterion, float]) -> Array:
    """Weights in the order of ``CRITERIA``."""
    return np.array([weights[name] for name in CRITERIA])
