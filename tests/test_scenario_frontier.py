"""The section ``frontier`` of a scenario file: what it means, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep.records import Cell, Series
from ctxsweep.scenario import Scenario, ScenarioError, load_scenario
from ctxsweep.scenario_units import parse_contexts

ROOT = Path(__file__).parents[1]
HEAD = "contexts: 1k\nseries: {a: {model: tiny-gqa}}\nbudgets: {memory_bytes: 4GiB}\n"


def load(folder: Path, section: str) -> Scenario:
    path = folder / "demo.yaml"
    path.write_text(f"{HEAD}frontier: {section}\n")
    return load_scenario(path)


def test_units_of_tokens_memory_and_time(tmp_path: Path) -> None:
    plan = load(
        tmp_path,
        "{context: {up_to: 256k, step: 2k}, batch: {up_to: 64, at: [8k, 16k]}, "
        "within: {memory: 2GiB, decode: 20ms, prefill: 2min}}",
    )
    found = plan.frontier
    assert found is not None and found.context is not None and found.batch is not None
    assert (found.context.up_to, found.context.step) == (262144, 2048)
    assert (found.batch.up_to, found.batch.at) == (64, (8192, 16384))
    within = found.within
    assert (within.memory, within.decode, within.prefill) == (2 << 30, pytest.approx(0.02), 120.0)
    again = Scenario.model_validate_json(json.dumps(plan.model_dump(mode="json")))
    assert again == plan


def test_the_step_is_1k_unless_the_file_says(tmp_path: Path) -> None:
    plan = load(tmp_path, "{context: {up_to: 8k}, within: {decode: 1}}")
    assert plan.frontier is not None and plan.frontier.context is not None
    assert plan.frontier.context.step == 1024 and plan.frontier.within.decode == 1.0


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{within: {decode: 20ms}}", "frontier: seeks nothing; write context: {up_to: 256k"),
        ("{context: {up_to: 8k}}", "frontier.within: is missing"),
        ("{context: {up_to: 8k}, within: {}}", "frontier.within: names no limit; write memory:"),
        (
            "{context: {up_to: 1k, step: 2k}, within: {decode: 1s}}",
            "frontier.context: step = 2048 exceeds up_to = 1024; nearest valid: 1024",
        ),
        (
            "{context: {up_to: 5000, step: 2k}, within: {decode: 1s}}",
            "frontier.context: up_to = 5000 is not a whole number of steps of 2048; "
            "nearest valid: 4096",
        ),
        (
            "{context: {up_to: -4, step: 2}, within: {decode: 1s}}",
            "frontier.context.up_to: '-4' is not a context length",
        ),
        (
            "{context: {up_to: 8k, step: 0}, within: {decode: 1s}}",
            "frontier.context.step: a context has at least 1 token; nearest valid: 1",
        ),
        (
            "{context: {upto: 8k}, within: {decode: 1s}}",
            "frontier.context.upto: unknown key; did you mean 'up_to'?",
        ),
        ("{batch: {up_to: 0, at: 8k}, within: {decode: 1s}}", "must be at least 1, not 0"),
        ("{batch: {up_to: 8}, within: {decode: 1s}}", "frontier.batch.at: is missing"),
        (
            "{context: {up_to: 8k}, within: {decode: soon}}",
            "frontier.within.decode: 'soon' is not a time; write 20ms, 1.5s or 2min",
        ),
        (
            "{context: {up_to: 8k}, within: {decode: -1}}",
            "frontier.within.decode: must be greater than 0, not -1",
        ),
        (
            "{context: {up_to: 8k}, within: {latency: 1s}}",
            "frontier.within.latency: unknown key",
        ),
        (
            "{context: {up_to: 8k}, within: {decode: true}}",
            "frontier.within.decode: true is not a time; write 20ms, 1.5s or 2min",
        ),
        ("{context: {up_to: 8k}, within: {memory: true}}", "frontier.within.memory: "),
        ("{context: {up_to: true}, within: {decode: 1}}", "frontier.context.up_to: "),
        ("{batch: {up_to: true, at: 8k}, within: {decode: 1}}", "frontier.batch.up_to: "),
        (
            "{context: {up_to: 8k}, within: {prefill: 10min}}",
            "frontier.within.prefill = 600 s exceeds budgets.cell_s = 300 s, so no try could tell; "
            "nearest valid: 300s, or raise budgets.cell_s",
        ),
        (
            "{context: {up_to: 8k}, within: {decode: 1}, positions: {aa: 4}}",
            "frontier.positions: no series is named 'aa'; did you mean 'a'?",
        ),
        (
            "{context: {up_to: 8k}, within: {memory: 8GiB}}",
            "frontier.within.memory = 8589934592 exceeds budgets.memory_bytes = 4294967296",
        ),
    ],
)
def test_one_line_says_what_is_wrong_and_what_would_be_right(
    tmp_path: Path, section: str, said: str
) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path, section)
    message = str(caught.value)
    assert said in message and "demo.yaml:" in message
    assert "\n" not in message


KEYS = ("context", "batch", "within", "up_to", "step", "at", "memory", "decode", "prefill", "x")
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.sampled_from(["8k", "20ms", "2GiB", "1k-8k*2", "-1s", "9" * 40 + "s", ""]),
    st.text(max_size=5),
)
TREES = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(tree=TREES)
@settings(max_examples=300, deadline=None)
def test_any_section_is_valid_or_refused_in_one_line(
    tree: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_text(f"{HEAD}{yaml.safe_dump({'frontier': tree}, allow_unicode=True)}")
    try:
        plan = load_scenario(path)
    except ScenarioError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return
    if plan.frontier is not None and plan.frontier.context is not None:
        assert plan.frontier.context.up_to % plan.frontier.context.step == 0


def test_the_role_of_a_try_changes_no_other_key() -> None:
    """Runs on disk are resumed and compared by these."""
    one = Cell(
        scenario="s",
        series=Series(name="a", model="tiny-gqa"),
        context_tokens=1024,
        generate_tokens=8,
        procedure="ladder",
    )
    assert one.key == "41a7d4aac932ca85", "as before there was such a role"
    folder = ROOT / "results/baselines/2-core-amd-epyc/rope_smollm2"
    order = json.loads((folder / "manifest.json").read_text())["order"]
    lines = (folder / "records.jsonl").read_text().splitlines()
    assert {Cell.model_validate(json.loads(line)["cell"]).key for line in lines} == set(order)
    tried = Cell(**{**one.model_dump(), "role": "frontier"})
    assert tried.key != one.key


def test_the_scenario_that_ships_seeks_both_on_both_devices() -> None:
    for device in ("cpu", "cuda"):
        plan = load_scenario(ROOT / "scenarios/frontier.yaml", device)
        assert plan.frontier is not None
        assert plan.frontier.context is not None and plan.frontier.batch is not None
        assert plan.frontier.batch.at == parse_contexts(list(plan.frontier.batch.at))
