"""Runs that earlier versions wrote are still read, summarised, shown and exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from ctxsweep.analysis.export import EXPORTS
from ctxsweep.analysis.summary import Summary
from ctxsweep.analysis.tables import query
from ctxsweep.cli.sweep import derive, write_report
from ctxsweep.records import Record, Status
from ctxsweep.store import RunFolder, StoreError

FIXTURES = Path(__file__).parent / "fixtures"
RUNS = sorted(path.parent for path in FIXTURES.glob("runs/*/manifest.json"))
SERIES, CONTEXTS = ["gqa", "sliding_window", "mamba2"], (256, 512, 1024, 2048)
# What the arithmetic of a cache says, and the run measured byte by byte: 2 layers of 2 KV heads of
# 32 in float32 grow without end, or to the window; a state does not.
CLASSES = {"gqa": "O(n)", "mamba2": "O(1)"}


@pytest.fixture(params=RUNS, ids=lambda path: path.name)
def run(request: pytest.FixtureRequest) -> RunFolder:
    return RunFolder.open(request.param)


@pytest.fixture
def summary(run: RunFolder) -> Summary:
    return derive(run)


def written(run: RunFolder) -> list[dict[str, object]]:
    """The records as they stand in the file."""
    text = (run.path / "records.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_there_is_an_old_run() -> None:
    assert [path.name for path in RUNS] == ["first_schema_1"]
    assert "quality" not in written(RunFolder.open(RUNS[0]))[0], "it was written anew"


def test_nothing_that_was_written_is_lost(run: RunFolder) -> None:
    records = list(run.records())
    assert len(records) == len(SERIES) * len(CONTEXTS)
    for record, old in zip(records, written(run), strict=True):
        assert _within(old, record.model_dump(mode="json"))


def test_the_summary_has_every_cell_and_verdict(summary: Summary) -> None:
    cells = {(cell.series, cell.context_tokens): cell for cell in summary.cells}
    assert set(cells) == {(series, context) for series in SERIES for context in CONTEXTS}
    assert all(cell.status is Status.OK for cell in cells.values())
    for cell in cells.values():
        assert {"itl_s", "prefill_s", "cache_used_bytes"} <= set(cell.metrics)
    found = {v.series: v.scaling for v in summary.verdicts if v.metric == "cache_used_bytes"}
    assert found | CLASSES == found


def test_its_times_are_those_of_its_samples(run: RunFolder, summary: Summary) -> None:
    for record in run.records():
        cell = next(cell for cell in summary.cells if cell.key == record.cell.key)
        steps = [s.wall_s / s.tokens for s in record.samples if s.phase == "decode"]
        assert min(steps) <= cell.metrics["itl_s"].value <= max(steps)


def test_the_page_is_written(run: RunFolder, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    write_report(copy, quiet=True)
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert all(series in page for series in SERIES)
    assert (copy / "plots").is_dir() and (copy / "summary.json").is_file()


@pytest.mark.parametrize("format_", EXPORTS)
def test_it_is_exported(run: RunFolder, format_: str, tmp_path: Path) -> None:
    records: list[Record] = list(run.records())
    out = tmp_path / f"cells.{format_}"
    EXPORTS[format_](run.manifest.run_id, records, out)
    if format_ == "parquet":
        assert set(pl.read_parquet(out)["series"]) == set(SERIES)
    else:
        assert "mamba2" in out.read_text(encoding="utf-8")


def test_it_is_asked_in_sql(run: RunFolder) -> None:
    frame = query([run.path], "SELECT series, count(*) AS n FROM cells GROUP BY series")
    assert dict(frame.iter_rows()) == dict.fromkeys(SERIES, len(CONTEXTS))


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_a_version_that_is_not_known_is_refused_by_name(
    run: RunFolder, version: object, tmp_path: Path
) -> None:
    manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"schema_version": version}))
    with pytest.raises(StoreError, match=r"manifest\.json: schema_version is .*reads 1"):
        RunFolder.open(tmp_path)


def test_the_old_benchmarks_hold_every_round() -> None:
    """As ``--benchmark-json`` writes them: times of one call in seconds, under ``stats.data``."""
    text = (FIXTURES / "benchmarks/four_ops.json").read_text(encoding="utf-8")
    benchmarks = json.loads(text)["benchmarks"]
    assert len(benchmarks) == 4
    for one in benchmarks:
        assert len(one["stats"]["data"]) == one["stats"]["rounds"] == 40
        assert min(one["stats"]["data"]) == one["stats"]["min"]


def _within(old: object, new: object) -> bool:
    """Whether everything in `old` is in `new`, which may have more keys."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and _within(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_within, old, new))
    return bool(old == new)
