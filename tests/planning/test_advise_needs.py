"""Needs: what can be written, what is refused and how, and that any valid ones get an answer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxsweep.planning.advice.advise import Made, advise
from ctxsweep.planning.advice.candidates import of_model
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.needs import CRITERIA, BadNeeds, make_needs, read_needs
from ctxsweep.planning.advice.tasks import TASKS
from ctxsweep.planning.devices import device
from ctxsweep.report.advise_markdown import record_text

MODELS = ("llama-3.1-8b", "gpt2", "falcon-7b", "mistral-7b", "mamba-2.8b", "jamba-v0.1")
CANDIDATES = tuple(map(of_model, MODELS))


def test_amounts_are_read_as_people_write_them() -> None:
    needs = make_needs(
        {
            "context": "128k",
            "memory": "24GB",
            "prefill": "5s",
            "decode": "50ms",
            "parameters": "1b-8b",
            "training": "finetune",
            "training-tokens": "10m",
            "models": "a, b",
            "weight-dtype": "bf16",
            "kv-dtype": "fp8",
            "weights": "quality=0.5,speed=0.3",
        }
    )
    assert (needs.context, needs.memory) == (131072, 24 * 10**9)
    assert (needs.prefill, needs.decode) == (5.0, 0.05)
    assert needs.parameters == (1e9, 8e9) and needs.training_tokens == 1e7
    assert needs.models == ("a", "b")
    assert (needs.weight_dtype, needs.kv_dtype) == ("bfloat16", "fp8_e4m3")
    assert make_needs({"parameters": "7b"}).parameters == (7e9 / 1.5, 7e9 * 1.5)
    assert make_needs({"parameters": "-8b"}).parameters == (0.0, 8e9)


def test_a_task_brings_its_assumptions_and_options_win() -> None:
    assert make_needs({"task": "rag"}).needs_retrieval
    assert not make_needs({"task": "rag", "retrieval": False}).needs_retrieval
    assert make_needs({"task": "summary", "generate": 10}).answer_tokens == 10
    assert make_needs({"task": "classification"}).context == 512
    agent = make_needs({"task": "agent", "context": "1k"})
    assert (agent.answer_tokens, agent.prompt_tokens) == (512, 512)
    assert make_needs({"task": "rag", "context": "8k"}).prompt_tokens == 8192 - 256
    assert make_needs({"context": 1}).prompt_tokens == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": "chatt"}, "did you mean 'chat'"),
        ({"contxt": "8k"}, "did you mean 'context'"),
        ({"context": "lots"}, "context: 'lots' is not a context length"),
        ({"decode": "soon"}, "decode: 'soon' is not a time; write 50ms"),
        ({"decode": "1 fortnight"}, "is not a time"),
        ({"decode": "0s"}, "decode: "),
        ({"memory": "24"}, "memory: '24' is not an amount of memory"),
        ({"parameters": "big"}, "parameters: 'big' is not a range"),
        ({"parameters": "8b-1b"}, "ends below its start"),
        ({"weights": "quality=much"}, "is not quality=0.5"),
        ({"weights": "quality=0"}, None),
        ({"weights": "quality=0,speed=0,memory=0,ecosystem=0,training=0"}, "their sum is 0"),
        ({"weights": "charm=1"}, "is no criterion; there are: quality"),
        ({"weights": "quality=-1"}, "weights.quality"),
        ({"weights": "quality=nan"}, "weights.quality"),
        ({"quality": "best"}, "quality: "),
        ({"models": ""}, "models: none is named"),
        ({"training-budget": 1e20}, "say training finetune or scratch"),
        ({"batch": 0}, "batch: "),
        ({"training": "finetune", "training-budget": 1e20}, "say --training-tokens"),
        ({"training": "finetune", "weight-dtype": "int8"}, "LoRA and QLoRA are not planned for"),
        ({"context": "1k", "generate": 1024}, "leave no prompt in a context of 1024"),
        ({"context": "1k", "generate": 1000000}, "leave no prompt"),
        ({"labels": 0}, "labels: "),
    ],
)
def test_bad_needs_are_refused_in_one_line(fields: dict[str, object], words: str | None) -> None:
    if words is None:  # the others keep their share
        assert make_needs(fields).criterion_weights["quality"] == 0
        return
    with pytest.raises(BadNeeds) as error:
        make_needs(fields)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "context: [\n", "", "\x00"])
def test_a_file_that_holds_no_needs_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "needs.yaml"
    path.write_text(text)
    with pytest.raises(BadNeeds, match=r"needs\.yaml"):
        read_needs(path)
    with pytest.raises(BadNeeds, match="no such file"):
        read_needs(tmp_path / "none.yaml")


NEEDS = st.fixed_dictionaries(
    {},
    optional={
        "task": st.sampled_from(sorted(TASKS)),
        "context": st.integers(1, 1 << 24),
        "batch": st.integers(1, 1 << 14),
        "generate": st.integers(1, 1 << 16),
        "memory": st.integers(1 << 20, 1 << 42),
        "tp": st.integers(1, 64),
        "prefill": st.floats(1e-6, 1e4),
        "decode": st.floats(1e-6, 10.0),
        "quality": st.sampled_from(["high", "medium", "any"]),
        "retrieval": st.booleans(),
        "weight-dtype": st.sampled_from(["float32", "bfloat16", "float16", "fp8", "int8", "int4"]),
        "kv-dtype": st.sampled_from(["auto", "fp8_e4m3", "int8", "float32"]),
        "parameters": st.sampled_from(["7b", "1b-4b", "-1b", "100b-"]),
        "examples": st.integers(0, 10**6),
        "weights": st.dictionaries(st.sampled_from(CRITERIA), st.floats(0.01, 100), min_size=1),
        "training": st.just("scratch"),
        "training-budget": st.floats(1e10, 1e30),
        "labels": st.integers(1, 1000),
    },
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(fields=NEEDS, name=st.sampled_from(["H100", "T4", "A100-80GB"]))
def test_any_valid_needs_get_an_answer_with_finite_figures(
    fields: dict[str, object], name: str
) -> None:
    if "training" not in fields:
        fields.pop("training-budget", None)
    try:
        needs = make_needs({**fields, "device": name})
    except BadNeeds as error:  # two that exclude each other
        assert "leave no prompt" in str(error) or "not trained in full" in str(error)
        return
    grounds = Grounds(device=device(name), engines=lambda c, n: ("native",))
    decision = advise(CANDIDATES, needs, grounds, Made("now", "0", None, "x"))
    assert math.isclose(sum(decision.weights.values()), 1.0)
    assert decision.take is None or decision.take in MODELS
    if decision.encoder is None or decision.ranking or decision.excluded:
        ranked = {row.name for row in decision.ranking}
        others = {one.name for one in decision.excluded}
        assert ranked | others == set(MODELS) and not ranked & others
    for row in decision.ranking:
        assert all(0 <= score <= 1 for score in row.scores.values())
        costs = row.figures.prefill_s, row.figures.decode_s, row.figures.memory_bytes, row.total
        assert all(math.isfinite(figure.value) and figure.value >= 0 for figure in costs)
    assert decision.sentence and record_text(decision)
