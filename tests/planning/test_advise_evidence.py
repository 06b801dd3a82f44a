"""Measured before calibrated before bound; and what a run measured is what the answer says."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest

from ctxsweep.analysis.predicted import Errors
from ctxsweep.analysis.summary import Summary
from ctxsweep.planning.advice.advise import Made, advise
from ctxsweep.planning.advice.candidates import of_model, of_series
from ctxsweep.planning.advice.evidence import Grounds, is_of, times
from ctxsweep.planning.advice.needs import make_needs
from ctxsweep.planning.advice.quality_proxy import parts
from ctxsweep.planning.calibration.calibration import Calibration, CodePath, Group, Measured, Speeds
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import Device, this_machine

BASELINES = Path(__file__).parents[2] / "results/baselines/2-core-amd-epyc"
LONG = 131072
FP32 = Deployment(weight_dtype="float32")


@cache
def run_of(name: str) -> Summary:
    text = (BASELINES / name / "summary.json").read_text(encoding="utf-8")
    return Summary.model_validate_json(text)


@cache
def machine() -> Device:
    run = run_of("long_ctx")
    assert run.environment is not None
    return this_machine(run.ceilings["gqa"], run.environment.memory_bytes)


def grounds(**fields: object) -> Grounds:
    return Grounds(device=machine(), engines=lambda c, n: ("native",), **fields)  # type: ignore[arg-type]


def measured(series: str, context: int, metric: str) -> float:
    cells = run_of("long_ctx").cells
    found = [c for c in cells if (c.series, c.context_tokens) == (series, context)]
    return found[0].metrics[metric].value


def test_a_measured_time_is_taken_as_it_is_and_names_its_run() -> None:
    found = times(of_model("tiny-gqa"), FP32, LONG, grounds(runs=(run_of("long_ctx"),)))
    assert found.decode.basis == found.prefill.basis == "measured"
    assert found.decode.value == measured("gqa", LONG, "itl_s")
    assert found.prefill.value == measured("gqa", LONG, "prefill_s")
    assert run_of("long_ctx").run_id in found.decode.source


def test_its_interval_covers_how_far_the_machine_moved_meanwhile() -> None:
    run = run_of("long_ctx")
    drift = next(d.relative_spread for d in run.drift if d.metric == "itl_s")
    found = times(of_model("tiny-gqa"), FP32, LONG, grounds(runs=(run,))).decode
    assert found.low is not None and found.high is not None
    assert found.high / found.low >= 1 + drift


def test_between_two_measured_contexts_it_lies_between_them() -> None:
    found = times(of_model("tiny-gqa"), FP32, 100_000, grounds(runs=(run_of("long_ctx"),))).prefill
    low, high = (measured("gqa", n, "prefill_s") for n in (65536, LONG))
    assert low < found.value < high
    assert "between 64K and 128K" in found.source


@pytest.mark.parametrize(
    ("model", "deployment", "context"),
    [
        ("tiny-gqa", FP32, 2 * LONG),  # beyond what was measured
        ("tiny-gqa", Deployment(weight_dtype="bfloat16"), LONG),
        ("tiny-gqa", Deployment(weight_dtype="float32", batch_size=2), LONG),
        ("tiny-mha", FP32, LONG),
    ],
)
def test_what_was_not_measured_is_a_bound(model: str, deployment: Deployment, context: int) -> None:
    found = times(of_model(model), deployment, context, grounds(runs=(run_of("long_ctx"),)))
    assert found.decode.basis == "bound" and found.decode.high is None


def test_a_bound_is_never_above_what_was_measured() -> None:
    run = run_of("long_ctx")
    for series in run.series:
        candidate = of_series(series)
        deployment = FP32.model_copy(update={"kv_dtype": series.kv_dtype})
        for context in (1024, 16384, LONG):
            bound = times(candidate, deployment, context, grounds())
            known = times(candidate, deployment, context, grounds(runs=(run,)))
            assert known.decode.basis == "measured"
            assert bound.decode.value < known.decode.value
            assert bound.prefill.value < known.prefill.value


def calibration(models_weights: tuple[int, int] = (1, 1 << 40)) -> Calibration:
    run = run_of("long_ctx")
    errors = Errors(median=0.05, p90=0.12, worst=0.3, cells=9)
    group = Group(
        path=CodePath(backend="native", dtype="float32", kv_dtype="float32", mixers=("attention",)),
        speeds=Speeds(call_s=1e-4, linear=0.5, attention=0.25, weights=0.5, cache=0.5),
        measured=Measured(
            models=("tiny-gqa",),
            contexts=(1024, LONG),
            batch_sizes=(1, 1),
            weights_bytes=models_weights,
            cells=9,
        ),
        held_out={"itl_s": errors, "prefill_s": errors},
    )
    return Calibration(
        machine="m",
        ceilings=run.ceilings["gqa"],
        made_at="2026-01-01",
        runs=(run.run_id,),
        groups=(group,),
    )


def test_a_calibration_stands_between_a_run_and_a_bound_and_says_its_error() -> None:
    fitted = grounds(calibration=calibration())
    found = times(of_model("tiny-mha"), FP32, 16384, fitted).decode
    bound = times(of_model("tiny-mha"), FP32, 16384, grounds()).decode
    assert found.basis == "calibrated" and found.value > bound.value
    assert found.high == pytest.approx(found.value * 1.12) and "±12%" in found.source
    both = grounds(calibration=calibration(), runs=(run_of("long_ctx"),))
    assert times(of_model("tiny-gqa"), FP32, 16384, both).decode.basis == "measured"


def test_beyond_what_was_fitted_a_bound_is_all_there_is() -> None:
    small = grounds(calibration=calibration((1, 1000)))
    assert times(of_model("tiny-mha"), FP32, 16384, small).decode.basis == "bound"
    kind = grounds(calibration=calibration())
    assert times(of_model("tiny-mamba2"), FP32, 16384, kind).decode.basis == "bound"


def test_a_series_is_its_own_and_a_model_only_the_plain_one() -> None:
    run = run_of("long_ctx")
    by_name = {series.name: series for series in run.series}
    assert is_of(by_name["gqa"], of_model("tiny-gqa"))
    assert not is_of(by_name["mqa"], of_model("tiny-gqa"))
    windowed = by_name["gqa"].model_copy(update={"window": 512})
    assert not is_of(windowed, of_model("tiny-gqa"))
    assert of_series(windowed).window == 512


def test_the_baseline_decides_by_what_it_measured() -> None:
    run = run_of("long_ctx")
    candidates = tuple(of_series(series) for series in run.series)
    needs = make_needs({"context": "128k", "quality": "any", "weights": "speed=1"})
    found = grounds(runs=(run,), here=(run,))
    decision = advise(candidates, needs, found, Made("now", "0", None, "x"))
    request = {
        series.name: measured(series.name, LONG, "prefill_s")
        + needs.answer_tokens * measured(series.name, LONG, "itl_s")
        for series in run.series
    }
    assert decision.ranking[0].name == min(request, key=lambda name: request[name])
    assert {row.figures.decode_s.basis for row in decision.ranking} == {"measured"}
    assert decision.runs == (f"{run.scenario} {run.run_id}",)
    ssm = next(rule for rule in decision.rules if rule.name == "SSM or RWKV")
    assert any(e.text.startswith("measured at 128K: a decode step") for e in ssm.evidence)
    limit = sorted(request.values())[4]
    tight = make_needs({"context": "128k", "quality": "any", "prefill": limit})
    decision = advise(candidates, tight, found, Made("now", "0", None, "x"))
    slow = {one.name for one in decision.excluded}
    assert slow == {n for n in request if measured(n, LONG, "prefill_s") > limit}
    assert all("(measured)" in one.reason for one in decision.excluded)


def test_measured_quality_replaces_the_part_that_it_answers() -> None:
    run = run_of("rope_smollm2")
    by_name = {series.name: series for series in run.series}
    needs = make_needs({"context": "12k", "task": "rag"})
    found = {}
    for name in ("yarn", "linear"):
        series = by_name[name].model_copy(update={"model": "llama-3-8b"})
        renamed = run.model_copy(update={"series": (series,)})
        candidate = of_series(series)
        deployment = Deployment()
        scored = parts(candidate, candidate.effective_parameters, needs, deployment, (renamed,))
        found[name] = {part.name: part for part in scored}
    assert found["yarn"]["context"].score == 1.0
    assert found["linear"]["context"].score == 0.0
    assert found["linear"]["context"].reason.startswith("measured: +0.223 nats at 12K")
    rate = run.quality.rate("passkey", "yarn", 12288) if run.quality else None
    assert rate is not None
    assert found["yarn"]["recall"].score == rate.share.value
    assert math.isclose(sum(part.share for part in found["yarn"].values()), 1.0)


def test_a_bound_beside_measured_times_is_worth_little() -> None:
    run = run_of("long_ctx")
    candidates = (of_model("tiny-gqa"), of_model("tiny-mha"))
    fields = {"context": "32k", "quality": "any", "weight-dtype": "float32", "weights": "speed=1"}
    needs = make_needs({**fields, "models": "tiny-gqa,tiny-mha"})
    made = Made("now", "0", None, "x")
    bounds = advise(candidates, needs, grounds(), made)
    mixed = advise(candidates, needs, grounds(runs=(run,)), made)
    assert bounds.ranking[0].name == "tiny-gqa"
    by_name = {row.name: row for row in mixed.ranking}
    assert by_name["tiny-gqa"].figures.request_s.basis == "measured"
    assert by_name["tiny-mha"].figures.request_s.basis == "bound"
    widths = [row.total.high - row.total.low for row in (*bounds.ranking, *mixed.ranking)]  # type: ignore[operator]
    assert max(widths[2:]) > 2 * max(widths[:2])
    assert "not all candidates' times rest on the same" in mixed.basis


def test_series_of_a_run_keep_its_chunks_and_pages() -> None:
    run = run_of("long_ctx")
    candidates = tuple(of_series(series) for series in run.series)
    needs = make_needs({"context": "128k", "quality": "any"})
    decision = advise(candidates, needs, grounds(runs=(run,)), Made("now", "0", None, "x"))
    assert decision.compared == "all series of the runs named that meet the needs"
    held = {row.name: row.figures.cache_bytes for row in decision.ranking}
    assert all(held[name] == measured(name, LONG, "cache_used_bytes") for name in held)
