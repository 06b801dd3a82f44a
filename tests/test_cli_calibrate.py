"""``ctxsweep calibrate`` on a real run, and what reports say after it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ctxsweep.analysis.predicted import Predictions
from ctxsweep.cli.calibrate import register
from ctxsweep.cli.predicted import predictions_of, results_of
from ctxsweep.cli.sweep import write_report
from ctxsweep.planning.calibration.calibration import Calibration
from ctxsweep.planning.calibration.file import load
from ctxsweep.store import RunFolder

BASELINES = Path(__file__).parents[1] / "results" / "baselines"
MACHINE = "2-core-amd-epyc"
LONG = BASELINES / MACHINE / "long_ctx"
SHORT = BASELINES / MACHINE / "side_by_side_1_thread"


def calibrate(*arguments: str | Path) -> Result:
    """Run the command in this process; an exception that is no exit is an error of ours."""
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    words = ["calibrate", *(str(one) for one in arguments)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


@pytest.fixture
def results(tmp_path: Path) -> Path:
    shutil.copytree(SHORT, tmp_path / "results" / "long_ctx" / "20260101T000000Z-000001")
    return tmp_path / "results"


def test_it_says_its_errors_and_writes_the_file(tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    done = calibrate(LONG, "--out", out)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("decode: median error ")
    assert "on 80 cells it had not seen" in lines[0]
    assert max(map(len, lines[:-1])) <= 80
    made = load(out)
    assert made.machine == MACHINE
    assert len(made.groups) == 9


def test_json_is_the_calibration(tmp_path: Path) -> None:
    done = calibrate(SHORT, "--json", "--holdout", "none", "--out", tmp_path / "c.yaml")
    made = Calibration.model_validate(json.loads(done.output))
    assert made.held_out == {}
    assert {group.path.backend for group in made.groups} == {
        "native",
        "vllm",
        "transformers",
        "llama_cpp",
    }


def test_without_a_run_it_takes_the_latest_and_reports_then_use_it(results: Path) -> None:
    (run,) = (results / "long_ctx").iterdir()
    assert predictions_of(RunFolder.open(run), results).calibration is None
    done = calibrate("--results", results)
    assert done.exit_code == 0, done.output
    assert (results / "calibration" / f"{MACHINE}.yaml").is_file()
    after = predictions_of(RunFolder.open(run), results)
    assert after.calibration is not None and after.fitted_to_this_run
    assert {cell.basis for cell in after.of("itl_s")} == {"calibration"}


def test_without_any_run_it_names_the_command(tmp_path: Path) -> None:
    done = calibrate("--results", tmp_path)
    assert done.exit_code == 2
    assert done.output.count("\n") == 1
    assert "make one: ctxsweep run long_ctx" in done.output


def test_runs_of_different_threads_are_not_mixed(tmp_path: Path) -> None:
    other = BASELINES / MACHINE / "side_by_side_2_threads"
    done = calibrate(SHORT, other, "--out", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert "cpu with 1 threads, cpu with 2 threads" in done.output
    assert not (tmp_path / "c.yaml").exists()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    done = calibrate(SHORT, "--out", tmp_path)
    assert done.exit_code == 2
    assert "is a folder; name a file" in done.output


def test_runs_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    run = Path(shutil.copytree(SHORT, tmp_path / "run"))
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    manifest["environment"]["physical_cores"] = 64
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = calibrate(SHORT, run, "--out", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert "a calibration is of one machine" in done.output


def test_a_damaged_calibration_does_not_take_the_report_away(results: Path) -> None:
    (run,) = (results / "long_ctx").iterdir()
    file = results / "calibration" / f"{MACHINE}.yaml"
    file.parent.mkdir()
    file.write_text("[", encoding="utf-8")
    write_report(run, quiet=True)
    text = (run / "predictions.json").read_text(encoding="utf-8")
    found = Predictions.model_validate_json(text)
    assert found.calibration is None
    assert "not YAML" in found.why_bounds
    assert {cell.basis for cell in found.of("itl_s")} == {"bound"}
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "not YAML" in page


@pytest.mark.parametrize(
    ("run", "root"),
    [("r/smoke/20260101", "r"), ("r/baselines/box/smoke", "r"), ("r/baselines/box/smoke/x", "r")],
)
def test_a_calibration_is_looked_for_where_the_run_lies(
    run: str, root: str, tmp_path: Path
) -> None:
    assert results_of(tmp_path / run) == tmp_path / root
