"""Metrics of a record, computed by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ctxsweep.analysis.metrics import METRICS, measure
from ctxsweep.analysis.samples import (
    climbs,
    contended_flags,
    contended_share,
    of_phase,
    outlier_count,
)
from ctxsweep.records import Power, Record, Sample, Status

Maker = Callable[..., Record]


def test_prefill_is_the_sum_of_the_chunks(make_record: Maker) -> None:
    record = make_record(context=4096, chunk_s=lambda at: 0.01 + at * 1e-6)
    expected = sum(0.01 + at * 1e-6 for at in range(0, 4096, 512))
    values = measure(record)
    assert values["prefill_s"].value == pytest.approx(expected)
    assert values["prefill_s"].n == 1
    assert values["prefill_tps"].value == pytest.approx(4096 / expected)


def test_several_climbs_give_their_median(make_record: Maker) -> None:
    record = make_record(context=2048, climbs=3, noise=0.05)
    totals = sorted(run.whole_s for run in climbs(record))
    estimate = measure(record)["prefill_s"]
    assert len(totals) == 3
    assert estimate.value == pytest.approx(totals[1])
    assert estimate.n == 3


def test_two_climbs_far_apart_leave_an_interval_above_zero(make_record: Maker) -> None:
    slow, fast = make_record("gqa", 4096), make_record("gqa", 4096)
    again = tuple(
        s.model_copy(update={"repeat": 7, "wall_s": s.wall_s * 25})
        for s in slow.samples
        if s.phase == "prefill"
    )
    both = fast.model_copy(update={"samples": (*fast.samples, *again)})
    found = measure(both)
    for name in ("prefill_s", "prefill_tps", "mfu_prefill"):
        estimate = found[name]
        assert estimate.low is not None and estimate.high is not None
        assert 0 < estimate.low < estimate.value < estimate.high


def test_a_climb_with_a_gap_does_not_count(make_record: Maker) -> None:
    record = make_record(context=2048)
    torn = record.model_copy(update={"samples": record.samples[1:]})
    assert "prefill_s" not in measure(torn)
    assert "mfu_prefill" not in measure(torn)


def test_order_of_storing_changes_nothing(make_record: Maker) -> None:
    record = make_record(context=4096, climbs=2, noise=0.1)
    backward = record.model_copy(update={"samples": record.samples[::-1]})
    assert measure(backward) == measure(record)


def test_decode_metrics(make_record: Maker) -> None:
    record = make_record(step_s=lambda n: 0.004, batch_size=4)
    values = measure(record)
    assert values["itl_s"].value == pytest.approx(0.004)
    assert values["tpot_s"].value == pytest.approx(0.004)
    assert values["decode_tps"].value == pytest.approx(4 / 0.004)
    assert "decode_p99_s" not in values
    assert "decode_p99_s" in measure(make_record(steps=128))


def test_p99_comes_from_single_tokens(make_record: Maker) -> None:
    record = make_record(steps=200)
    slow = [s.model_copy(update={"wall_s": 1.0}) for s in record.samples[-4:]]
    record = record.model_copy(update={"samples": (*record.samples[:-4], *slow)})
    assert measure(record)["decode_p99_s"].value == pytest.approx(1.0)
    assert measure(record)["itl_s"].value == pytest.approx(0.002)


def test_memory_is_read_at_the_context(make_record: Maker) -> None:
    values = measure(make_record(context=4096, batch_size=2))
    assert values["cache_used_bytes"].value == 2 * 4096 * 1024
    assert values["cache_reserved_bytes"].value == 4 * 4096 * 1024
    assert values["bytes_per_token"].value == 1024
    assert values["weights_bytes"].value == 10_000_000
    assert values["held_bytes"].value == 10_000_000 + 2 * 4096 * 1024
    assert values["process_peak_bytes"].value == 10_000_000 + 2 * 1024 * (4096 + 16)
    assert "device_peak_bytes" not in values
    assert values["cache_used_bytes"].low is None


def test_memory_that_is_not_told_gives_no_metric(make_record: Maker) -> None:
    def without(*names: str) -> set[str]:
        record = make_record(context=4096)
        memory = tuple(m.model_copy(update=dict.fromkeys(names)) for m in record.memory)
        return set(measure(record)) - set(measure(record.model_copy(update={"memory": memory})))

    assert without("cache_reserved_bytes") == {"cache_reserved_bytes"}
    assert without("weights_bytes") == {"weights_bytes", "held_bytes"}
    assert without("cache_used_bytes") == {"cache_used_bytes", "bytes_per_token", "held_bytes"}


def test_utilisation_is_of_the_measured_ceiling(make_record: Maker) -> None:
    values = measure(make_record(context=1024, step_s=lambda n: 0.002))
    assert values["mfu_prefill"].value == pytest.approx(1e9 / 0.02 / 1e11)
    assert values["mbu_decode"].value == pytest.approx(2e7 / 0.002 / 2e10)


def test_no_ceiling_no_utilisation(make_record: Maker) -> None:
    bare = make_record().model_copy(update={"ceilings": None})
    assert not {"mfu_prefill", "mbu_decode"} & set(measure(bare))


def test_energy_needs_a_valid_reading(make_record: Maker) -> None:
    good = Power(valid=True, prefill_power_w=100.0, decode_power_w=50.0)
    values = measure(make_record(context=1024, power=good, step_s=lambda n: 0.002))
    assert values["joules_per_prompt_token"].value == pytest.approx(100 * 0.02 / 1024)
    assert values["joules_per_generated_token"].value == pytest.approx(50 * 0.002)
    bad = good.model_copy(update={"valid": False, "reasons": ("window too short",)})
    assert "joules_per_prompt_token" not in measure(make_record(power=bad))


def test_a_failure_has_no_metrics(make_record: Maker) -> None:
    assert measure(make_record(status=Status.OOM)) == {}


def test_names_units_and_no_ttft() -> None:
    assert "ttft_s" not in METRICS
    for name, metric in METRICS.items():
        assert metric.name == name
        assert name.endswith("_s") == (metric.unit == "s")
        assert name.endswith("_bytes") <= (metric.unit == "bytes")
        assert name.startswith("joules") == (metric.unit == "J")


def decode(wall_s: float, cpu_s: float | None, device_s: float | None = None) -> Sample:
    return Sample(
        phase="decode", position=0, tokens=1, wall_s=wall_s, cpu_s=cpu_s, device_s=device_s
    )


def test_single_threaded_parts_are_not_contention() -> None:
    steps = [decode(1.0, 1.3)] * 20
    flags = contended_flags(steps)
    assert flags is not None and not flags.any()


def test_a_squeezed_sample_is_contended() -> None:
    flags = contended_flags([decode(1.0, 1.9)] * 20 + [decode(2.0, 1.9)])
    assert flags is not None and flags.tolist() == [False] * 20 + [True]


def test_a_cell_squeezed_throughout_is_contended() -> None:
    flags = contended_flags([decode(10.0, 1.0)] * 20)
    assert flags is not None and flags.all()


def test_device_time_says_nothing_of_the_processor() -> None:
    assert contended_flags([decode(1.0, 0.1, device_s=0.9)] * 5) is None


def test_without_processor_time_contention_cannot_be_told(make_record: Maker) -> None:
    assert contended_flags([decode(1.0, None)] * 5) is None
    record = make_record()
    remote = tuple(sample.model_copy(update={"cpu_s": None}) for sample in record.samples)
    assert contended_share(record.model_copy(update={"samples": remote})) is None


def test_flags_on_a_record(make_record: Maker) -> None:
    record = make_record(context=8192, noise=0.01, chunk_s=lambda at: 0.01 + 1e-5 * at)
    assert contended_share(record) == 0.0
    assert outlier_count(record) == 0
    slow = record.samples[5].model_copy(update={"wall_s": 1.0})
    flagged = record.model_copy(
        update={"samples": (*record.samples[:5], slow, *record.samples[6:])}
    )
    assert outlier_count(flagged) == 1
    assert contended_share(flagged) == pytest.approx(1 / len(record.samples))
    assert len(of_phase(flagged, "prefill")) == len(of_phase(record, "prefill"))
