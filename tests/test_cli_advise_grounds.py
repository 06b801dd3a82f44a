"""What ``ctxsweep advise`` rests on: runs of the same machine and threads, named ones first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ctxsweep.cli import advise_grounds
from ctxsweep.cli.advise_grounds import find_grounds
from ctxsweep.cli.calibrate import fitted, write
from ctxsweep.planning.advice.needs import make_needs
from ctxsweep.store import RunFolder

MACHINE = "2-core-amd-epyc"
BASELINES = Path(__file__).parents[1] / "results" / "baselines" / MACHINE
ONE, TWO = BASELINES / "side_by_side_1_thread", BASELINES / "side_by_side_2_threads"
ONE_ID, TWO_ID = (RunFolder.open(run).manifest.run_id for run in (ONE, TWO))
NEEDS = make_needs({"context": "8k", "device": "this", "quality": "any"})


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both runs as baselines of this machine, whichever it is."""
    environment = RunFolder.open(TWO).manifest.environment
    monkeypatch.setattr(advise_grounds, "read_environment", lambda device, threads: environment)
    for run in (ONE, TWO):
        shutil.copytree(run, tmp_path / "baselines" / MACHINE / run.name)
    return tmp_path


def test_runs_of_other_threads_are_of_another_device(results: Path) -> None:
    found = find_grounds(NEEDS, (), results).grounds
    assert [run.run_id for run in found.runs] == [TWO_ID]
    assert {run.run_id for run in found.here} == {ONE_ID, TWO_ID}
    named = find_grounds(NEEDS, [str(ONE)], results).grounds
    assert [run.run_id for run in named.runs] == [ONE_ID]
    assert "1 thread" in named.device.source
    both = find_grounds(NEEDS, [str(ONE), str(TWO)], results).grounds
    assert [run.run_id for run in both.runs] == [TWO_ID]
    assert any(ONE_ID in note and "its times do not count" in note for note in both.notes)


def test_a_named_run_counts_before_a_later_one(results: Path) -> None:
    later = results / TWO.name / "20990101T000000Z-000001"
    shutil.copytree(TWO, later)
    for name in ("manifest.json", "summary.json"):
        text = (later / name).read_text(encoding="utf-8")
        fields = json.loads(text) | {"run_id": later.name, "started_at": "2099-01-01T00:00:00Z"}
        (later / name).write_text(json.dumps(fields), encoding="utf-8")
    found = find_grounds(NEEDS, (), results).grounds
    assert found.runs[0].run_id == later.name
    named = find_grounds(NEEDS, [str(TWO)], results).grounds
    assert len(named.runs) == 2 and named.runs[1].run_id == later.name


def test_a_calibration_of_other_threads_is_left_out_and_said(results: Path) -> None:
    write(fitted([str(ONE)], results), None, results)
    found = find_grounds(NEEDS, (), results).grounds
    assert found.calibration is None
    assert any("is of cpu with 1 threads, this is cpu with 2" in note for note in found.notes)
    assert find_grounds(NEEDS, [str(ONE)], results).grounds.calibration is not None
    write(fitted([str(TWO)], results), None, results)
    assert find_grounds(NEEDS, (), results).grounds.calibration is not None
