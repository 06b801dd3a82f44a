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
from ctxsweep.planning.advice.candidates import Candidate, catalogue, of_model
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


def decide(models: tuple[str, ...] = (), *, alike: bool = False, **fields: Any) -> Decision:
    """``alike``: as if one engine ran everything, which is quicker than to ask them."""
    needs = make_needs({**fields, **({"models": models} if models else {})})
    asked = (lambda candidate, tokens: ("native",)) if alike else engines
    grounds = Grounds(device=device(needs.device), engines=asked, engine_count=7)
    candidates = tuple(map(of_model, models)) if models else everything()
    return advise(candidates, needs, grounds, MADE)


def shown(decision: Decision) -> str:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    print_decision(decision, console, verbose=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    return " ".join(text.split())


def rule(decision: Decision, name: str) -> Any:
    return next(one for one in decision.rules if one.name.startswith(name))


@dataclass(frozen=True)
class Case:
    """Needs, what is taken, the rule that must apply, and what is said."""

    needs: dict[str, Any]
    take: str
    applies: str
    says: tuple[str, ...] = field(default_factory=tuple)


CASES = {
    "long context and little memory": Case(
        {
            "context": "128k",
            "memory": "8GB",
            "device": "RTX-4090",
            "quality": "any",
            "parameters": "7b",
        },
        "rwkv7-7.2b",
        "SSM or RWKV",
        ("a state of fixed size", "the matrix agrees", "holds", "can be used"),
    ),
    "maximal quality": Case(
        {"context": "8k", "device": "H100", "tp": 8, "quality": "high", "weights": "quality=0.8"},
        "llama-3-70b",
        "GQA from 7B",
        ("quality high allows none of stretching", "quality 0.80", "trained to"),
    ),
    "minimal training": Case(
        {
            "context": "8k",
            "device": "H100",
            "training": "finetune",
            "training-tokens": "100m",
            "training-budget": 5e18,
            "weights": "training=0.6",
            "quality": "high",
        },
        "gemma-2b",
        "Transformer",
        ("training 0.60", "FLOPs, the budget is 5.00e+18", "16 bytes a parameter"),
    ),
    "latency-critical": Case(
        {"context": "8k", "device": "H100", "decode": "1.5ms", "parameters": "7b"},
        "qwen2.5-7b",
        "MQA when latency is critical",
        ("decode within 1.50 ms is a hope", "the limit is 1.50 ms", "key/value heads: decode"),
    ),
    "retrieval over a long context": Case(
        {"task": "rag", "context": "128k", "device": "H100", "quality": "high"},
        "qwen2.5-7b-yarn",
        "Hybrid where retrieval matters",
        ("exact words of the context matter", "arXiv 2402.01032", "the matrix does not"),
    ),
    "an edge device of 8 GB": Case(
        {"context": "8k", "memory": "8GB", "device": "T4", "quality": "high"},
        "gemma-2b",
        "Transformer",
        ("float16", "It is the only one that meets the needs", "can be used"),
    ),
    "an endless stream": Case(
        {
            "task": "stream",
            "context": "1m",
            "device": "L4",
            "quality": "any",
            "batch": 16,
            "parameters": "7b",
        },
        "rwkv7-7.2b",
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
        "mamba-1.4b",
        "Transformer",
        ("Chinchilla, arXiv 2203.15556", "no trained weights are known: a shape", "LoRA"),
    ),
    "several GPUs": Case(
        {"context": "32k", "device": "H100", "tp": 2, "batch": 8, "quality": "high"},
        "qwen2.5-7b",
        "GQA from 7B",
        ("on 2 × H100", "key/value heads"),
    ),
}


@cache
def case(name: str) -> Decision:
    return decide(**CASES[name].needs)


@pytest.mark.parametrize("name", CASES)
def test_documented_case_is_answered_with_its_reasons(name: str) -> None:
    decision, expected = case(name), CASES[name]
    text = shown(decision)
    assert decision.take == expected.take
    assert rule(decision, expected.applies).applies
    assert text.startswith(f"Take {decision.take}")
    assert "≥ a bound: no engine is faster" in text
    for words in expected.says:
        assert words in text, words


ENCODERS = {
    "classification with little data": {"task": "classification", "examples": 40},
    "classification with enough data": {"task": "classification", "examples": 5000},
}
IMPOSSIBLE = {
    "models": "llama-3.1-8b",
    "device": "H100",
    "context": "32k",
    "batch": 8,
    "memory": "20GB",
    "quality": "high",
}


def rows() -> dict[str, list[str]]:
    """The documented cases: name to options, answer, reason."""
    lines = DOCS.read_text(encoding="utf-8").partition("## Twelve cases")[2].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {line[0]: line[1:] for line in cells if len(line) == 4 and line[1].startswith("`")}


def options(text: str) -> dict[str, Any]:
    words = text.strip("`").split()
    return {
        key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)
    }


def said(decision: Decision) -> str:
    """The answer as the table has it: model, precision, and how many are tied."""
    if decision.take is None:
        return decision.encoder.approach if decision.encoder else "nothing"
    row = next(row for row in decision.ranking if row.name == decision.take)
    tie = f"; a tie of {len(decision.tie)}" if decision.tie else ""
    return f"{decision.take}, {row.precision}{tie}"


def test_the_documented_table_has_the_twelve_cases() -> None:
    assert set(rows()) == {*CASES, *ENCODERS, "impossible"} and len(rows()) == 12


@pytest.mark.parametrize("name", [*CASES, *ENCODERS, "impossible"])
def test_the_documented_table_says_what_the_code_says(name: str) -> None:
    typed, answer, reason = rows()[name]
    given = options(typed)
    models = tuple(given.pop("models").split(",")) if "models" in given else ()
    decision = decide(models, **{"device": "T4", **given})
    assert answer == said(decision)
    assert reason
    if name in CASES:
        assert make_needs(given) == make_needs(CASES[name].needs)
    if name == "impossible":
        assert make_needs({"models": models, **given}) == make_needs(IMPOSSIBLE)


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
    decision = decide(alike=True, task="classification", examples=0, device="H100")
    assert decision.encoder is not None and "LLM" in decision.encoder.approach
    assert decision.take is not None and decision.ranking


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ({"examples": 0, "decode": "50ms"}, "without examples there is nothing to train"),
        ({"examples": 0, "prefill": "1ms"}, "the limit is 1.00 ms"),
        ({"examples": 0, "memory": "1GB"}, "no decoder of 1B or more meets the other needs"),
        ({"examples": 12, "labels": 4}, "without examples"),
        ({"examples": 12, "labels": 1}, "a handful of examples a label"),
        ({"examples": 5000, "labels": 100}, "a handful of examples a label"),
    ],
)
def test_a_label_is_asked_of_an_llm_only_where_it_answers_in_time(
    needs: dict[str, Any], words: str
) -> None:
    decision = decide(alike=True, task="classification", device="T4", **needs)
    assert decision.encoder is not None and words in decision.encoder.reason
    asked = "LLM" in decision.encoder.approach
    assert asked == words.startswith("without") == (decision.take is not None)


def test_an_llm_that_nothing_can_be_is_no_answer() -> None:
    decision = decide(alike=True, task="classification", device="T4", examples=0, decode="1us")
    assert decision.take is None and not decision.meets_needs
    assert case("maximal quality").meets_needs
    assert decide(alike=True, task="similarity", device="T4").meets_needs


def test_impossible_needs_name_the_nearest_that_would_do() -> None:
    impossible = {key: value for key, value in IMPOSSIBLE.items() if key != "models"}
    decision = decide(("llama-3.1-8b",), **impossible)
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
