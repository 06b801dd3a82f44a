"""A run's folder survives what a machine can do to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxsweep.records import Cell, Record, Sample, Series, Status
from ctxsweep.store import (
    RunFolder,
    ScenarioChanged,
    StoreError,
    difference,
    run_folders,
    write_atomic,
)

SCENARIO = {
    "name": "s",
    "contexts": [1024, 2048],
    "series": [{"name": "gqa", "dtype": "float32"}, {"name": "mamba", "dtype": "float32"}],
    "budgets": {"cell_s": 10.0},
}


def record(context: int) -> Record:
    cell = Cell(
        scenario="s",
        series=Series(name="a", model="m", options={"none": None}),
        context_tokens=context,
        generate_tokens=4,
        procedure="ladder",
    )
    sample = Sample(phase="prefill", position=0, tokens=context, wall_s=0.1 / 3, cpu_s=0.1)
    return Record(cell=cell, status=Status.OK, samples=(sample,) * 3)


def new_run(root: Path) -> RunFolder:
    return RunFolder.create(root, "s", SCENARIO, seed=1, order=("a", "b"))


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    written = [record(n) for n in (1024, 2048)]
    with new_run(tmp_path) as run:
        for item in written:
            run.append(item)
    read = RunFolder.open(run.path)
    assert list(read.records()) == written
    assert read.finished_keys() == {item.cell.key for item in written}
    assert read.manifest.order == ("a", "b")
    assert read.manifest.finished_at is None


def test_finish_is_stamped_and_runs_sort_by_time(tmp_path: Path) -> None:
    with new_run(tmp_path) as first, new_run(tmp_path) as second:
        first.finish()
    assert RunFolder.open(first.path).manifest.finished_at
    assert set(run_folders(tmp_path, "s")) == {first.path, second.path}
    assert first.path.name[:16] <= second.path.name[:16]
    assert not list(first.path.glob("*.tmp")) and not list(first.path.glob(".*.tmp"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(min_value=1, max_value=10_000), count=st.integers(1, 3))
def test_a_torn_last_line_is_cut_and_nothing_else(tmp_path: Path, cut: int, count: int) -> None:
    items = [record(1024 * (n + 1)) for n in range(count)]
    with new_run(tmp_path) as run:
        for item in items:
            run.append(item)
    file = run.path / "records.jsonl"
    whole = file.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    file.write_bytes(whole[: len(whole) - min(cut, len(last))])
    assert list(RunFolder.open(run.path).records()) == items[:-1]
    with RunFolder.resume(run.path, SCENARIO, seed=1) as again:
        assert file.read_bytes() == whole[: len(whole) - len(last)]
        again.append(items[-1])
    assert file.read_bytes() == whole


def test_blocks_of_zeros_after_a_power_cut_are_cut(tmp_path: Path) -> None:
    with new_run(tmp_path) as run:
        run.append(record(1024))
    file = run.path / "records.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b"\0" * 512)
    RunFolder.resume(run.path, SCENARIO, seed=1).close()
    assert file.read_bytes() == whole


def test_damage_in_the_middle_is_told_with_its_line(tmp_path: Path) -> None:
    with new_run(tmp_path) as run:
        run.append(record(1024))
    file = run.path / "records.jsonl"
    file.write_bytes(b'{"cell": 1}\n' + file.read_bytes())
    with pytest.raises(StoreError, match=r"records\.jsonl, line 1: not a record"):
        list(RunFolder.open(run.path).records())


def test_a_changed_scenario_is_refused_key_by_key(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.close()
    changed = json.loads(json.dumps(SCENARIO))
    changed["series"][1]["dtype"] = "bfloat16"
    del changed["budgets"]["cell_s"]
    with pytest.raises(ScenarioChanged) as caught:
        RunFolder.resume(run.path, changed, seed=2)
    assert caught.value.difference == (
        'series[mamba].dtype: "float32" → "bfloat16"',
        "budgets.cell_s: 10.0 → (absent)",
        "seed: 1 → 2",
        "budgets: (absent) → {}",
    )
    assert "without --resume" in str(caught.value)


def test_two_writers_are_refused_two_readers_are_not(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with pytest.raises(StoreError, match="is being written by process"):
        RunFolder.resume(run.path, SCENARIO, seed=1)
    reader = RunFolder.open(run.path)
    with pytest.raises(StoreError, match="opened for reading"):
        reader.append(record(1024))
    run.close()
    RunFolder.resume(run.path, SCENARIO, seed=1).close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no manifest"),
        ("{", "not a manifest"),
        ("[]", "not a manifest"),
        ("ÿ", "not a manifest"),
        ('{"schema_version": 99}', "schema_version is 99"),
        ('{"schema_version": 1}', "not a manifest"),
    ],
)
def test_a_folder_that_is_no_run_says_so(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match=message):
        RunFolder.open(tmp_path)


def test_an_atomic_write_that_fails_leaves_the_old_text(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    write_atomic(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(file, "new \ud800")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), JSON))
def test_nothing_differs_from_itself(value: dict[str, object]) -> None:
    assert difference(value, json.loads(json.dumps(value))) == ()


def test_a_key_that_an_older_version_did_not_know_is_no_difference_while_it_is_null() -> None:
    assert difference({"a": 1}, {"a": 1, "frontier": None}) == ()
    assert difference({"a": 1}, {"a": 1, "frontier": {"up": 2}}) == ("frontier.up: (absent) → 2",)
    assert difference({"a": 1, "b": 3}, {"a": 1}) == ("b: 3 → (absent)",)
