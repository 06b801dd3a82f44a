"""The weighted matrix: what weights change and what not, ties, sizes, and that it is seeded."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from ctxsweep.cli import advise_grounds
from ctxsweep.planning.advice import weighing
from ctxsweep.planning.advice.advise import Made, advise
from ctxsweep.planning.advice.candidates import Candidate, catalogue, of_model
from ctxsweep.planning.advice.decision import Decision
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.needs import CRITERIA, make_needs
from ctxsweep.planning.devices import device

MADE = Made("2026-01-01T00:00:00Z", "0.1.0", "abc", "ctxsweep advise")


@cache
def _engines(name: str, context_tokens: int) -> tuple[str, ...]:
    return advise_grounds.engines(of_model(name), context_tokens)


@cache
def everything() -> tuple[Candidate, ...]:
    return catalogue()


def decide(models: tuple[str, ...] = (), **fields: Any) -> Decision:
    needs = make_needs({**fields, **({"models": models} if models else {})})
    grounds = Grounds(
        device=device(needs.device),
        engines=lambda candidate, context: _engines(candidate.name, context),
        engine_count=7,
    )
    candidates = tuple(map(of_model, models)) if models else everything()
    return advise(candidates, needs, grounds, MADE)


PAIR = ("mamba-2.8b", "mixtral-8x7b")


def test_weights_change_the_ranking_where_they_should() -> None:
    needs = {"context": "8k", "device": "H100", "quality": "any"}
    leads = {
        weights: decide(PAIR, **needs, weights=weights).ranking[0].name
        for weights in ("quality=1", "speed=1", "memory=1", "ecosystem=1")
    }
    assert leads == {
        "quality=1": "mixtral-8x7b",
        "speed=1": "mamba-2.8b",
        "memory=1": "mamba-2.8b",
        "ecosystem=1": "mamba-2.8b",
    }


def test_a_flip_is_where_the_first_place_changes_and_not_before() -> None:
    needs = {"context": "8k", "device": "H100", "quality": "any"}
    decision = decide(PAIR, **needs)
    assert decision.sensitivity is not None
    flip = next(one for one in decision.sensitivity.flips if one.criterion == "quality")
    first = decision.ranking[0].name
    for share, leader in ((0.98, first), (1.02, flip.leader)):
        at = flip.weight + share * (flip.at - flip.weight)
        moved = decide(PAIR, **needs, weights=f"quality={at}")
        assert moved.ranking[0].name == leader


def test_a_weight_that_tells_nobody_apart_changes_nothing() -> None:
    needs = {"context": "8k", "device": "H100", "quality": "any"}
    plain, heavy = decide(PAIR, **needs), decide(PAIR, **needs, weights="training=0.9")
    assert [row.name for row in plain.ranking] == [row.name for row in heavy.ranking]
    assert {row.scores["training"] for row in heavy.ranking} == {1.0}


def test_weights_are_normalised_and_the_rest_keeps_its_proportions() -> None:
    weights = make_needs({"weights": "quality=0.5"}).criterion_weights
    assert weights["quality"] == pytest.approx(0.5)
    assert weights["speed"] / weights["training"] == pytest.approx(0.20 / 0.15)
    weights = make_needs({"weights": "quality=3,speed=1"}).criterion_weights
    assert (weights["quality"], weights["speed"], weights["memory"]) == (0.75, 0.25, 0)
    assert set(weights) == set(CRITERIA)


def test_two_alike_are_a_tie_and_the_tie_breaker_is_named() -> None:
    decision = decide(("llama-3-8b", "llama-3.1-8b"), context="8k", device="H100")
    assert set(decision.tie) == {"llama-3-8b", "llama-3.1-8b"}
    assert decision.tie_breaker.startswith(f"ecosystem: {decision.take} runs on")
    assert "a tie with" in decision.sentence


def test_a_tie_is_decided_by_the_ecosystem_even_against_the_total() -> None:
    needs = {"context": "8k", "device": "H100", "quality": "any"}
    decision = decide(("rwkv6-7b", "rwkv7-7.2b"), **needs)
    assert decision.tie
    last = decision.ranking[-1].name

    def favouring(candidate: Candidate, context_tokens: int) -> tuple[str, ...]:
        return ("a", "b") if candidate.name == last else ("a",)

    grounds = Grounds(device=device("H100"), engines=favouring, engine_count=50)
    candidates = tuple(map(of_model, ("rwkv6-7b", "rwkv7-7.2b")))
    decision = advise(candidates, make_needs(needs), grounds, MADE)
    assert decision.ranking[0].name != last and decision.take == last
    assert decision.tie_breaker == f"ecosystem: {last} runs on 2 engines"


def test_candidates_far_apart_are_no_tie() -> None:
    decision = decide(PAIR, context="8k", device="H100", quality="any", weights="memory=1")
    assert decision.take == "mamba-2.8b" and not decision.tie


def test_only_models_of_one_size_are_compared_unless_named() -> None:
    decision = decide(context="8k", device="H100")
    sizes = {of_model(row.name).size_class for row in decision.ranking}
    assert len(sizes) == 1 and decision.aside
    assert "--parameters chooses another" in decision.compared
    smaller = decide(context="8k", device="H100", parameters="1b-4b")
    assert all(1e9 <= row.parameters <= 4e9 for row in smaller.ranking)


def test_a_stretched_context_scores_less_and_high_quality_refuses_it() -> None:
    needs = {"context": "32k", "device": "H100", "tp": 2}
    medium = decide(("llama-3-8b", "llama-3.1-8b"), **needs)
    parts = {row.name: {p.name: p for p in row.quality} for row in medium.ranking}
    assert parts["llama-3.1-8b"]["context"].score > parts["llama-3-8b"]["context"].score
    assert "needs RoPE scaling" in parts["llama-3-8b"]["context"].reason
    high = decide(("llama-3-8b", "llama-3.1-8b"), **needs, quality="high")
    assert [one.name for one in high.excluded] == ["llama-3-8b"]


def test_decisions_are_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {"context": "8k", "device": "H100"}
    first = decide(**needs)
    assert first == decide(**needs)
    monkeypatch.setattr(weighing, "SEED", 21)
    other = decide(**needs)
    assert [row.name for row in other.ranking] == [row.name for row in first.ranking]
