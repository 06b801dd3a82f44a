"""Two files of pytest-benchmark: what gets a line, and what is not compared and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctxsweep.analysis.compare import Table
from ctxsweep.analysis.compare_bench import compare_benchmarks, read_benchmarks
from ctxsweep.analysis.lines import judged
from ctxsweep.scenario_regression import Regression

REAL = Path(__file__).parents[1] / "fixtures/benchmarks/four_ops.json"


@pytest.fixture
def data() -> dict[str, Any]:
    """The new file, to be changed; the base stays as it was measured."""
    content: dict[str, Any] = json.loads(REAL.read_text())
    assert len(content["benchmarks"]) == 4
    return content


def compared(data: dict[str, Any], folder: Path, *across: str) -> Table:
    path = folder / "new.json"
    path.write_text(json.dumps(data))
    return compare_benchmarks(read_benchmarks(REAL), read_benchmarks(path), Regression(), across)


@pytest.mark.parametrize("rounds_kept", [True, False])
def test_a_slower_one_is_found_by_its_name(
    rounds_kept: bool, data: dict[str, Any], tmp_path: Path
) -> None:
    slow = data["benchmarks"][1]["stats"]
    slow |= {name: 2 * slow[name] for name in ("median", "iqr")}
    slow["data"] = [2 * value for value in slow["data"]] if rounds_kept else None
    data["benchmarks"][1]["fullname"] = "moved/bench_ops.py::test_cpu[renamed]"
    data["benchmarks"][3]["name"] = "renamed"
    table = compared(data, tmp_path)
    changes = {c.subject: c for c in judged(table.lines, 0.01)}
    slower = changes.pop("rope_append[gqa-8x2-d64-t1-fp32]")
    assert slower.outcome == "SLOW" and slower.series == f"bench_ops::{slower.subject}"
    assert len(changes) == 2 and {c.outcome for c in changes.values()} <= {"SAME", "AMBG"}
    assert [(e.count, e.reason) for e in table.not_compared] == [
        (1, "only in the base file"),
        (1, "only in the new file"),
    ]


@pytest.mark.parametrize(
    ("key", "value", "said", "kind"),
    [
        ("implementation", "torch", "implementation c → torch", "settings"),
        ("implementation", None, "implementation c → not said", "settings"),
        ("device", "cuda", "device cpu → cuda", "machine"),
        ("threads", 2, "threads 1 → 2", "threads"),
    ],
)
def test_one_that_ran_otherwise_has_no_line(
    key: str, value: object, said: str, kind: str, data: dict[str, Any], tmp_path: Path
) -> None:
    one = data["benchmarks"][0]
    one["extra_info"][key] = value
    table = compared(data, tmp_path)
    assert len(table.lines) == 3 and one["name"] not in {ln.change.subject for ln in table.lines}
    [entry] = table.not_compared
    assert (entry.what, entry.count) == ("benchmarks", 1)
    assert entry.reason == f"{one['name']}: {said}"
    table = compared(data, tmp_path, kind)
    assert len(table.lines) == 4 and not table.not_compared
    assert table.differences == [f"{one['name']}: {said}"]


def test_where_nothing_is_alike_there_is_no_line(data: dict[str, Any], tmp_path: Path) -> None:
    for one in data["benchmarks"]:
        one["extra_info"]["threads"] = 7
    table = compared(data, tmp_path)
    assert not table.lines and not table.scatter and len(table.not_compared) == 4


def test_another_machine_is_not_compared_unless_asked(data: dict[str, Any], tmp_path: Path) -> None:
    data["machine_info"]["cpu"]["brand_raw"] = "Another CPU"
    table = compared(data, tmp_path)
    [entry] = table.not_compared
    assert not table.lines and entry.count == 4
    assert entry.reason == "cpu_model: AMD EPYC → Another CPU"
    assert len(compared(data, tmp_path, "machine").lines) == 4


def test_what_all_benchmarks_have_in_common_is_taken_for_the_machine(tmp_path: Path) -> None:
    data = json.loads(REAL.read_text())
    one = data["benchmarks"][0]
    for factor, name in ((1.0, "base.json"), (1.08, "new.json")):
        data["benchmarks"] = []
        for i in range(12):
            by = factor * (1.5 if i == 3 and factor > 1 else 1)
            times = [by * value for value in one["stats"]["data"]]
            stats = one["stats"] | {"data": times, "median": by * one["stats"]["median"]}
            named = {"name": f"op{i}", "fullname": f"tests/bench/bench_ops.py::op{i}"}
            data["benchmarks"].append(one | named | {"stats": stats})
        (tmp_path / name).write_text(json.dumps(data))
    base, new = (read_benchmarks(tmp_path / name) for name in ("base.json", "new.json"))
    table = compare_benchmarks(base, new, Regression())
    slow = [c.subject for c in judged(table.lines, 0.01) if c.outcome == "SLOW"]
    assert slow == ["op3"]
    assert any("+8% together" in text for text in table.differences)
