"""One reader of pytest-benchmark's file: what it takes, by what name, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_history import stamp

from ctxsweep.analysis.bench_file import read_bench_file
from ctxsweep.analysis.compare_bench import read_benchmarks
from ctxsweep.analysis.history_rows import bench_rows
from ctxsweep.store import StoreError

REAL = Path(__file__).parents[1] / "fixtures/benchmarks/four_ops.json"
STATS = {"median": 2e-3, "iqr": 1e-4, "rounds": 100}
ONE = {"name": "test_a[4k]", "fullname": "tests/bench/bench_ops.py::test_a[4k]", "stats": STATS}


def written(folder: Path, *benchmarks: dict[str, Any], **others: Any) -> Path:
    path = folder / "bench.json"
    path.write_text(json.dumps({"benchmarks": benchmarks, **others}))
    return path


def test_both_users_see_the_same_benchmarks() -> None:
    file = read_bench_file(REAL)
    assert len(file.benchmarks) == 4
    compared = read_benchmarks(REAL).found.values()
    rows = bench_rows(REAL, stamp(0)).to_dicts()
    assert [one.identity for one in compared] == [one.identity for one in file.benchmarks]
    for one, row in zip(compared, rows, strict=True):
        assert row["series"] == one.module == "bench_ops"
        assert row["subject"] == f"{one.subject} ({one.conditions['implementation']})"


@pytest.mark.parametrize(
    ("name", "fullname", "identity"),
    [
        ("test_a", "tests/test_x.py::test_a", "test_x::test_a"),
        ("test_a", "tests\\test_x.py::test_a", "test_x::test_a"),
        ("test_a", "tests/test_x.py::TestB::test_a", "test_x::TestB::test_a"),
        ("test_a[b::c]", "test_x.py::test_a[b::c]", "test_x::test_a[b::c]"),
        ("given[p/q.py::r]", "test_x.py::T::test_a[p/q.py::r]", "test_x::T::given[p/q.py::r]"),
        ("test_a", "test_a", "test_a::test_a"),
    ],
)
def test_its_name_is_module_class_and_name(
    name: str, fullname: str, identity: str, tmp_path: Path
) -> None:
    path = written(tmp_path, {"name": name, "fullname": fullname, "stats": STATS})
    [one] = read_bench_file(path).benchmarks
    assert one.identity == identity


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    again = ONE | {"fullname": "elsewhere/bench_ops.py::test_a[4k]"}
    in_a_class = ONE | {"fullname": "tests/bench/bench_ops.py::TestB::test_a[4k]"}
    assert len(read_bench_file(written(tmp_path, ONE, in_a_class)).benchmarks) == 2
    with pytest.raises(StoreError, match=r"bench\.json: 2 benchmarks are called bench_ops::test_a"):
        read_bench_file(written(tmp_path, ONE, in_a_class, again))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("median", float("nan")),
        ("median", float("inf")),
        ("median", 0),
        ("median", -1e-3),
        ("median", "2"),
        ("iqr", -1e-3),
        ("iqr", float("nan")),
        ("iqr", None),
        ("rounds", 0),
        ("rounds", True),
        ("rounds", 2.5),
        ("data", [1e-3, float("nan")]),
        ("data", [1e-3, 0.0]),
        ("data", 1e-3),
    ],
)
def test_what_is_no_time_is_refused_with_its_place(key: str, value: Any, tmp_path: Path) -> None:
    path = written(tmp_path, ONE, ONE | {"name": "b", "stats": STATS | {key: value}})
    for read in (read_benchmarks, lambda path: bench_rows(path, stamp(0))):
        with pytest.raises(StoreError, match=rf"bench\.json: not a.*benchmarks\.1\.stats\.{key}"):
            read(path)


@pytest.mark.parametrize(
    ("others", "place"),
    [
        ({"machine_info": [1]}, "machine_info"),
        ({"machine_info": {"cpu": [1]}}, "machine_info.cpu"),
        ({"commit_info": "abc"}, "commit_info"),
        ({"datetime": 5}, "datetime"),
    ],
)
def test_a_head_of_another_form_is_refused(
    others: dict[str, Any], place: str, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=rf"bench\.json: not a file .*\({place}: "):
        read_benchmarks(written(tmp_path, ONE, **others))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a file of pytest-benchmark"),
        ("\x00", "not a file of pytest-benchmark"),
        ("[]", "not a file of pytest-benchmark"),
        ("{}", r"\(benchmarks: Field required\)"),
        ('{"benchmarks": []}', "holds no benchmark"),
        ('{"benchmarks": [{"fullname": "a", "name": "a"}]}', r"\(benchmarks\.0\.stats: Field"),
    ],
)
def test_another_file_is_refused_in_one_line(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=rf"bench\.json: .*{why}") as raised:
        read_bench_file(path)
    assert "\n" not in str(raised.value)


def test_a_path_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="absent: no such file"):
        read_bench_file(tmp_path / "absent")
    with pytest.raises(StoreError, match="cannot be read"):
        read_bench_file(tmp_path)


KEYS = st.sampled_from(
    ["benchmarks", "stats", "name", "fullname", "median", "iqr", "rounds", "machine_info"]
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    )
)
def test_no_json_breaks_it(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"bench\.json: (not a file of pytest-benchmark|holds no)"):
        read_bench_file(path)


def test_conditions_are_those_that_are_said(tmp_path: Path) -> None:
    info = {"implementation": "", "device": "cpu", "threads": 1, "mine": {"a": [2]}}
    [one] = read_bench_file(written(tmp_path, ONE | {"extra_info": info})).benchmarks
    assert one.conditions == {"device": "cpu", "threads": "1"}


def test_the_rows_of_the_history(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        ONE | {"extra_info": {"implementation": "c"}},
        {"name": "b", "fullname": "t.py::b", "stats": STATS | {"data": [1.0, 2, 3, 4, 5, 6, 7]}},
        {"name": "once", "fullname": "t.py::K::once", "stats": STATS | {"rounds": 1, "iqr": 0}},
    )
    rows = bench_rows(path, stamp(3)).to_dicts()
    assert [(r["kind"], r["series"], r["subject"], r["metric"]) for r in rows] == [
        ("bench", "bench_ops", "test_a[4k] (c)", "time_s"),
        ("bench", "t", "b", "time_s"),
        ("bench", "t", "K::once", "time_s"),
    ]
    # 1.96 standard errors of the median of 100 normal samples: 1.2533 σ / 10, σ = IQR / 1.349.
    assert rows[0]["high"] - rows[0]["value"] == pytest.approx(1.821e-5, rel=1e-3)
    assert (rows[1]["low"], rows[1]["value"], rows[1]["high"], rows[1]["n"]) == (1.0, 4.0, 7.0, 7)
    assert (rows[2]["low"], rows[2]["high"]) == (None, None)
