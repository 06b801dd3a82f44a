"""Twelve cases that docs/decide.md tells of, each with its reasons; weights, ties, the record."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ctxsweep.cli import advise_grounds
from ctxsweep.planning.advice.advise import Made, advise
from ctxsweep.planning.advice.candidates import HYBRID, STATE, Candidate, catalogue, of_model
from ctxsweep.planning.advice.decision import Decision
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.needs import make_needs
from ctxsweep.planning.devices import device
from ctxsweep.report.advise_terminal import print_decision

DOCS = Path(__file__).parents[2] / "docs" / "decide.md"
MADE = Made("2026-01-01T00:00:00Z", "0.1.0", "abc", "ctxsweep advise")


@cache
def _engines(name: str, context_tokens: int) -> tuple[str, ...]:
    return advise_grounds.engines(of_model(name), context_tokens)


def engines(candidate: Candidate, context_tokens: int) -> tuple[str, ...]:
    return _engines(candidate.name, context_tokens)


@cache
def everything() -> tuple[Candidate, ...]:
    return catalogue()


def decide(models: tuple[str, ...] = (), **fields: Any) -> Decision:
    needs = make_needs({**fields, **({"models": models} if models else {})})
    grounds = Grounds(device=device(needs.device), engines=engines, engine_count=7)
    candidates = tuple(map(of_model, models)) if models else everything()
    return advise(candidates, needs, grounds, MADE)


def shown(decision: Decision) -> str:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    print_decision(decision, console, verbose=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    return " ".join(text.split())


def family(decision: Decision) -> str:
    assert decision.take is not None
    return of_model(decision.take).family


def rule(decision: Decision, name: str) -> Any:
    return next(one for one in decision.rules if one.name.startswith(name))


@dataclass(frozen=True)
class Case:
    """Needs, the kinds of model that may be taken, the rule that must apply, and what is said."""

    needs: dict[str, Any]
    families: tuple[str, ...]
    applies: str
    says: tuple[str, ...] = field(default_factory=tuple)


CASES = {
    "long context and little memory": Case(
        {"context": "128k", "memory": "8GB", "device": "RTX-4090", "quality": "any"},
        STATE,
        "SSM or RWKV",
        ("a state of fixed size", "the matrix agrees", "holds", "can be used"),
    ),
    "maximal quality": Case(
        {"context": "8k", "device": "H100", "tp": 8, "quality": "high", "weights": "quality=0.8"},
        ("attention", HYBRID),
        "GQA from 7B",
        ("quality high allows none of stretching", "quality 0.80", "trained to"),
    ),
    "minimal training": Case(
        {
            "context": "8k",
            "device": "H100",
            "training": "finetune",
            "training-tokens": "100m",
            "training-budget": 2e19,
            "weights": "training=0.6",
        },
        ("attention", HYBRID, *STATE),
        "Transformer",
        ("training 0.60", "FLOPs, the budget is 2.00e+19"),
    ),
    "latency-critical": Case(
        {"context": "8k", "device": "H100", "decode": "1.5ms", "parameters": "7b"},
        ("attention", "window", *STATE),
        "MQA when latency is critical",
        ("decode within 1.50 ms is a hope", "the limit is 1.50 ms", "key/value heads: decode"),
    ),
    "retrieval over a long context": Case(
        {"task": "rag", "context": "128k", "device": "H100", "quality": "high"},
        ("attention", HYBRID),
        "Hybrid where retrieval matters",
        ("exact words of the context matter", "arXiv 2402.01032"),
    ),
    "an edge device of 8 GB": Case(
        {"context": "8k", "memory": "8GB", "device": "T4"},
        ("attention", "window", *STATE),
        "Transformer",
        ("int4", "needs", "can be used"),
    ),
    "an endless stream": Case(
        {"task": "stream", "context": "1m", "device": "L4", "quality": "any", "batch": 16},
        STATE,
        "SSM or RWKV",
        ("4096 tokens of answer", "the matrix agrees"),
    ),
    "training from scratch": Case(
        {
            "context": "4k",
            "device": "H100",
            "training": "scratch",
            "training-budget": 1e21,
            "parameters": "1b-4b",
        },
        ("attention", "window", *STATE),
        "Transformer",
        ("Chinchilla, arXiv 2203.15556", "no trained weights are known: a shape"),
    ),
    "several GPUs": Case(
        {"context": "32k", "device": "H100", "tp": 2, "batch": 8, "quality": "high"},
        ("attention", HYBRID),
        "GQA from 7B",
        ("on 2 × H100", "key/value heads"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_documented_case_is_answered_with_its_reasons(name: str) -> None:
    case = CASES[name]
    decision = decide(**case.needs)
    text = shown(decision)
    assert family(decision) in case.families
    assert rule(decision, case.applies).applies
    assert text.startswith(f"Take {decision.take}")
    assert "≥ a bound: no engine is faster" in text
    for words in case.says:
        assert words in text, words


@pytest.mark.parametrize("name", CASES)
def test_the_documented_table_says_what_the_code_says(name: str) -> None:
    rows = [line.split("|") for line in DOCS.read_text(encoding="utf-8").splitlines()]
    row = next(cells for cells in rows if len(cells) > 4 and cells[1].strip() == name)
    decision = decide(**CASES[name].needs)
    assert str(decision.take) in row[3]
    words = row[2].strip().strip("`").split()
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options == {f"--{key}": str(value) for key, value in _typed(CASES[name].needs).items()}


def _typed(needs: dict[str, Any]) -> dict[str, str]:
    return {
        key: f"{value:.0e}".replace("+", "") if isinstance(value, float) else str(value)
        for key, value in needs.items()
    }


ENCODER_CASES = {
    "little data": ({"task": "classification", "examples": 40}, "a small head", "SetFit"),
    "enough data": ({"task": "classification", "examples": 5000}, "fine-tune an encoder", "BERT"),
    "long texts": (
        {"task": "classification", "examples": 5000, "context": "4k"},
        "fine-tune an encoder",
        "ModernBERT",
    ),
    "similarity in many languages": (
        {"task": "similarity", "languages": "many"},
        "a sentence encoder",
        "XLM-R",
    ),
    "reranking in a hurry": (
        {"task": "reranking", "prefill": "50ms"},
        "a cross-encoder",
        "arXiv 1901.04085",
    ),
}


@pytest.mark.parametrize("name", ENCODER_CASES)
def test_encoder_tasks_get_the_tree_and_no_figures_of_quality(name: str) -> None:
    needs, approach, source = ENCODER_CASES[name]
    decision = decide(**needs, device="T4")
    text = shown(decision)
    assert decision.take is None and decision.encoder is not None
    assert approach in decision.encoder.approach
    assert source in text and "What this cannot know" in text
    assert not decision.ranking and "accuracy of" not in text


def test_classification_without_data_wants_an_llm_and_ranks_those() -> None:
    decision = decide(task="classification", examples=0, device="H100")
    assert decision.encoder is not None and "LLM" in decision.encoder.approach
    assert decision.take is not None and decision.ranking


def test_impossible_needs_name_the_nearest_that_would_do() -> None:
    impossible = {"context": "32k", "memory": "20GB", "device": "H100", "quality": "high"}
    decision = decide(("llama-3.1-8b",), **impossible, batch=8)
    assert decision.take is None
    assert [one.need for one in decision.excluded] == ["memory"]
    texts = " / ".join(one.text for one in decision.suggestions)
    for lever in ("of context instead of 32K", "batch of", "GB a device"):
        assert lever in texts
    assert "devices" in texts
    steps = [one.steps for one in decision.suggestions]
    assert steps == sorted(steps)
    assert shown(decision).startswith("Nothing meets these needs; nearest: ")


def test_every_suggestion_really_suffices() -> None:
    needs = {"context": "64k", "memory": "16GB", "device": "L4", "decode": "20ms", "batch": 4}
    decision = decide(("llama-2-7b", "llama-3.1-8b"), **needs)
    assert decision.take is None and decision.suggestions
    for suggestion in decision.suggestions:
        changed = decide(("llama-2-7b", "llama-3.1-8b"), **{**needs, **suggestion.changes})
        assert changed.take is not None, suggestion.text


def test_learned_positions_are_an_end_and_a_split_must_divide() -> None:
    decision = decide(("gpt2-xl", "llama-3.1-8b"), context="2k", device="H100", quality="any")
    assert decision.take == "llama-3.1-8b"
    assert decision.excluded[0].reason.startswith("its learned positions end at 1K")
    decision = decide(("llama-3.1-8b",), context="2k", device="H100", tp=3)
    assert decision.take is None and decision.excluded[0].need == "tp"
