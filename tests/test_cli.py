"""The commands: what they print, what they leave behind, and how they exit."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import jsonschema
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner, Result

from ctxsweep.cli import app
from ctxsweep.cli.complete import scenario_files, scenarios
from ctxsweep.cli.listing import schema_text
from ctxsweep.measure import environment
from ctxsweep.scenario_schema import json_schema

ROOT = Path(__file__).parents[1]
NAMES = ["kv_cache", "long_ctx", "memory_growth", "sliding_window", "smoke"]
QUICK = [
    *("--contexts", "32,64"),
    *("--set", "generate_tokens=4"),
    *("--set", "procedure.min_samples=2"),
    *("--set", "procedure.warmup_tokens=8"),
    *("--set", "budgets.series_s=60"),
    *("--device", "cpu"),
]


def ctxsweep(*arguments: str | Path) -> Result:
    """Run a command in this process; an exception that is no exit is an error of ours."""
    wide = {"COLUMNS": "200"}
    result = CliRunner().invoke(app, [str(one) for one in arguments], env=wide)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one real sweep of two series and two short contexts."""
    out = tmp_path_factory.mktemp("results")
    done = ctxsweep("run", "smoke", *QUICK, "--series", "gqa,mamba2", "--out", out)
    assert done.exit_code == 0, done.output
    return out


def the_run(results: Path) -> Path:
    (run,) = (results / "smoke").iterdir()
    return run


def test_a_sweep_leaves_its_files(results: Path) -> None:
    run = the_run(results)
    files = {path.name for path in run.iterdir()}
    assert files >= {"manifest.json", "records.jsonl", "summary.json", "report.html", "log.txt"}
    summary = json.loads((run / "summary.json").read_text())
    points = {(cell["series"], cell["context_tokens"]) for cell in summary["cells"]}
    assert points == {(s, n) for s in ("gqa", "mamba2") for n in (32, 64)}
    assert {cell["status"] for cell in summary["cells"]} == {"ok"}


def test_resuming_a_finished_run_measures_nothing(results: Path) -> None:
    records, manifest = (the_run(results) / name for name in ("records.jsonl", "manifest.json"))
    before = records.read_bytes(), manifest.read_bytes()
    again = ("run", "smoke", *QUICK, "--out", results, "--resume", "--series")
    done = ctxsweep(*again, "gqa,mamba2")
    assert done.exit_code == 0
    assert "\n0 cells in " in done.stdout
    assert (records.read_bytes(), manifest.read_bytes()) == before
    changed = ctxsweep(*again, "gqa")
    assert changed.exit_code == 2
    assert "the scenario has changed" in changed.stderr
    assert "mamba2" in changed.stderr


def test_report_is_made_again(results: Path) -> None:
    run = the_run(results)
    summary = (run / "summary.json").read_text()
    (run / "report.html").unlink()
    assert ctxsweep("report", "--results", results).exit_code == 0
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "summary.json").read_text() == summary
    quiet = ctxsweep("report", run, "--quiet")
    assert quiet.stdout.strip() == str(run / "report.html")


def test_export_in_every_format(results: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(ctxsweep("export", "--results", results).stdout)))
    assert {(row["series"], row["context_tokens"]) for row in rows} >= {("gqa", "64")}
    table = tmp_path / "cells.parquet"
    parquet = ctxsweep("export", "smoke", "--results", results, "-f", "parquet", "-o", table)
    assert parquet.exit_code == 0
    assert len(pl.read_parquet(table)) == len(rows)
    assert json.loads(ctxsweep("export", "-f", "hud", "--results", results).stdout)
    assert "| gqa |" in ctxsweep("export", "-f", "md", "--results", results).stdout
    assert "run_id" in ctxsweep("export", "-f", "otava", "--results", results).stdout
    refused = ctxsweep("export", "-f", "parquet", "--results", results)
    assert (refused.exit_code, "--out" in refused.stderr) == (2, True)
    assert ctxsweep("export", "--results", results, "-o", tmp_path / "no" / "x").exit_code == 2


def test_an_export_does_not_write_over_another_kind_of_file(results: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("not a table")
    refused = ctxsweep("export", "-f", "otava", "--results", results, "-o", notes)
    assert (refused.exit_code, "name another file" in refused.stderr) == (2, True)
    assert notes.read_text() == "not a table"


def test_committed_runs_are_read_only_when_named(results: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "baselines" / "machine" / "smoke"
    shutil.copytree(the_run(results), baseline)
    untold = ctxsweep("report", "--results", tmp_path)
    assert (untold.exit_code, "no run lies under" in untold.stderr) == (2, True)
    named = ctxsweep("export", baseline, "--results", tmp_path, "-f", "md")
    assert (named.exit_code, "| gqa |" in named.stdout) == (0, True)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    refused = ctxsweep("run", "smoke", *QUICK, "--series", "gqa", "--out", file)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"ctxsweep: {file}")
    assert refused.stderr.count("\n") == 1


def test_a_question_is_printed_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "asked.yaml"
    path.write_text("question: '[b] or [/b]?'\ncontexts: 32\nseries: {a: {model: tiny-gqa}}\n")
    assert "[b] or [/b]?" in ctxsweep("run", path, "--dry-run", "--device", "cpu").stdout


def test_query(results: Path) -> None:
    asked = "select series, count(*) as n from cells where role = 'measure' group by series"
    said = ctxsweep("query", asked, "--results", results)
    assert said.exit_code == 0
    assert "mamba2" in said.stdout
    wrong = ctxsweep("query", "select nothing from cells", "--results", results)
    assert wrong.exit_code == 2
    assert "nothing" in wrong.stderr


def test_a_cell_without_memory_ends_the_run_with_1(tmp_path: Path) -> None:
    little = ["--set", "budgets.memory_bytes=1MiB", "--series", "gqa"]
    done = ctxsweep("run", "smoke", *QUICK, *little, "--out", tmp_path)
    assert done.exit_code == 1
    assert "oom" in done.stdout
    assert "2 of 2 cells have no figures" in done.stdout


def test_ctrl_c_ends_with_130_and_keeps_what_is_done(tmp_path: Path) -> None:
    slow = ["--set", "procedure.min_samples=100000", "--set", "generate_tokens=100000"]
    slow += ["--set", "procedure.max_cell_s=300"]
    command = [sys.executable, "-m", "ctxsweep.cli", "run", "smoke", *QUICK, *slow]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    for _ in range(600):
        if list(tmp_path.glob("smoke/*/records.jsonl")):
            break
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in said
    assert "Traceback" not in said
    (manifest,) = tmp_path.glob("smoke/*/manifest.json")
    stored = json.loads(manifest.read_text())
    assert stored["interrupted_at"] and stored["finished_at"] is None


def test_a_run_of_another_machine_is_not_resumed(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    (manifest,) = folder.glob("smoke/*/manifest.json")
    stored = json.loads(manifest.read_text())
    stored["environment"]["cpu_model"] = "Abacus"
    manifest.write_text(json.dumps(stored))
    again = ("--series", "gqa,mamba2", "--resume", "--out", folder)
    refused = ctxsweep("run", "smoke", *QUICK, *again)
    assert refused.exit_code == 2
    assert "cpu_model = Abacus" in refused.stderr


def test_dry_run_plans_every_series_and_measures_nothing(tmp_path: Path) -> None:
    plan = ctxsweep("run", "long_ctx", "--dry-run", "--device", "cpu", "--out", tmp_path)
    assert plan.exit_code == 0
    for name in yaml.safe_load((ROOT / "scenarios" / "long_ctx.yaml").read_text())["series"]:
        assert f" {name} " in plan.stdout
    assert "An estimate" in plan.stdout
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "detect_device", lambda: "cpu")
    refused = ctxsweep("run", "smoke", "--device", "cuda", "--out", tmp_path)
    assert refused.exit_code == 2
    assert "--device cpu" in refused.stderr
    plan = ctxsweep("run", "long_ctx", "--device", "cuda", "--dry-run")
    assert plan.exit_code == 0
    assert "llama-3.1-8b" in plan.stdout
    assert "no times" in plan.stdout


@pytest.mark.parametrize("name", NAMES)
def test_check_accepts_the_scenarios(name: str) -> None:
    assert ctxsweep("check", name).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "long_ctxx"], "did you mean 'long_ctx'?"),
        (["run", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["run", "smoke", "--contexts", "1k-2k"], "--contexts 1k-2k: contexts: "),
        (["run", "smoke", "--series", "gpa"], "did you mean 'gqa'?"),
        (["run", "smoke", "--set", "procedure.repeat=5"], "did you mean 'repeats'?"),
        (["run", "smoke", "--seed", "x"], "--seed"),
        (["run", "smoke", "--device", "tpu"], "--device"),
        (["check", "smoke", "--set", "series.mamba2.kv_dtype=int8"], "series.mamba2.kv_dtype: "),
        (["check", "smoke", "--set", "series.gqa.backend=nativ"], "native"),
        (["check", "smoke", "--set", "series.gqa.backend=os:path"], "is not an adapter"),
        (["report", "--results", "/nowhere"], "make one: ctxsweep run smoke"),
        (["report", "nothing", "--results", "/nowhere"], "neither a run's folder"),
    ],
)
def test_bad_input_ends_with_2(arguments: list[str], said: str) -> None:
    result = ctxsweep(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_lists() -> None:
    everything = ctxsweep("list").stdout
    for word in (*NAMES, "tiny-gqa", "llama-3.1-8b", "native", "runs"):
        assert word in everything
    assert "tiny-gqa" not in ctxsweep("list", "scenarios").stdout


def test_doctor() -> None:
    said = ctxsweep("doctor", "--device", "cpu")
    assert said.exit_code == 0
    for word in ("processor", "threads", "matmul float32", "read bandwidth", "engine native"):
        assert word in said.stdout


def test_doctor_misses_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    doctor = import_module("ctxsweep.cli.doctor")
    environment_here = environment.read_environment("cpu", 1)
    monkeypatch.setattr(doctor, "compiler", lambda: None)
    assert any("install gcc" in line for line in doctor._advice(environment_here))
    monkeypatch.setattr(doctor, "compiler", lambda: "/usr/bin/cc")
    assert not any("install gcc" in line for line in doctor._advice(environment_here))


def test_help_documents_the_exit_codes() -> None:
    for arguments in (["--help"], ["run", "--help"]):
        said = " ".join(ctxsweep(*arguments).stdout.split())
        assert "0 done, 1 finished with failed cells, 2 bad input, 3 regression" in said
        assert "130 interrupted" in said


def test_scenarios_are_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert set(NAMES) <= set(scenario_files())
    assert scenarios("long") == ["long_ctx"]
    (tmp_path / "scenarios").mkdir()
    nearer = tmp_path / "scenarios" / "smoke.yaml"
    nearer.write_text("contexts: 1k\nseries: {only: {model: tiny-gqa}}\n")
    assert scenario_files()["smoke"].resolve() == nearer
    assert "1 series, 1 cells" in ctxsweep("check", "smoke").stdout


def test_completion_of_the_shell() -> None:
    asks = {
        "_CTXSWEEP_COMPLETE": "complete_bash",
        "COMP_WORDS": "ctxsweep run lo",
        "COMP_CWORD": "2",
    }
    command = Path(sys.executable).with_name("ctxsweep")
    done = subprocess.run(
        [command], env={**os.environ, **asks}, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.split() == ["long_ctx"]


def test_the_schema_is_in_step() -> None:
    committed = (ROOT / "scenarios" / "schema.json").read_text()
    assert committed == schema_text(), "run: make schema"


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_describes_the_scenarios(name: str) -> None:
    path = ROOT / "scenarios" / f"{name}.yaml"
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(text))


def test_the_schema_refuses_what_loading_refuses() -> None:
    validator = jsonschema.Draft202012Validator(json_schema(["tiny-gqa"], ["native"]))
    for body in (
        {"contexts": "1k"},
        {"contexts": "1k", "series": {"a": {}}, "contxts": 1},
        {"contexts": "1k", "series": {"a": {"window": 0}}},
        {"contexts": "1k", "series": {"a": {"backend": "nativ"}}},
        {"contexts": "1k", "series": {"a b": {}}},
        {"contexts": "1k", "series": {"a": {}}, "cuda": {"procedure": {"repeat": 1}}},
    ):
        assert not validator.is_valid(body), body
    assert validator.is_valid({"series": {"a": None}, "cpu": {"procedure": {"sentinel": None}}})


def test_make_help_names_every_target() -> None:
    said = subprocess.run(["make", "help"], capture_output=True, text=True, check=True, cwd=ROOT)
    for target in ("setup", "sweep", "test", "bench", "report", "lint", "clean", "help"):
        assert f"make {target}" in said.stdout
