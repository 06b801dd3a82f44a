"""Adding runs to a history and showing its trend, on files as a sweep leaves them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from ctxsweep.analysis.history import append, place, read
from ctxsweep.cli.errors import BadInput
from ctxsweep.cli.history import add_to_history, show_trend
from ctxsweep.store import StoreError

ROOT = Path(__file__).resolve().parents[1]
BASELINE = ROOT / "results" / "baselines" / "2-core-amd-epyc" / "side_by_side_1_thread"
sys.path.insert(0, str(ROOT / "tests" / "analysis"))

from made_up_history import figure, history  # noqa: E402


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASELINE, tmp_path / "run"))


def test_a_run_begins_a_history_and_is_in_it_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = tmp_path / "bench.json"
    stats = {"median": 1e-3, "iqr": 1e-5, "rounds": 20}
    bench.write_text(
        json.dumps({"benchmarks": [{"name": "test_op", "fullname": "test_op", "stats": stats}]})
    )
    for file in (None, bench, bench):
        path = add_to_history(run, tmp_path / "results", file)
    manifest = json.loads((run / "manifest.json").read_text())
    scenario = manifest["scenario_name"]
    assert path == place(tmp_path / "results", "2-core-amd-epyc", scenario)
    frame = read(path)
    assert frame["run_id"].unique().to_list() == [manifest["run_id"]]
    assert frame["commit"].unique().to_list() == [manifest["environment"]["commit"]]
    assert frame.group_by("kind").len().sort("kind").rows()[0] == ("bench", 1)
    subjects = frame.filter(metric="itl_s")["subject"].to_list()
    assert "native at 8K" in subjects and len(subjects) == len(set(subjects))
    page = show_trend(scenario, tmp_path / "results")
    assert page == path.parent / scenario / "trend.html"
    said = capsys.readouterr().out
    assert said.startswith("The first night. ") and str(page) in said


def test_a_nights_own_benchmarks_stay_with_it(run: Path, tmp_path: Path) -> None:
    """However it is added, and once more by hand."""
    bench = run / "bench.json"
    stats = {"median": 1e-3, "iqr": 1e-5, "rounds": 20}
    bench.write_text(
        json.dumps({"benchmarks": [{"name": "test_op", "fullname": "test_op", "stats": stats}]})
    )
    for file in (bench, None):
        path = add_to_history(run, tmp_path / "results", file)
        assert read(path).filter(kind="bench")["subject"].to_list() == ["test_op"]
    other = tmp_path / "other.json"
    other.write_text(
        json.dumps(
            {"benchmarks": [{"name": "test_other", "fullname": "test_other", "stats": stats}]}
        )
    )
    path = add_to_history(run, tmp_path / "results", other)
    assert read(path).filter(kind="bench")["subject"].to_list() == ["test_other"]


def test_a_run_that_was_cut_off_is_refused(run: Path, tmp_path: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"finished_at": None}))
    with pytest.raises(BadInput, match="not finished"):
        add_to_history(run, tmp_path / "results", None)


def test_a_run_without_figures_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "records.jsonl").write_text("")
    with pytest.raises(BadInput, match="no cell of this run has figures"):
        add_to_history(run, tmp_path / "results", None)
    assert not (tmp_path / "results").exists()


def test_a_wrong_bench_file_adds_nothing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"absent\.json: no such file"):
        add_to_history(run, tmp_path / "results", tmp_path / "absent.json")
    assert not (tmp_path / "results").exists()


def test_the_history_that_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="no history yet; it begins with"):
        show_trend(None, tmp_path)
    for age, name in enumerate(("smoke", "nightly")):
        path = place(tmp_path, "a-machine", name)
        append(path, history(8, [figure()]))
        os.utime(path, (1e9 - age, 1e9 - age))
    assert show_trend(None, tmp_path).parent.name == "smoke"
    assert show_trend("nightly", tmp_path).parent.name == "nightly"
    assert "None of 1 metrics" not in capsys.readouterr().out
    with pytest.raises(BadInput, match="no history of other; there are: nightly, smoke"):
        show_trend("other", tmp_path)
