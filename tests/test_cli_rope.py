"""``ctxsweep rope`` as a user types it, on the tiny trained model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from markupsafe import escape
from typer.testing import CliRunner, Result

from ctxsweep.cli import app

RUNNER = CliRunner()
NONE = ["rope_scaling", "--series", "none"]
PASSKEY = ["rope_scaling", "--set", "quality.tasks.passkey.trials=1"]
SHORTEST = [
    *("--set", "quality.reference.context=128"),
    *("--set", "quality.target_tokens=64"),
    *("--set", "quality.short_context=64"),
]
SHORT = ["rope_scaling", "--contexts", "256,512", "--set", "quality.stretches=2"]


def ctxsweep(*arguments: str) -> Result:
    return RUNNER.invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two series; the reference comes along though it was not asked for."""
    out = tmp_path_factory.mktemp("results")
    done = ctxsweep("rope", *SHORT, "--series", "yarn,linear", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "yarn" in done.output and "linear" in done.output
    return out


def the_run(results: Path) -> Path:
    (run,) = (results / "rope_scaling").iterdir()
    return run


def test_a_run_ends_in_advice_figures_and_a_page(results: Path) -> None:
    summary = json.loads((the_run(results) / "summary.json").read_text())
    quality = summary["quality"]
    found = {(c["series"], c["context_tokens"]) for c in quality["cells"]}
    assert found == {(s, n) for s in ("none", "linear", "yarn") for n in (256, 512)}
    assert [advice["context_tokens"] for advice in quality["advice"]] == [256, 512]
    assert (quality["reference_series"], quality["trained_tokens"]) == ("none", 256)
    page = (the_run(results) / "report.html").read_text()
    assert escape(quality["advice"][-1]["headline"]) in page
    assert (the_run(results) / "plots" / "quality.png").is_file()


def test_resuming_a_complete_run_measures_nothing(results: Path) -> None:
    before = (the_run(results) / "records.jsonl").read_bytes()
    again = ["--series", "yarn,linear", "--out", str(results), "--resume"]
    assert ctxsweep("rope", *SHORT, *again).exit_code == 0
    assert (the_run(results) / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("table", ["yarn-llama2-7b", "yarn-llama2-7b-128k"])
def test_a_published_table_is_drawn_beside_the_run(table: str, results: Path) -> None:
    done = ctxsweep("rope", "--replay", table, "--out", str(results))
    assert done.exit_code == 0, done.output
    assert "2309.00071" in done.output
    page = the_run(results) / f"replay-{table}.html"
    assert page.name in done.output and "rope_scaling" in page.read_text()


def test_a_published_table_alone_needs_no_run(tmp_path: Path) -> None:
    done = ctxsweep("rope", "--replay", "yarn-llama2-7b", "--out", str(tmp_path))
    assert done.exit_code == 0 and (tmp_path / "replay-yarn-llama2-7b.html").is_file()


def test_the_plan_of_stretched_series_is_shown() -> None:
    done = ctxsweep("rope", "rope_scaling", "--dry-run")
    assert done.exit_code == 0 and "ntk_by_parts" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smoke"], "no section quality"),
        (["rope_scaling", "--set", "quality.text=nope"], "neither a shipped text nor a file"),
        (["rope_scaling", "--set", "quality.text=."], "rope_scaling.yaml: quality.text"),
        (["rope_scaling", "--set", "quality.stretches=9999"], "are needed"),
        (["rope_scaling", "--set", "quality.reference.context=3k"], "nearest valid: 2048"),
        (["rope_scaling", "--set", "quality.reference.series=non"], "none"),
        (["rope_scaling", "--set", "quality.target_tokens=4096"], "nearest valid: 128"),
        (["rope_scaling", "--set", "quality.short_context=4k"], "exceeds all contexts"),
        (["rope_scaling", "--set", "quality.block_tokens=48"], "must be a multiple of"),
        (["rope_scaling", "--set", "quality.tasks.needle.trials=1"], "variable_tracking"),
        ([*PASSKEY, "--set", "quality.tasks.passkey.contexts=3k"], "none of them is measured"),
        ([*PASSKEY, "--set", "quality.tasks.passkey.series=[yarm]"], "did you mean 'yarn'"),
        ([*PASSKEY, "--contexts", "128,512", *SHORTEST], "without any text around them"),
        (["rope_scaling", "--set", "batch_sizes=2"], "one sequence at a time"),
        (["rope_scaling", "--set", "procedure.kind=ladder"], "independent"),
        ([*NONE, "--set", "series.none.model=tiny-gqa"], "has no tokenizer"),
        ([*NONE, "--set", "series.none.backend=transformers"], "what it thinks"),
        (["rope_scaling", "--set", "defaults.prefill_chunk=recurrent"], "chunk by chunk"),
        (["rope_scaling", "--set", "series.yarn.rope.rope_type=yarm"], "did you mean 'yarn'"),
        (["rope_scaling", "--set", "series.yarn.rope.beta=3"], "unknown key"),
        (["rope_scaling", "--set", "series.linear.rope.beta_fast=3"], "no such setting"),
        (["rope_scaling", "--set", "series.linear.rope.factor=.inf"], "factor"),
        (["rope_scaling", "--set", "quality.reference.context=512"], "beyond the 256 tokens"),
        (["rope_scaling", "--contexts", "128,256", *SHORTEST], "nothing is stretched"),
        (["--replay", "yarn-llama2-7b", "--contexts", "8k"], "--contexts cannot go with it"),
        (["--replay", "yarn-lama2-7b"], "did you mean 'yarn-llama2-7b'"),
    ],
)
def test_a_mistake_is_one_message(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = ctxsweep("rope", *arguments, "--out", str(tmp_path))
    assert done.exit_code == 2
    assert said in done.output and "Traceback" not in done.output
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_models_with_different_tokenizers_are_not_compared(smollm2: Path, tmp_path: Path) -> None:
    other = ["--set", f"series.other.model={smollm2}", "--out", str(tmp_path)]
    done = ctxsweep("rope", "rope_scaling", *other)
    assert done.exit_code == 2 and "reads other tokens than none" in done.output
