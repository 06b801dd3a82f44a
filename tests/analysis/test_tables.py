"""Tables, SQL and exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from ctxsweep.analysis.export import EXPORTS
from ctxsweep.analysis.metrics import METRICS, measure
from ctxsweep.analysis.tables import cells_frame, memory_frame, query, samples_frame
from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.records import Record, Status
from ctxsweep.store import RunFolder

Maker = Callable[..., Record]
LineMaker = Callable[..., list[Record]]


@pytest.fixture
def records(make_line: LineMaker, make_record: Maker) -> list[Record]:
    return [*make_line("mha", 8192), make_record("mha", 16384, status=Status.OOM, detail="full")]


def test_cells(records: list[Record]) -> None:
    frame = cells_frame("r1", records)
    assert frame.height == 5
    assert frame["status"].to_list() == ["ok"] * 4 + ["oom"]
    assert frame["itl_s"].null_count() == 1
    assert frame["itl_s"][0] == pytest.approx(measure(records[0])["itl_s"].value)
    assert {f"{m}{end}" for m in METRICS for end in ("", "_low", "_high")} <= set(frame.columns)


def test_samples_and_memory(records: list[Record]) -> None:
    samples, memory = samples_frame("r1", records), memory_frame("r1", records)
    assert samples.height == sum(len(r.samples) for r in records)
    assert samples["contended"].sum() == 0
    assert memory.height == sum(len(r.memory) for r in records)
    assert memory["cache_used_bytes"].max() == 1024 * (8192 + 16)


def test_empty_tables_keep_their_columns() -> None:
    assert cells_frame("r1", []).columns == cells_frame("r1", []).schema.names()
    assert samples_frame("r1", []).height == 0
    assert memory_frame("r1", []).width > 10


@pytest.fixture
def runs(tmp_path: Path, records: list[Record]) -> list[Path]:
    """Two runs on disk."""
    paths = []
    for _ in range(2):
        with RunFolder.create(tmp_path, "synthetic", {"name": "synthetic"}, 0, ()) as folder:
            for record in records:
                folder.append(record)
        paths.append(folder.path)
    return paths


def test_sql_over_runs(runs: list[Path]) -> None:
    frame = query(
        runs,
        "select series, context_tokens, count(*) as n, avg(itl_s) as itl_s from cells "
        "where status = 'ok' group by series, context_tokens order by context_tokens",
    )
    assert frame["context_tokens"].to_list() == [1024, 2048, 4096, 8192]
    assert frame["n"].to_list() == [2] * 4
    joined = query(
        runs,
        "select max(m.cache_used_bytes) as top from memory m join cells c "
        "on m.key = c.key and m.run_id = c.run_id where c.status = 'ok'",
    )
    assert joined["top"].to_list() == [1024 * (8192 + 16)]
    assert query(runs, "SELECT count(*) AS n FROM Samples")["n"][0] > 0


@pytest.mark.parametrize(
    "sql", ["selec nothing", "select * from cell", "select foo from cells", ""]
)
def test_a_wrong_statement_names_the_tables(runs: list[Path], sql: str) -> None:
    with pytest.raises(ValueError, match="tables cells, samples, memory"):
        query(runs, sql)


def test_csv_and_parquet_come_back(tmp_path: Path, records: list[Record]) -> None:
    frame = cells_frame("r1", records)
    EXPORTS["parquet"]("r1", records, tmp_path / "r.parquet")
    assert pl.read_parquet(tmp_path / "r.parquet").equals(frame)
    EXPORTS["csv"]("r1", records, tmp_path / "r.csv")
    back = pl.read_csv(tmp_path / "r.csv", schema=frame.schema)
    columns = ["series", "context_tokens", "status", "itl_s", "prefill_s", "cache_used_bytes"]
    assert back.select(columns).equals(frame.select(columns))


def test_markdown_is_for_people(tmp_path: Path, records: list[Record]) -> None:
    EXPORTS["md"]("r1", records, tmp_path / "r.md")
    lines = (tmp_path / "r.md").read_text().splitlines()
    assert lines[0] == "# r1"
    assert len({line.count("|") for line in lines[2:]}) == 1
    assert "| mha | 1K | 1 | ok | 20.0 ms |" in lines[4]
    assert "| mha | 16K | 1 | oom | – |" in lines[-1]


def test_hud_rows(tmp_path: Path, records: list[Record]) -> None:
    EXPORTS["hud"]("r1", records, tmp_path / "r.json")
    rows = json.loads((tmp_path / "r.json").read_text())
    assert len(rows) == sum(len(measure(r)) for r in records if r.status is Status.OK)
    row = next(r for r in rows if r["metric"]["name"] == "cache_used_bytes")
    assert row["metric"]["benchmark_values"] == [1024.0 * 1024]
    assert row["benchmark"]["extra_info"]["context_tokens"] == 1024
    assert row["model"]["name"] == "mha"


def test_otava_grows_by_a_row_a_run(tmp_path: Path, records: list[Record]) -> None:
    path = tmp_path / "otava.csv"
    EXPORTS["otava"]("r1", records, path)
    EXPORTS["otava"]("r2", records[:2], path)
    EXPORTS["otava"]("r2", records, path)
    frame = pl.read_csv(path)
    assert frame["run_id"].to_list() == ["r1", "r2"]
    assert frame.columns[:3] == ["time", "run_id", "commit"]
    assert frame["mha.b1.8192.cache_used_bytes"].to_list() == [1024.0 * 8192] * 2
    assert not [c for c in frame.columns if "16384" in c]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2.1e-3, "s", "2.10 ms"),
        (0.31e-6, "s", "310 ns"),
        (12.0, "s", "12.0 s"),
        (0.0, "s", "0 s"),
        (131072.0, "bytes", "128 KiB"),
        (7.0, "bytes", "7 bytes"),
        (0.031, "", "0.031"),
    ],
)
def test_quantities(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(("tokens", "text"), [(1024, "1K"), (131072, "128K"), (1000, "1000")])
def test_contexts(tokens: int, text: str) -> None:
    assert context_label(tokens) == text
