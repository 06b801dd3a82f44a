"""Cells that ask for quality, in real children: losses against transformers, tasks, passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctxsweep.execute.executors import LocalExecutor
from ctxsweep.execute.sweep import run_sweep
from ctxsweep.expansion import expand
from ctxsweep.records import Record, Status
from ctxsweep.scenario import Scenario
from ctxsweep.store import RunFolder

transformers = pytest.importorskip("transformers", reason="needs transformers")

TRAINED, TARGETS = 64, 32
SENTENCES = "The wind went over the hill, and the gate stood open. Nobody had come by. "


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of transformers that reads bytes, with random weights."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=TRAINED,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    text = json.dumps({"ctxsweep_tokenizer": "bytes"})
    (folder / "tokenizer_config.json").write_text(text)
    return str(folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "hill.txt"
    path.write_text("".join(f"{i}. {SENTENCES}" for i in range(40)))
    return path


def asked(model: str, text: Path, **changes: Any) -> Scenario:
    body: dict[str, Any] = {
        "name": "quality",
        "contexts": [64, 256],
        "generate_tokens": 4,
        "threads": 1,
        "series": [
            {"name": "none", "model": model, "prefill_chunk": 48},
            {
                "name": "dynamic",
                "model": model,
                "prefill_chunk": 48,
                "rope": {"rope_type": "dynamic", "factor": "auto"},
            },
            {
                "name": "yarn",
                "model": model,
                "prefill_chunk": 48,
                "rope": {"rope_type": "yarn", "factor": "auto"},
            },
        ],
        "procedure": {"kind": "independent", "repeats": 1, "warmup_tokens": 8},
        "quality": {
            "text": str(text),
            "reference": {"series": "none", "context": 64},
            "target_tokens": TARGETS,
            "stretches": 2,
            "block_tokens": 8,
            "short_context": 32,
            "tasks": {"passkey": {"contexts": [256], "depths": [0.2, 0.8], "trials": 1}},
        },
    }
    return Scenario.model_validate_json(json.dumps(body | changes))


def run(scenario: Scenario, root: Path) -> dict[tuple[str, int], Record]:
    cells = expand(scenario)
    folder = RunFolder.create(
        root, scenario.name, scenario.model_dump(mode="json"), 0, tuple(c.key for c in cells)
    )
    with folder:
        executor = LocalExecutor(folder.log_path)
        outcome = run_sweep(scenario, cells, folder, executor, measure_ceilings=False)
        assert outcome.exit_code == 0
        records = list(folder.records())
    return {(r.cell.series.name, r.cell.context_tokens): r for r in records}


@pytest.fixture(scope="module")
def records(
    model: str, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int], Record]:
    return run(asked(model, text), tmp_path_factory.mktemp("runs"))


def theirs(model: str, tokens: np.ndarray, words: dict[str, Any] | None) -> np.ndarray:
    """Losses of every next token, from one call of transformers without a cache."""
    config = transformers.AutoConfig.from_pretrained(model)
    if words:
        config.rope_parameters = {"rope_theta": 10000.0, **words}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        model, config=config, dtype=torch.float32
    )
    with torch.inference_mode():
        logits = loaded(torch.from_numpy(tokens[None, :-1]), use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(tokens[1:]), reduction="none"
    ).numpy()


WORDS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED},
}


@pytest.mark.parametrize("name", WORDS)
def test_losses_are_those_of_transformers_on_the_same_text(
    name: str, model: str, text: Path, records: dict[tuple[str, int], Record]
) -> None:
    """Also of the short pass: YaRN keeps the factor for 256 tokens there, dynamic NTK does not."""
    quality = records[name, 256].quality
    assert quality is not None
    ids = np.frombuffer(text.read_bytes(), dtype=np.uint8).astype(np.int64)
    assert [(p.stretch, p.context_tokens) for p in quality.passes] == [
        (0, 256),
        (0, 32),
        (1, 256),
        (1, 32),
    ]
    for one in quality.passes:
        end = 257 + one.stretch * TARGETS
        tokens = ids[end - one.context_tokens - 1 : end]
        wanted = theirs(model, tokens, WORDS[name])
        blocks = wanted.reshape(-1, 8).mean(axis=1)
        assert np.abs(np.array(one.losses) - blocks).max() <= 2e-4


def test_the_reference_is_read_over_all_of_the_longest_context(
    records: dict[tuple[str, int], Record],
) -> None:
    passes = records["none", 64].quality.passes  # type: ignore[union-attr]
    offsets = [p.end_offset for p in passes if p.stretch == 0 and p.context_tokens == 64]
    assert offsets == list(range(0, 256 - 64 + 1, 32))
    others = [r for key, r in records.items() if key != ("none", 64)]
    assert all(p.end_offset == 0 for r in others for p in r.quality.passes)  # type: ignore[union-attr]


def test_time_and_memory_are_measured_as_ever(records: dict[tuple[str, int], Record]) -> None:
    for (_, context), record in records.items():
        assert record.status is Status.OK and record.engine["procedure"] == "scored"
        prefill = [s for s in record.samples if s.phase == "prefill"]
        assert sum(s.tokens for s in prefill) == context
        assert len([s for s in record.samples if s.phase == "decode"]) == 4
        assert record.memory[0].cache_used_bytes


def test_what_was_applied_is_stored(records: dict[tuple[str, int], Record]) -> None:
    quality = records["dynamic", 256].quality
    assert quality is not None and quality.rope is not None
    assert (quality.rope["factor"], quality.rope["fixed_at_tokens"]) == (4.0, 256)
    assert quality.trained_tokens == TRAINED and quality.tokenizer == "bytes"
    yarn = records["yarn", 64].quality
    assert yarn is not None and yarn.rope is not None and yarn.rope["factor"] == 1.0


def test_tasks_are_asked_where_the_scenario_says(records: dict[tuple[str, int], Record]) -> None:
    for (_, context), record in records.items():
        assert record.quality is not None
        depths = [trial.depth for trial in record.quality.trials]
        assert depths == ([0.2, 0.8] if context == 256 else [])
        assert all(t.log_probability < 0 for t in record.quality.trials)


def test_the_same_scenario_gives_the_same_losses(
    model: str, text: Path, tmp_path: Path, records: dict[tuple[str, int], Record]
) -> None:
    again = run(asked(model, text), tmp_path)
    for key, record in again.items():
        assert record.quality == records[key].quality


def test_an_engine_without_scores_is_a_stored_result(
    model: str, text: Path, tmp_path: Path
) -> None:
    series = [{"name": "none", "model": model, "backend": "transformers", "prefill_chunk": 48}]
    scenario = asked(model, text, series=series)
    cells = expand(scenario)
    with RunFolder.create(tmp_path, "q", scenario.model_dump(mode="json"), 0, ()) as folder:
        executor = LocalExecutor(folder.log_path)
        run_sweep(scenario, cells, folder, executor, measure_ceilings=False)
        found = list(folder.records())
    assert {r.status for r in found} == {Status.UNSUPPORTED}
    assert "does not show what it thinks" in found[0].detail
