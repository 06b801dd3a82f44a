"""A build measured against itself: real children, and the command around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_driver import scenario_of

from ctxsweep.analysis.selftest_summary import SelfTest
from ctxsweep.cli import selftest as command
from ctxsweep.cli.errors import BadInput
from ctxsweep.cli.selftest import selftest
from ctxsweep.execute.build import Build, BuildUnavailable
from ctxsweep.execute.recheck import Round, Settings
from ctxsweep.execute.selftest import measure_rounds, small_table
from ctxsweep.expansion import expand
from ctxsweep.records import Cell, Record, Sample, Series, Status
from ctxsweep.scenario import Procedure
from ctxsweep.store import RunFolder


def test_tiny_cells_are_measured_in_turns(tmp_path: Path) -> None:
    plan = small_table("cpu").model_copy(
        update={
            "contexts": (64, 128),
            "generate_tokens": 8,
            "series": (Series(name="gqa", model="tiny-gqa", prefill_chunk=32),),
            "procedure": Procedure(repeats=1, max_cell_s=0.1, min_samples=8, warmup_tokens=8),
            "threads": 1,
        }
    )
    (one,) = measure_rounds(expand(plan), Settings.of(plan), 0.1, tmp_path / "log.txt")
    assert one.base is not None
    for records in (one.base, one.new):
        assert [r.status for r in records] == [Status.OK] * 2
        assert [r.cell.context_tokens for r in records] == [64, 128]
    commits = {r.environment.commit for r in (*one.base, *one.new) if r.environment}
    assert commits == {Build.here().commit}
    assert {r.started_at for r in one.base}.isdisjoint(r.started_at for r in one.new)


def test_rounds_end_before_the_time_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ten seconds a round: three fit into 35, a fourth would end too late."""
    now = [0.0]

    def rounds(*_: object) -> Iterator[Round]:
        for index in range(9):
            now[0] += 10.0
            yield Round(index=index, base=(), new=())

    monkeypatch.setattr("ctxsweep.execute.selftest.measure_again", rounds)
    monkeypatch.setattr("ctxsweep.execute.selftest.time.monotonic", lambda: now[0])
    plan = scenario_of({"one": {}})
    found = measure_rounds(expand(plan), Settings.of(plan), 35.0, tmp_path / "log.txt")
    assert [one.index for one in found] == [0, 1, 2]


def test_a_build_that_cannot_measure_says_so_at_once(tmp_path: Path) -> None:
    plan = scenario_of({"one": {"fault": ["raise", 500]}}, contexts=(1024,))
    with pytest.raises(BuildUnavailable, match="the engine is unwell"):
        next(measure_rounds(expand(plan), Settings.of(plan), 5.0, tmp_path / "log.txt"))


def test_the_small_table_has_samples_enough() -> None:
    for device in ("cpu", "cuda"):
        plan = small_table(device)  # type: ignore[arg-type]
        assert plan.device == device and plan.procedure.min_samples >= 30
        assert 4 <= len(expand(plan)) <= 8


def made_up(cells: Sequence[Cell], *_: object, count: int = 12) -> Iterator[Round]:
    """Rounds without children: 1% from process to process."""
    rng = np.random.default_rng(0)

    def record(cell: Cell) -> Record:
        times = 0.01 * np.exp(0.01 * rng.standard_normal() + 0.02 * rng.standard_normal(32))
        samples = [
            Sample(phase="decode", position=i, tokens=1, wall_s=s, cpu_s=s)
            for i, s in enumerate(times.tolist())
        ]
        return Record(cell=cell, status=Status.OK, samples=tuple(samples))

    for index in range(count):
        base, new = (tuple(record(cell) for cell in cells) for _ in range(2))
        yield Round(index=index, base=base, new=new)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measure_rounds", made_up)
    monkeypatch.setattr("ctxsweep.analysis.selftest_summary.resamplings", lambda rounds: 60)


@pytest.mark.usefixtures("quick")
def test_what_was_measured_is_kept_beside_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selftest(None, 1.0, "cpu", tmp_path)
    (path,) = (tmp_path / "selftest" / "selftest").iterdir()
    folder = RunFolder.open(path)
    records = list(folder.records())
    assert folder.manifest.finished_at is not None
    assert len({r.cell.key for r in records}) == len(records) == 12 * 2 * 4
    found = SelfTest.model_validate_json((path / "selftest.json").read_text())
    assert (found.rounds, found.scenario) == (12, "selftest")
    said = capsys.readouterr().out
    assert "this machine can tell" in said and "with recheck" in said
    assert not list(tmp_path.glob("*/*/manifest.json"))  # it is no run to report or compare


@pytest.mark.usefixtures("quick")
def test_a_scenario_of_ones_own(tmp_path: Path) -> None:
    selftest("smoke", 1.0, "cpu", tmp_path)
    (path,) = (tmp_path / "selftest" / "smoke").iterdir()
    assert (path / "selftest.json").is_file()


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_that_are_none(tmp_path: Path, minutes: float) -> None:
    with pytest.raises(BadInput, match="--minutes"):
        selftest(None, minutes, "cpu", tmp_path)
    assert not list(tmp_path.iterdir())


def test_scenarios_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no scenario is named 'smok'"):
        selftest("smok", 1.0, "cpu", tmp_path)
    with pytest.raises(BadInput, match="measures quality"):
        selftest("rope_scaling", 1.0, "cpu", tmp_path)


@pytest.mark.usefixtures("quick")
def test_rounds_that_are_too_long_or_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"one round takes \d+ s, and 6 are needed: give"):
        selftest(None, 1e-6, "cpu", tmp_path)

    def hurt(cells: Sequence[Cell], *_: object) -> Iterator[Round]:
        for one in made_up(cells):
            bad = tuple(r.model_copy(update={"status": Status.OOM}) for r in one.new)
            yield Round(index=one.index, base=bad, new=bad)

    monkeypatch.setattr(command, "measure_rounds", hurt)
    with pytest.raises(BadInput, match=r"no cell has figures in most rounds; log\.txt"):
        selftest(None, 1.0, "cpu", tmp_path)

    def unavailable(*_: Any) -> Iterator[Round]:
        raise BuildUnavailable("this build fails: no such model")
        yield

    monkeypatch.setattr(command, "measure_rounds", unavailable)
    with pytest.raises(BadInput, match="nothing to resample: this build fails"):
        selftest(None, 1.0, "cpu", tmp_path)
