"""The history's table: what goes in comes out, and nothing that cannot be read is written over."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_history import figure, history, stamp
from polars.testing import assert_frame_equal
from synthetic_records import build_record

from ctxsweep.analysis.history import (
    HISTORY_VERSION,
    SCHEMA,
    VERSION_KEY,
    append,
    frame_of,
    lines,
    place,
    read,
)
from ctxsweep.analysis.history_rows import rows_of
from ctxsweep.analysis.summarise import summarise
from ctxsweep.store import StoreError

VERSION_1 = Path(__file__).parent / "histories" / "version-1.parquet"
FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
numbers = st.floats(allow_nan=False, width=64)
figures = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["cell", "curve", "bench"]),
        "series": st.text(max_size=8),
        "subject": st.text(max_size=8),
        "metric": st.text(max_size=8),
        "unit": st.sampled_from(["s", "bytes", ""]),
        "value": numbers,
        "low": st.none() | numbers,
        "high": st.none() | numbers,
        "n": st.integers(0, 2**40),
    }
)


def named(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in ("kind", "series", "subject", "metric"))


@FEW
@given(st.lists(st.lists(figures, min_size=1, max_size=4, unique_by=named), min_size=1, max_size=4))
def test_what_goes_in_comes_out(tmp_path: Path, nights: list[list[dict[str, Any]]]) -> None:
    path = tmp_path / "history.parquet"
    path.unlink(missing_ok=True)
    frames = [frame_of(stamp(night), rows) for night, rows in enumerate(nights)]
    for frame in reversed(frames):  # added late, sorted all the same
        append(path, frame)
    assert_frame_equal(read(path), pl.concat(frames))


def test_a_run_that_is_there_is_replaced(tmp_path: Path) -> None:
    path = place(tmp_path, "2-core-amd-epyc", "nightly")
    append(path, history(3, [figure(), figure(metric="prefill_s")]))
    append(path, frame_of(stamp(1), [figure(value=9.0)]))
    held = read(path)
    assert held["run_id"].to_list() == ["run-000", "run-000", "run-001", "run-002", "run-002"]
    assert held.filter(run_id="run-001")["value"].to_list() == [9.0]


def test_version_1_is_still_read() -> None:
    frame = read(VERSION_1)
    assert frame.schema == pl.Schema(SCHEMA)
    assert frame.height == 4
    assert frame["value"].to_list() == [0.002, 8388608.0, 0.0021, 8388608.0]
    assert frame["time"][0] == datetime(2025, 3, 1, 2, tzinfo=UTC)


def damaged(kind: str) -> bytes:
    whole = VERSION_1.read_bytes()
    return {
        "empty": b"",
        "garbage": b"not a table\n" * 40,
        "cut": whole[: len(whole) // 2],
        "no end": whole[:-8],
        "middle": whole[:40] + b"\xff" * 400 + whole[440:],
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "garbage", "cut", "no end", "middle"])
def test_a_damaged_file_is_named_and_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "nightly.parquet"
    path.write_bytes(damaged(kind))
    for attempt in (lambda: read(path), lambda: append(path, history(1, [figure()]))):
        with pytest.raises(StoreError, match=r"nightly\.parquet: not a Parquet file, or damaged"):
            attempt()
    assert path.read_bytes() == damaged(kind)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["nightly.parquet", "nightly.parquet.lock"]


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("0", f"a history of version 0; this ctxsweep reads version {HISTORY_VERSION}"),
        ("99", "a history of version 99; this"),
        (None, "not a history of ctxsweep; this"),
    ],
)
def test_another_version_is_named_and_stays(tmp_path: Path, version: str | None, told: str) -> None:
    path = tmp_path / "nightly.parquet"
    metadata = None if version is None else {VERSION_KEY: version}
    history(2, [figure()]).write_parquet(path, metadata=metadata)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"nightly.parquet: {told}"):
        append(path, history(1, [figure()]))
    assert path.read_bytes() == before


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "nightly.parquet"
    kept = {VERSION_KEY: str(HISTORY_VERSION)}
    history(2, [figure()]).drop("low").write_parquet(path, metadata=kept)
    with pytest.raises(StoreError, match="its columns differ: low"):
        read(path)
    with pytest.raises(StoreError, match="not the columns of a history"):
        append(tmp_path / "new.parquet", pl.DataFrame({"value": [1.0]}))
    assert not (tmp_path / "new.parquet").exists()


def test_no_history_says_what_begins_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no history yet; it begins with ctxsweep history add"):
        read(tmp_path / "nightly.parquet")


def test_lines_are_the_last_nights_in_order_of_time() -> None:
    frame = history(5, [figure(), figure(metric="cache_used_bytes", unit="bytes")])
    odd = frame_of(stamp(5), [figure(value=float("nan"))])
    found = lines(pl.concat([odd, frame.reverse()]), nights=4)
    assert [(line.metric, line.run_ids) for line in sorted(found, key=lambda x: x.metric)] == [
        ("cache_used_bytes", ("run-002", "run-003", "run-004")),
        ("itl_s", ("run-002", "run-003", "run-004")),
    ]
    assert {line.metric: line.exact for line in found} == {"cache_used_bytes": True, "itl_s": False}


def test_the_rows_of_a_run() -> None:
    laws = {"mha": (0.002, 1e-7), "gqa": (0.003, 5e-8)}
    records = [
        build_record(name, context, step_s=lambda n, a=a, b=b: a + b * n, noise=0.005)
        for name, (a, b) in laws.items()
        for context in (1024, 4096, 16384, 65536)
    ]
    summary = summarise(
        scenario="nightly",
        question="",
        run_id="a-run",
        started_at="2025-03-01T02:00:00Z",
        records=records,
        elapsed_s=1.0,
    )
    frame = rows_of(summary)
    assert set(frame["run_id"]) == {"a-run"} and set(frame["machine"]) == {"unknown"}
    assert frame["time"][0] == datetime(2025, 3, 1, 2, tzinfo=UTC)
    [step] = frame.filter(subject="mha at 4K", metric="itl_s").to_dicts()
    assert step["kind"] == "cell" and step["unit"] == "s" and step["n"] == 32
    assert step["low"] < step["value"] < step["high"]
    assert step["value"] == pytest.approx(0.002 + 4096e-7, rel=0.02)
    [slope] = frame.filter(subject="mha as a + b·n", metric="itl_s.slope").to_dicts()
    assert slope["kind"] == "curve" and slope["unit"] == "s/token"
    assert slope["value"] == pytest.approx(1e-7, rel=0.05)
    [bytes_slope] = frame.filter(
        subject="gqa as a + b·n", metric="cache_used_bytes.slope"
    ).to_dicts()
    assert bytes_slope["value"] == pytest.approx(1024) and bytes_slope["low"] is None
    [cross] = frame.filter(metric="itl_s.crossover").to_dicts()
    assert {cross["series"], *cross["subject"].split(" and ")} == {"mha", "gqa"}
    assert cross["unit"] == "tokens" and cross["value"] == pytest.approx(20_000, rel=0.1)


def test_a_run_without_a_time_is_refused() -> None:
    empty = summarise(
        scenario="nightly", question="", run_id="a-run", started_at="", records=[], elapsed_s=0.0
    )
    with pytest.raises(StoreError, match="run a-run: started_at is no time"):
        rows_of(empty)
