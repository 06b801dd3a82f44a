"""``ctxsweep advise`` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ctxsweep.cli import advise
from ctxsweep.planning.advice.decision import from_record

BASELINE = str(Path(__file__).parents[1] / "results/baselines/2-core-amd-epyc/long_ctx")
SMALL = ("--models", "mamba-2.8b,llama-3.1-8b,falcon-7b", "--device", "H100")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def call(*arguments: str) -> Result:
    app = typer.Typer()
    advise.register(app)
    app.callback()(lambda: None)
    return CliRunner().invoke(app, ["advise", *arguments])


def test_the_answer_comes_first_and_fits_80_columns() -> None:
    result = call(*SMALL, "--context", "16k", "--quality", "any")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Take ")
    assert "Evidence: times are bounds, the least" in result.stdout
    assert max(map(len, lines)) <= 80
    order = [
        result.stdout.index(word)
        for word in ("Needs:", "qua spd mem eco trn", "Rules,", "Weights:")
    ]
    assert order == sorted(order)


def test_a_run_makes_its_series_the_candidates_and_its_times_the_evidence() -> None:
    result = call("--run", BASELINE, "--context", "128k", "--quality", "any", "--json")
    assert result.exit_code == 0, result.output
    decision = json.loads(result.stdout)
    assert len(decision["ranking"]) == 10
    assert {row["figures"]["decode_s"]["basis"] for row in decision["ranking"]} == {"measured"}
    assert decision["asked_runs"] == [BASELINE]


def test_series_of_a_run_can_be_named() -> None:
    result = call("--run", BASELINE, "--models", "gqa,mamba2", "--context", "64k", "--json")
    names = {row["name"] for row in json.loads(result.stdout)["ranking"]}
    assert names == {"gqa", "mamba2"}


def test_a_file_of_needs_and_options_that_win(tmp_path: Path) -> None:
    file = tmp_path / "needs.yaml"
    file.write_text("task: rag\ncontext: 16k\ndevice: H100\nweight-dtype: int8\nmodels: gemma-7b\n")
    result = call("--needs", str(file), "--context", "8k", "--json")
    assert result.exit_code == 0, result.output
    needs = json.loads(result.stdout)["needs"]
    assert (needs["task"], needs["context"], needs["weight_dtype"]) == ("rag", 8192, "int8")


def test_record_then_diff(tmp_path: Path) -> None:
    record = tmp_path / "docs" / "decision.md"
    first = call(*SMALL, "--context", "8k", "--quality", "any", "--record", str(record))
    assert first.exit_code == 0, first.output
    decision = from_record(record)
    assert "--context 8k" in decision.command and decision.needs.context == 8192
    again = call(*SMALL, "--record", str(record))
    assert again.exit_code == 2 and "--force" in again.stderr
    same = call("--diff", str(record))
    assert same.exit_code == 0, same.output
    assert same.stdout.startswith(f"Still {decision.take}")
    assert "Nothing else changed" in same.stdout
    other = call("--diff", str(record), "--context", "64k", "--weights", "quality=0.9")
    assert "context: 8192 → 65536" in other.stdout
    assert "quality: 0.30 → 0.90" in other.stdout
    assert from_record(record) == decision


def test_nothing_meets_the_needs_exits_1_with_the_nearest() -> None:
    result = call(*SMALL, "--context", "128k", "--memory", "4GB")
    assert result.exit_code == 1
    assert "Nothing meets these needs; nearest:" in result.stdout
    assert "What would do, nearest first" in result.stdout


def test_hours_of_a_device_are_a_budget() -> None:
    arguments = ("--training", "scratch", "--training-budget", "10h", "--context", "4k", "--json")
    result = call(*SMALL, *arguments)
    budget = json.loads(result.stdout)["needs"]["training_budget"]
    assert budget == pytest.approx(10 * 3600 * 989.4e12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "H1000"), "did you mean 'H100'"),
        (("--models", "lama-3-8b", "--device", "H100"), "did you mean"),
        (("--context", "much"), "context: 'much' is not a context length"),
        (("--task", "chatt"), "did you mean 'chat'"),
        (("--needs", "none.yaml"), "none.yaml: no such file"),
        (("--diff", "none.md"), "none.md: no such file"),
        (("--run", "none"), "'none' is neither a run's folder"),
        (("--weights", "charm=1"), "there are: quality"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments: tuple[str, ...], words: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_encoder_tasks_get_the_tree() -> None:
    result = call("--task", "classification", "--examples", "2000", "--device", "T4")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Take fine-tune an encoder")
    assert "bert-base" in result.stdout


def test_a_run_of_another_device_is_said_not_to_count() -> None:
    result = call("--run", BASELINE, "--context", "4k", "--device", "T4", "--json")
    decision = json.loads(result.stdout)
    assert {row["figures"]["decode_s"]["basis"] for row in decision["ranking"]} == {"bound"}
    assert any("its times do not count for T4" in line for line in decision["assumptions"])


def test_the_record_is_there_although_nobody_reads_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("ctxsweep.cli.advising.print_decision", stop)
    call(*SMALL, "--context", "16k", "--quality", "any", "--record", str(tmp_path / "d.md"))
    assert "## Ranking" in (tmp_path / "d.md").read_text(encoding="utf-8")
