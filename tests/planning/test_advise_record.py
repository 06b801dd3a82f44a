"""A record is read back as it was written, and two of them are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctxsweep.planning.advice.advise import Made, advise
from ctxsweep.planning.advice.candidates import of_model
from ctxsweep.planning.advice.decision import BadRecord, Decision, from_record
from ctxsweep.planning.advice.decision_diff import differences
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.needs import make_needs
from ctxsweep.planning.devices import device
from ctxsweep.report.advise_markdown import record_text

MODELS = ("llama-2-7b", "llama-3.1-8b", "falcon-7b", "rwkv7-7.2b", "gpt2")
NEEDS = {"context": "8k", "device": "H100", "quality": "any", "models": ",".join(MODELS)}


def decide(**fields: Any) -> Decision:
    needs = make_needs({**NEEDS, **fields})
    grounds = Grounds(device=device(needs.device), engines=lambda c, n: ("a", "b"))
    made = Made("2026-01-01T00:00:00Z", "0.1.0", "abc", "ctxsweep advise --context 8k", ("smoke",))
    return advise(tuple(map(of_model, MODELS)), needs, grounds, made)


def texts(old: Decision, new: Decision, kind: str) -> list[str]:
    return [change.text for change in differences(old, new) if change.kind == kind]


@pytest.mark.parametrize("fields", [{}, {"memory": "1GB"}, {"task": "classification"}])
def test_a_record_is_read_back_as_it_was(tmp_path: Path, fields: dict[str, Any]) -> None:
    decision = decide(**fields)
    path = tmp_path / "decision.md"
    path.write_text(record_text(decision), encoding="utf-8")
    assert from_record(path) == decision
    path.write_text(path.read_text().replace("\n", "\r\n"), encoding="utf-8", newline="")
    assert from_record(path) == decision
    assert differences(decision, from_record(path)) == ()


def test_a_record_says_all_that_a_reader_wants() -> None:
    decision = decide()
    text = record_text(decision)
    assert text.startswith(f"# Take {decision.take}")
    for words in (
        "## Ranking",
        "## Excluded",
        "its learned positions end at 1K",
        "## Rules",
        "## Sensitivity to the weights",
        "(sum 1.00)",
        "## What would change the decision",
        "ctxsweep advise --context 8k",
        "commit abc",
        "2026-01-01",
        "least time by memory bandwidth of H100",
    ):
        assert words in text
    for row in decision.ranking:
        assert f"**{row.name}**" in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in table[: len(decision.ranking)]}) == 1


def test_nothing_in_a_record_can_break_out_of_it(tmp_path: Path) -> None:
    odd = decide().model_copy(update={"because": "a | b <b> @me ```yaml\ndecision:\n```"})
    path = tmp_path / "decision.md"
    path.write_text(record_text(odd), encoding="utf-8")
    assert from_record(path) == odd


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# nothing", "no decision record"),
        ("```yaml\ndecision:\n  schema_version: 99\n```\n", "schema_version is 99"),
        ("```yaml\ndecision:\n  schema_version: 2\n```\n", "make the record again"),
        ("```yaml\ndecision:\n- [\n```\n", "damaged"),
        ("```yaml\ndecision:\n- 1\n```\n", "schema_version is None"),
    ],
)
def test_what_is_no_record_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "old.md"
    path.write_text(text)
    with pytest.raises(BadRecord) as error:
        from_record(path)
    assert words in str(error.value) and "old.md" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_same_decision_has_no_differences() -> None:
    assert differences(decide(), decide()) == ()


def test_differences_name_needs_weights_figures_and_ranking() -> None:
    old = decide()
    new = decide(context="64k", weights="memory=0.9")
    assert texts(old, new, "needs") == ["context: 8192 → 65536"]
    assert "memory: 0.20 → 0.90" in texts(old, new, "weights")
    assert any(text.startswith("llama-2-7b, memory: ") for text in texts(old, new, "figures"))
    places = {row.name: i for i, row in enumerate(old.ranking, start=1)}
    for text in texts(old, new, "ranking"):
        name, _, moved = text.partition(": ")
        assert moved.startswith(f"place {places[name]} →")


def test_one_that_no_longer_meets_the_needs_is_said_with_its_reason() -> None:
    old, new = decide(), decide(context="128k", memory="40GB")
    moved = " ".join(texts(old, new, "ranking"))
    assert "llama-2-7b" in moved and "not ranked (memory)" in moved
    assert texts(old, new, "device") == ["memory of H100: 74.5 GiB → 37.3 GiB"]


def test_another_machine_of_the_same_name_and_more_of_them_are_told() -> None:
    old = decide()
    line = old.device.model_copy(update={"source": "measured elsewhere", "count": 2})
    new = old.model_copy(update={"device": line})
    told = texts(old, new, "device")
    assert any("measured elsewhere" in text for text in told)
    assert "number of devices: 1 → 2" in told


def test_a_changed_answer_comes_first() -> None:
    old, new = decide(weights="memory=1"), decide(weights="quality=1")
    if old.take == new.take:
        pytest.fail("these weights should part them")
    assert differences(old, new)[0].text == f"{old.take} → {new.take}"


def test_evidence_that_changed_its_kind_is_told() -> None:
    old = decide()
    row = old.ranking[0]
    figure = row.figures.decode_s.model_copy(
        update={"basis": "measured", "value": 1.0, "low": 0.9, "high": 1.1}
    )
    figures = row.figures.model_copy(update={"decode_s": figure})
    new = old.model_copy(
        update={"ranking": (row.model_copy(update={"figures": figures}), *old.ranking[1:])}
    )
    assert texts(old, new, "evidence") == [f"{row.name}, decode: bound → measured"]
