"""Predictions beside a real run: bounds without a calibration, forecasts with one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ctxsweep.analysis.ceilings import highest
from ctxsweep.analysis.predicted import PREDICTED, Predictions, errors, shares
from ctxsweep.planning.calibration.fit import calibrate
from ctxsweep.planning.calibration.observed import Run, config_of, deployment_of, observe
from ctxsweep.planning.calibration.overlay import overlay
from ctxsweep.records import Ceilings, Record, Series
from ctxsweep.store import RunFolder

BASELINES = Path(__file__).parents[2] / "results" / "baselines" / "2-core-amd-epyc"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(RunFolder.open(BASELINES / "side_by_side_2_threads").records())


@pytest.fixture(scope="module")
def run(records: list[Record]) -> Run:
    return observe("one", records)


def test_times_without_a_calibration_are_bounds(run: Run) -> None:
    found = overlay(run, why_bounds="there is none")
    assert found.calibration is None and found.why_bounds == "there is none"
    for metric in ("itl_s", "prefill_s"):
        cells = found.of(metric)
        assert len(cells) == 10 and {cell.basis for cell in cells} == {"bound"}
        reached = shares(cells)
        assert reached is not None
        assert 0 < reached[1] <= reached[0] <= reached[2] < 1
    assert {cell.basis for cell in found.of("held_bytes")} == {"formula"}
    native = errors(found.of("held_bytes", series="native"))
    assert native is not None and native.worst == 0
    assert not found.of("process_peak_bytes")
    assert not found.missing


def test_a_calibration_answers_for_the_code_that_it_knows(run: Run) -> None:
    native = replace(run, cells=tuple(c for c in run.cells if c.backend == "native"))
    calibration = calibrate([native], "box", "2026-01-01T00:00:00Z", None)
    found = overlay(run, calibration, file="box.yaml")
    assert {c.basis for c in found.of("itl_s", series="native")} == {"calibration"}
    assert {c.basis for c in found.of("itl_s", series="vllm")} == {"bound"}
    assert len(found.of("process_peak_bytes")) == 2
    assert found.fitted_to_this_run
    other = overlay(replace(run, run_id="two"), calibration, file="box.yaml")
    assert not other.fitted_to_this_run


def test_what_lies_beyond_the_calibration_is_marked(run: Run) -> None:
    native = replace(run, cells=tuple(c for c in run.cells if c.backend == "native"))
    calibration = calibrate([native], "box", "2026-01-01T00:00:00Z", None)
    assert not any(cell.beyond for cell in overlay(native, calibration).cells)
    larger = tuple(
        replace(cell, deployment=cell.deployment.model_copy(update={"batch_size": 16}))
        for cell in native.cells
    )
    found = overlay(replace(native, cells=larger), calibration)
    assert all("batch 16: 1 measured" in cell.beyond for cell in found.of("itl_s"))
    assert not any(cell.beyond for cell in found.of("held_bytes"))


def test_predictions_are_read_back(run: Run) -> None:
    found = overlay(run)
    assert Predictions.model_validate_json(found.model_dump_json()) == found
    assert {cell["metric"] for cell in json.loads(found.model_dump_json())["cells"]} <= {*PREDICTED}


def test_a_model_that_is_gone_is_said(records: list[Record]) -> None:
    def without(record: Record) -> Record:
        if record.cell.series.name != "vllm":
            return record
        series = record.cell.series.model_copy(update={"model": "/gone/model"})
        return record.model_copy(update={"cell": record.cell.model_copy(update={"series": series})})

    found = overlay(observe("one", map(without, records)))
    assert list(found.missing) == ["vllm"]
    assert "/gone/model" in found.missing["vllm"]
    assert found.of("itl_s", series="native") and not found.of("itl_s", series="vllm")


def test_a_run_without_ceilings_has_its_bytes_alone(records: list[Record]) -> None:
    bare = [record.model_copy(update={"ceilings": None}) for record in records]
    found = overlay(observe("one", bare))
    assert {cell.metric for cell in found.cells} == {"held_bytes"}
    assert set(found.missing.values()) == {"no ceilings were measured"}


def test_work_that_is_done_elsewhere_has_no_bound_of_this_machine(records: list[Record]) -> None:
    mixed = [
        r.model_copy(update={"ceilings": None}) if r.cell.series.name == "vllm" else r
        for r in records
    ]
    run = observe("one", mixed)
    found = overlay(run)
    assert found.of("itl_s", series="native") and not found.of("itl_s", series="vllm")
    assert found.missing == {
        "vllm": "another process does its work, at ceilings that are not known"
    }
    made = calibrate([run], "box", "2026-01-01T00:00:00Z", None)
    assert "vllm" not in {group.path.backend for group in made.groups}


def test_a_series_becomes_a_deployment() -> None:
    series = Series(name="s", model="tiny-gqa", window=100, sinks=4, prefill_chunk="whole")
    config = config_of(series)
    assert config.attention is not None and config.attention.span == 104
    assert deployment_of(series, 4096, 2).prefill_chunk == 8192
    recurrent = series.model_copy(update={"prefill_chunk": "recurrent"})
    assert deployment_of(recurrent, 4096, 2).prefill_chunk == 2
    assert deployment_of(series.model_copy(update={"prefill_chunk": 512}), 99, 1).storage.dtype == (
        "float32"
    )


def test_of_several_readings_the_highest_count() -> None:
    def ceilings(flops: float, read: float, threads: int = 2) -> Ceilings:
        rates = {"float32": flops}
        return Ceilings(
            device="cpu", threads=threads, matmul_flops_per_s=rates, read_bytes_per_s=read
        )

    found = highest([ceilings(1e11, 4e10), ceilings(2e11, 3e10)])
    assert found == ceilings(2e11, 4e10)
    assert highest([]) is None
    with pytest.raises(ValueError, match="cpu with 1 threads, cpu with 2 threads"):
        highest([ceilings(1e11, 4e10), ceilings(1e11, 4e10, threads=1)])
