"""What a run says of quality, against made-up runs whose true answers are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from quality_run import ASKED, CONTEXTS, REFERENCE, SHORT, TARGETS, VARIANTS, build_run

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.paired import Losses
from ctxsweep.analysis.quality import standing
from ctxsweep.analysis.quality_positions import breaking_position, bucket_tokens
from ctxsweep.analysis.quality_summary import QualityCell, QualitySummary
from ctxsweep.analysis.quality_tasks import wilson
from ctxsweep.analysis.summarise import summarise
from ctxsweep.analysis.summary import Summary
from ctxsweep.records import Record, Status

LONGEST = max(CONTEXTS)


def summary_of(records: Sequence[Record], asked: dict[str, Any] | None = None) -> Summary:
    return summarise(
        scenario="rope",
        question="How far?",
        run_id="r",
        started_at="2026-01-01T00:00:00Z",
        records=records,
        order=list(dict.fromkeys(r.cell.series.name for r in records)),
        quality=ASKED if asked is None else asked,
    )


def quality_of(records: Sequence[Record], asked: dict[str, Any] | None = None) -> QualitySummary:
    quality = summary_of(records, asked).quality
    assert quality is not None
    return quality


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return build_run()


@pytest.fixture(scope="module")
def quality(records: list[Record]) -> QualitySummary:
    return quality_of(records)


def cell(quality: QualitySummary, series: str, context: int = LONGEST) -> QualityCell:
    found = quality.cell(series, context)
    assert found is not None
    return found


def holds(estimate: Estimate | None, truth: float) -> bool:
    assert estimate is not None and estimate.low is not None and estimate.high is not None
    return estimate.low <= truth <= estimate.high


def test_differences_hold_what_was_added(quality: QualitySummary) -> None:
    # A longer context helps these texts by nothing beyond the reference's.
    pairs = [
        (estimate, truth)
        for variant in VARIANTS[1:]
        for found in (cell(quality, variant.name, n) for n in CONTEXTS[1:])
        for estimate, truth in ((found.difference, variant.added), (found.harm, variant.harm))
    ]
    assert sum(holds(estimate, truth) for estimate, truth in pairs) >= 21 and len(pairs) == 24
    assert all(abs(e.value - truth) < 0.02 for e, truth in pairs if e is not None)
    none = cell(quality, "none").difference
    assert none is not None
    assert none.value == pytest.approx((LONGEST - TARGETS / 2 - 10_240) / 1000, abs=0.01)


def test_pairing_is_what_makes_the_interval_narrow(records: list[Record]) -> None:
    losses = Losses(records)
    yarn, none = losses.own("yarn", LONGEST), losses.own("none", REFERENCE)
    paired = losses.compare(yarn, none, TARGETS)
    alone = losses.mean_of(losses.stretches(yarn)[0][None, -TARGETS // 16 :])
    assert paired and paired.standard_error and alone.standard_error
    assert paired.standard_error < alone.standard_error / 5


def test_same_targets_are_paired_from_the_end(records: list[Record]) -> None:
    losses = Losses(records)
    none, short = losses.own("none", REFERENCE), losses.short("none", REFERENCE, SHORT)
    assert short is not None
    found = losses.differences(none, short, targets=REFERENCE)
    assert found is not None and found.shape == (1, SHORT // 16), "no more than both have"
    # What the short pass lacks before its first target, and by its last hardly any.
    assert found[0, 0] == pytest.approx(-0.3, abs=0.02)
    assert found[0, -1] == pytest.approx(0.0, abs=0.01)


def test_reference_is_nought_and_ratios_are_one(quality: QualitySummary) -> None:
    reference = cell(quality, "none", REFERENCE)
    assert reference.difference == Estimate(value=0.0, low=0.0, high=0.0, n=TARGETS // 16)
    assert reference.prefill_ratio == Estimate(value=1.0)
    assert reference.beside is None
    beside = cell(quality, "yarn").beside
    difference, none = cell(quality, "yarn").difference, cell(quality, "none").difference
    assert beside and difference and none
    assert beside.value == pytest.approx(difference.value - none.value)


def test_cost_stands_beside_it(quality: QualitySummary) -> None:
    yarn = cell(quality, "yarn")
    assert holds(yarn.prefill_ratio, 1.02) and holds(yarn.decode_ratio, 1.02)
    ratio = yarn.perplexity_ratio
    assert ratio and yarn.difference and ratio.value == np.exp(yarn.difference.value)


def test_effective_length_and_breaking_point(quality: QualitySummary) -> None:
    reach = {r.series: r for r in quality.reach}
    assert (reach["none"].effective_tokens, reach["none"].at_least) == (REFERENCE, False)
    # The ramp passes 0.1 nats 100 tokens after it starts; buckets are 512 wide.
    assert reach["none"].breaks_at is not None
    assert 10_240 <= reach["none"].breaks_at <= 10_240 + 512
    assert (reach["linear"].effective_tokens, reach["linear"].breaks_at) == (REFERENCE, 0)
    for name in ("ntk", "yarn", "short_harm"):
        assert (reach[name].effective_tokens, reach[name].at_least) == (LONGEST, True)
        assert reach[name].breaks_at is None


def test_healthy_losses_reach_back_over_the_whole_context(quality: QualitySummary) -> None:
    curves = {curve.series: curve for curve in quality.positions}
    none = curves["none"]
    assert none.starts == tuple(range(0, LONGEST, none.bucket_tokens)) and len(none.starts) == 32
    before = [e.value for at, e in zip(none.starts, none.differences, strict=True) if at < 10_240]
    # The reference has half a context at least, or all there is: no bias but exp(-4096/500).
    assert max(map(abs, before)) < 1e-4
    assert len([1 for e in curves["linear"].differences if holds(e, 0.6)]) >= 26


def test_without_passes_further_back_the_curve_begins_later(records: list[Record]) -> None:
    def nearest(record: Record) -> Record:
        assert record.quality is not None
        passes = tuple(p for p in record.quality.passes if p.end_offset == 0)
        return record.model_copy(
            update={"quality": record.quality.model_copy(update={"passes": passes})}
        )

    quality = quality_of([nearest(record) for record in records])
    curve = next(c for c in quality.positions if c.series == "yarn")
    assert curve.starts[0] == LONGEST - REFERENCE
    assert abs(max(e.value for e in curve.differences[4:])) < 0.05
    assert next(r for r in quality.reach if r.series == "none").breaks_at == 10_240


def test_a_break_takes_two_buckets_running() -> None:
    def estimates(*lows: float) -> list[Estimate]:
        return [Estimate(value=low + 0.1, low=low, high=low + 0.2) for low in lows]

    starts = (0, 512, 1024, 1536)
    assert breaking_position(starts, estimates(0, 0.5, 0, 0.5), 0.1) is None
    assert breaking_position(starts, estimates(0, 0.5, 0.05, 0.5), 0.1) is None
    assert breaking_position(starts, estimates(0, 0, 0.5, 0.2), 0.1) == 1024
    assert breaking_position((0,), estimates(0.5), 0.1) is None


def test_buckets_are_wide_enough_for_an_interval() -> None:
    widths = {n: bucket_tokens(n, 16) for n in (512, 2048, 8192, 16384, 65536)}
    assert widths == {512: 64, 2048: 64, 8192: 256, 16384: 512, 65536: 512}


def test_standing_of_an_interval() -> None:
    def at(low: float, high: float) -> str | None:
        return standing(Estimate(value=low, low=low, high=high), 0.1)

    assert (at(0.0, 0.1), at(0.05, 0.2), at(0.11, 0.2)) == ("within", "open", "beyond")
    assert standing(Estimate(value=0.0), 0.1) is None


@pytest.mark.parametrize(
    ("exact", "trials", "low", "high"),
    # Newcombe 1998, table I, method 3 (81/263, 15/148, 0/20, 1/29).
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_the_published_one(
    exact: int, trials: int, low: float, high: float
) -> None:
    found = wilson(exact, trials)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_task_rates_by_depth_and_together(quality: QualitySummary) -> None:
    linear = [r for r in quality.tasks if (r.series, r.context_tokens) == ("linear", LONGEST)]
    assert [(r.depth, r.exact, r.trials) for r in linear] == [
        (None, 4, 8),
        (0.05, 0, 2),
        (0.35, 0, 2),
        (0.65, 2, 2),
        (0.95, 2, 2),
    ]
    assert linear[0].log_probability == pytest.approx((-9.0 - 0.2) / 2)
    none = quality.rate("passkey", "none", LONGEST)
    assert none is not None and none.exact == 0


def test_reference_is_found_where_the_scenario_names_none(records: list[Record]) -> None:
    quality = quality_of(records, {})
    assert (quality.reference_series, quality.reference_context) == ("none", REFERENCE)
    assert (quality.short_context, quality.max_loss) == (None, 0.1)
    assert all(c.harm is None for c in quality.cells)


def test_smallest_batch_counts_and_runs_without_quality_have_none(records: list[Record]) -> None:
    assert summary_of([r.model_copy(update={"quality": None}) for r in records]).quality is None
    wide = [
        r.model_copy(update={"cell": r.cell.model_copy(update={"batch_size": 4})})
        for r in build_run(seed=5)
    ]
    assert quality_of([*wide, *records]).cells == quality_of(records).cells


def failed(records: list[Record], *places: tuple[str, int]) -> list[Record]:
    """The same run, had these cells not been measured."""
    return [
        r.model_copy(update={"status": Status.OOM, "quality": None})
        if (r.cell.series.name, r.cell.context_tokens) in places
        else r
        for r in records
    ]


@pytest.mark.parametrize(
    ("context", "longest", "effective", "at_least"),
    [
        (LONGEST, 12_288, 12_288, True),
        (12_288, LONGEST, REFERENCE, True),
        (REFERENCE, LONGEST, None, False),
    ],
)
def test_a_context_that_failed_is_not_held(
    records: list[Record], context: int, longest: int, effective: int | None, at_least: bool
) -> None:
    quality = quality_of(failed(records, ("yarn", context)))
    yarn = next(r for r in quality.reach if r.series == "yarn")
    assert (yarn.longest_tokens, yarn.effective_tokens) == (longest, effective)
    assert yarn.at_least == at_least


def test_without_the_reference_nothing_is_compared(records: list[Record]) -> None:
    quality = quality_of(failed(records, *(("none", n) for n in CONTEXTS)))
    assert all(c.difference is None and c.standing is None for c in quality.cells)
    assert quality.advice == ()
    assert (quality.reference_series, quality.reference_context) == ("none", REFERENCE)
    assert all(r.effective_tokens is None and not r.at_least for r in quality.reach)
    unnamed = quality_of(failed(records, *(("none", n) for n in CONTEXTS)), {})
    assert unnamed.reference_series == "none", "the first of the file, measured or not"


def test_positions_of_a_context_that_buckets_do_not_fill() -> None:
    # The last bucket holds one block of each stretch.
    asked = ASKED | {"reference": {"series": "none", "context": 4096}, "short_context": None}
    quality = quality_of(build_run(VARIANTS[:2], (4096, 6000), stretches=4), asked)
    curve = next(c for c in quality.positions if c.series == "linear")
    assert (curve.bucket_tokens, curve.starts[-1]) == (176, 5984)
    assert curve.differences[-1].n == 4 and curve.differences[-1].low is not None


def test_what_could_not_be_measured_of_a_cell_is_kept(records: list[Record]) -> None:
    first = records[0]
    assert first.quality is not None
    said = first.quality.model_copy(update={"detail": "no room for the passkey"})
    quality = quality_of([first.model_copy(update={"quality": said}), *records[1:]])
    assert [c.detail for c in quality.cells if c.detail] == ["no room for the passkey"]


def test_more_stretches_narrow_the_interval() -> None:
    one, four = (
        cell(quality_of(build_run(VARIANTS[:3], stretches=n)), "ntk").standard_error for n in (1, 4)
    )
    assert one and four
    assert four == pytest.approx(one / 2, rel=0.5)


def test_summary_survives_its_file(records: list[Record]) -> None:
    summary = summary_of(records)
    text = summary.model_dump_json()
    assert Summary.model_validate_json(text) == summary
    assert json.loads(text)["quality"]["cells"][0]["difference"]["value"] == 0
