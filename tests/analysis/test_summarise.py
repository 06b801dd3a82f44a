"""A whole run of synthetic records: verdicts, cache checks, crossovers, drift, failures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ctxsweep.analysis.summarise import summarise
from ctxsweep.analysis.summary import Summary
from ctxsweep.records import Record, Status

Maker = Callable[..., Record]
LineMaker = Callable[..., list[Record]]


def summary_of(records: list[Record]) -> Summary:
    return summarise(
        scenario="synthetic",
        question="what does it cost?",
        run_id="r1",
        started_at="2026-01-01T00:00:00Z",
        records=records,
        elapsed_s=12.0,
    )


@pytest.fixture
def run(make_line: LineMaker, make_record: Maker) -> list[Record]:
    """Attention, a window, a state and a hybrid, with sentinels."""
    attention = {"chunk_s": lambda at: 0.01 + 1e-6 * at, "step_s": lambda n: 1e-3 + 1e-6 * n}
    lines = [
        *make_line("mha", noise=0.01, **attention),
        *make_line(
            "window",
            noise=0.01,
            step_s=lambda n: 1e-3 + 1e-6 * min(n, 4096),
            cache=lambda n: 1024 * min(n, 4096),
            per_token=0.0,
        ),
        *make_line(
            "mamba",
            noise=0.01,
            step_s=lambda n: 2e-2,
            cache=lambda n: 65536,
            per_token=0.0,
            climb_s=3.0,
        ),
        *make_line("hybrid", noise=0.01, cache=lambda n: 65536 + 128 * n, per_token=128.0),
    ]
    sentinels = [
        make_record(
            "mha", 1024, role="sentinel", occurrence=i, step_s=lambda n, i=i: 1e-3 + i * 1e-5
        )
        for i in range(3)
    ]
    return [sentinels[0], *lines[:20], sentinels[1], *lines[20:], sentinels[2]]


def test_verdicts(run: list[Record]) -> None:
    found = {(v.series, v.metric): v for v in summary_of(run).verdicts}
    classes = {key: v.scaling for key, v in found.items()}
    assert classes == {
        ("mha", "cache_used_bytes"): "O(n)",
        ("window", "cache_used_bytes"): "O(1)",
        ("mamba", "cache_used_bytes"): "O(1)",
        ("hybrid", "cache_used_bytes"): "O(n)",
        ("mha", "itl_s"): "O(n)",
        ("window", "itl_s"): "O(1)",
        ("mamba", "itl_s"): "O(1)",
        ("hybrid", "itl_s"): "O(1)",
        ("mha", "prefill_s"): "O(n²)",
        ("window", "prefill_s"): "O(n)",
        ("mamba", "prefill_s"): "O(n)",
        ("hybrid", "prefill_s"): "O(n)",
    }
    assert found["window", "cache_used_bytes"].flat_beyond_tokens == 4096
    assert found["window", "itl_s"].flat_beyond_tokens == 4096
    assert found["mha", "cache_used_bytes"].flat_beyond_tokens is None


def test_cache_against_the_formula(run: list[Record]) -> None:
    checks = {c.series: c for c in summary_of(run).cache}
    assert {n: c.measured_bytes_per_token for n, c in checks.items()} == {
        "mha": 1024.0,
        "window": 0.0,
        "mamba": 0.0,
        "hybrid": 128.0,
    }
    for check in checks.values():
        assert check.difference_bytes == 0
        assert check.measured_bytes_per_token == check.formula_bytes_per_token


def test_a_wrong_formula_shows(make_line: LineMaker) -> None:
    records = make_line("mha", formula=lambda n: 1024 * n + 7, batch_size=2)
    assert summary_of(records).cache[0].difference_bytes == 14
    assert summary_of(records).cache[0].measured_bytes_per_token == 1024.0


def test_crossovers(run: list[Record]) -> None:
    found = {(c.metric, c.first, c.second): c for c in summary_of(run).crossovers}
    decode = found["itl_s", "mha", "mamba"]
    assert decode.context_tokens is not None
    assert decode.context_tokens.value == pytest.approx(19_000, rel=0.05)
    assert decode.cheaper_above == "mamba"
    assert found["held_bytes", "mha", "mamba"].cheaper_below == "mamba"
    assert len(found) == 3 * 6


def test_sentinels_are_apart(run: list[Record]) -> None:
    summary = summary_of(run)
    assert len(summary.cells) == 32
    (drift,) = (d for d in summary.drift if d.metric == "itl_s")
    assert drift.values == pytest.approx((1e-3, 1.01e-3, 1.02e-3))
    assert drift.relative_spread == pytest.approx(0.02 / 1.01)
    assert list(drift.started_at) == sorted(drift.started_at)


def test_a_machine_that_drifts_leaves_times_undecided_and_bytes_decided(
    run: list[Record], make_record: Maker
) -> None:
    steps = (1e-3, 2e-3, 1e-3)
    sentinels = [
        make_record("mha", 1024, role="sentinel", occurrence=i, step_s=lambda n, s=step: s)
        for i, step in enumerate(steps)
    ]
    cells = [record for record in run if record.cell.role == "measure"]
    found = {(v.series, v.metric): v for v in summary_of([*cells, *sentinels]).verdicts}
    assert found["mha", "itl_s"].scaling == "undecided"
    assert "drifted by 40% from cell to cell" in found["mha", "itl_s"].evidence
    assert found["mha", "cache_used_bytes"].scaling == "O(n)"


def test_growth_is_the_series_of_the_longest(run: list[Record]) -> None:
    growth = summary_of(run).growth
    assert set(growth) == {"mha", "window", "mamba", "hybrid"}
    points = growth["mha"]
    assert [p.position for p in points[:-1]] == list(range(512, 131073, 512))
    assert (points[-1].phase, points[-1].position) == ("decode", 131072 + 16)
    assert points[255].cache_used_bytes == 1024 * 131072


def test_ladder_cost(run: list[Record]) -> None:
    (ladder,) = summary_of(run).ladder
    assert ladder.series == "mamba"
    assert ladder.climb_s == 3.0
    assert ladder.ratio == pytest.approx(3.0 / ladder.longest_prefill_s)


def test_order_of_records_changes_nothing(run: list[Record]) -> None:
    one, other = summary_of(run), summary_of(run[::-1])
    assert {v.model_dump_json() for v in one.verdicts} == {
        v.model_dump_json() for v in other.verdicts
    }
    assert set(one.cache) == set(other.cache)
    assert set(one.drift) == set(other.drift)


def test_failures_are_cells_and_end_the_curves(make_line: LineMaker, make_record: Maker) -> None:
    good = make_line("mha", 32768, noise=0.01, step_s=lambda n: 1e-3 + 1e-6 * n)
    bad = [
        make_record("mha", 65536, status=Status.OOM, detail="needs 9 GiB"),
        make_record("mha", 131072, status=Status.OVER_BUDGET),
        make_record("gone", 1024, status=Status.UNSUPPORTED, detail="no such engine"),
    ]
    summary = summary_of(good + bad)
    assert len(summary.cells) == 9
    failed = {c.context_tokens: c for c in summary.cells if c.status is not Status.OK}
    assert failed[65536].detail == "needs 9 GiB"
    assert failed[65536].metrics == {}
    evidence = {(v.series, v.metric): v.evidence for v in summary.verdicts}
    assert evidence["mha", "itl_s"].endswith("no points beyond 32K: oom, over_budget")
    assert evidence["mha", "cache_used_bytes"].endswith("no points beyond 32K: oom, over_budget")
    assert evidence["gone", "itl_s"].endswith("no points: unsupported")
    assert {v.scaling for v in summary.verdicts if v.series == "gone"} == {"undecided"}


def test_a_cell_measured_again_counts_by_its_last_record(make_record: Maker) -> None:
    first, again = make_record(status=Status.TIMEOUT), make_record()
    summary = summary_of([first, again])
    assert [c.status for c in summary.cells] == [Status.OK]


def test_one_context_is_judged_by_its_memory_series(make_record: Maker) -> None:
    found = {v.metric: v for v in summary_of([make_record("mha", 65536)]).verdicts}
    assert found["cache_used_bytes"].scaling == "O(n)"
    assert found["itl_s"].scaling == "undecided"


def test_memory_that_is_not_told_has_no_verdict(make_line: LineMaker, make_record: Maker) -> None:
    unknown = dict.fromkeys(("weights_bytes", "cache_used_bytes", "cache_reserved_bytes"))
    served = [
        r.model_copy(update={"memory": tuple(m.model_copy(update=unknown) for m in r.memory)})
        for r in make_line("served", 16384, noise=0.01)
    ]
    served.append(make_record("served", 32768, status=Status.ERROR, detail="gone"))
    summary = summary_of([*make_line("mha", 32768, noise=0.01), *served])
    judged = {v.metric for v in summary.verdicts if v.series == "served"}
    assert judged == {"itl_s", "prefill_s"}
    assert list(summary.growth) == ["mha"]
    assert [check.series for check in summary.cache] == ["mha"]
    assert "held_bytes" not in {c.metric for c in summary.crossovers}
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_nothing_measured_is_still_a_summary() -> None:
    summary = summary_of([])
    assert summary.cells == () and summary.verdicts == ()


def test_summary_survives_json(run: list[Record]) -> None:
    summary = summary_of(run)
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_series_come_in_the_order_of_the_scenario(run: list[Record]) -> None:
    order = ["mamba", "hybrid", "mha", "window"]
    found = summarise(
        scenario="synthetic",
        question="",
        run_id="r1",
        started_at="",
        records=run,
        order=order,
    )
    assert [series.name for series in found.series] == order
    assert sorted(v.evidence for v in found.verdicts) == sorted(
        v.evidence for v in summary_of(run).verdicts
    )


def test_a_page_that_decode_begins_does_not_bend_the_line(make_record: Maker) -> None:
    """Few contexts, so that readings along the way are judged: pages of 256 tokens."""

    def pages(tokens: int) -> int:
        return -(-tokens // 256) * 256 * 1024

    contexts = (8192, 12288, 16384)
    found = summary_of([make_record("paged", n, cache=pages) for n in contexts])
    (cache,) = [v for v in found.verdicts if v.metric == "cache_used_bytes"]
    assert cache.scaling == "O(n)"
