"""Measured before calibrated before bound; and what a run measured is what the answer says."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.predicted import Errors
from ctxsweep.analysis.summary import Summary
from ctxsweep.planning.advice.advise import Made, advise
from ctxsweep.planning.advice.candidates import Candidate, of_model, of_series
from ctxsweep.planning.advice.decision import Evidence
from ctxsweep.planning.advice.evidence import Grounds, is_of, times
from ctxsweep.planning.advice.gpu_names import is_gpu
from ctxsweep.planning.advice.measured_pairs import beside
from ctxsweep.planning.advice.needs import make_needs
from ctxsweep.planning.advice.quality_proxy import parts
from ctxsweep.planning.calibration.calibration import Calibration, Group, Measured
from ctxsweep.planning.calibration.code_path import CodePath
from ctxsweep.planning.calibration.speeds import Speeds
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import Device, device, device_names, this_machine

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
    assert found.basis == "between"
    assert found.low is not None and found.high is not None
    # Anything from proportion to the square of the context runs through the points on either side.
    assert found.low <= max(low * 100_000 / 65536, high * (100_000 / LONG) ** 2)
    assert found.high >= min(low * (100_000 / 65536) ** 2, high * 100_000 / LONG)


@given(
    constant=st.floats(0, 10),
    linear=st.floats(0.01, 10),
    square=st.floats(0, 1e-3),
    context=st.integers(65537, 131071),
)
def test_what_grows_as_a_prefill_lies_in_the_interval(
    constant: float, linear: float, square: float, context: int
) -> None:
    def took(n: int) -> float:
        return n * (linear + square * n)

    def step(n: int) -> float:
        return constant + linear * n

    run = run_of("long_ctx")
    cells = [
        cell.model_copy(
            update={
                "metrics": {
                    "prefill_s": Estimate(value=took(n), low=took(n), high=took(n)),
                    "itl_s": Estimate(value=step(n), low=step(n), high=step(n)),
                }
            }
        )
        for cell in run.cells
        if cell.series == "gqa" and (n := cell.context_tokens) >= 65536
    ]
    made_up = run.model_copy(update={"cells": tuple(cells), "drift": ()})
    found = times(of_model("tiny-gqa"), FP32, context, grounds(runs=(made_up,)))
    for figure, true in ((found.prefill, took(context)), (found.decode, step(context))):
        assert figure.basis == "between"
        assert figure.low is not None and figure.high is not None
        assert figure.low * (1 - 1e-9) <= true <= figure.high * (1 + 1e-9)


def test_contexts_far_apart_tell_nothing_of_those_between() -> None:
    run = run_of("long_ctx")
    cells = tuple(cell for cell in run.cells if cell.context_tokens in (1024, LONG))
    sparse = run.model_copy(update={"cells": cells})
    found = times(of_model("tiny-gqa"), FP32, 32768, grounds(runs=(sparse,)))
    assert found.decode.basis == found.prefill.basis == "bound"


def test_one_series_of_one_run_answers_for_both_phases() -> None:
    """Of the run that counts first; a later one that was luckier in one phase has no say."""
    first = run_of("long_ctx")

    def lucky(metric: str) -> Summary:
        cells = [
            cell.model_copy(
                update={
                    "metrics": cell.metrics
                    | {metric: Estimate(value=cell.metrics[metric].value / 10)}
                }
            )
            for cell in first.cells
            if metric in cell.metrics
        ]
        return first.model_copy(update={"run_id": metric, "cells": tuple(cells)})

    runs = (first, lucky("itl_s"), lucky("prefill_s"))
    for order in (runs, runs[::-1]):
        found = times(of_model("tiny-gqa"), FP32, LONG, grounds(runs=order))
        where = f"{order[0].scenario} {order[0].run_id}, gqa on native"
        assert found.prefill.source.startswith(where)
        assert found.decode.source.startswith(where)


def test_a_time_without_an_interval_says_what_was_taken() -> None:
    run = run_of("long_ctx")
    cells = tuple(
        cell.model_copy(update={"metrics": {"itl_s": Estimate(value=1.0)}}) for cell in run.cells
    )
    bare = run.model_copy(update={"cells": cells, "drift": ()})
    found = times(of_model("tiny-gqa"), FP32, LONG, grounds(runs=(bare,))).decode
    assert found.high == pytest.approx(1.1) and "±10% taken" in found.source


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
    errors = Errors(median=0.05, p90=0.12, worst=0.3, cells=9, low=0.9, high=1.3, coverage=0.8)
    group = Group(
        path=CodePath(backend="native", dtype="float32", kv_dtype="float32", mixers=("attention",)),
        speeds=Speeds(call_s=1e-4, linear=0.5, attention=0.25, weights=0.5, cache=0.5),
        measured=Measured(
            models=("tiny-gqa",),
            contexts=(1024, LONG),
            batch_sizes=(1, 1),
            weights_bytes=models_weights,
            call_tokens=(512, 512),
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
    # 80% of a normal distribution lie within 1.2816 deviations, 95% within 1.96.
    widened = 1.959964 / 1.281552
    assert found.high == pytest.approx(found.value * 1.3**widened)
    assert found.low == pytest.approx(found.value * 0.9**widened)
    assert "0.90 to 1.30 on 9 cells held out, their 80% widened to 95%" in found.source
    both = grounds(calibration=calibration(), runs=(run_of("long_ctx"),))
    assert times(of_model("tiny-gqa"), FP32, 16384, both).decode.basis == "measured"


def test_what_takes_longer_than_forecast_is_within_the_interval() -> None:
    """A forecast of 1 that took 2 is 50% off; a tenth more than the forecast would not hold it."""
    signed = [-0.5, *([0.0] * 37), 0.25]
    errors = Errors.of(signed)
    assert errors is not None
    made = calibration()
    group = made.groups[0].model_copy(update={"held_out": {"itl_s": errors}})
    fitted = grounds(calibration=made.model_copy(update={"groups": (group,)}))
    found = times(of_model("tiny-mha"), FP32, 16384, fitted)
    assert (found.decode.low, found.decode.high) == (
        pytest.approx(found.decode.value * 0.8),
        pytest.approx(found.decode.value * 2),
    )
    assert "widened" not in found.decode.source
    assert found.prefill.basis == "bound"  # nothing of it was held out


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


GPUS = {
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100-PCIe",
    "NVIDIA H100 NVL": None,
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb": None,
    "NVIDIA GH200 480GB": None,
    "NVIDIA H200": "H200",
    "NVIDIA H200 NVL": None,
    "NVIDIA B200": "B200",
    "NVIDIA A100-SXM4-80GB": "A100",
    "NVIDIA A100-SXM4-40GB": "A100-40GB",
    "NVIDIA A100 80GB PCIe": None,
    "NVIDIA A100-PCIE-40GB": None,
    "NVIDIA L4": "L4",
    "NVIDIA L40S": "L40S",
    "NVIDIA L40": None,
    "NVIDIA A10": "A10",
    "NVIDIA A10G": None,
    "NVIDIA A40": "A40",
    "Tesla T4": "T4",
    "Tesla V100-SXM2-32GB": "V100",
    "Tesla V100-SXM2-16GB": None,
    "Tesla V100S-PCIE-32GB": None,
    "NVIDIA GeForce RTX 4090": "RTX-4090",
    "NVIDIA GeForce RTX 4090 D": None,
    "NVIDIA GeForce RTX 4090 Laptop GPU": None,
    "NVIDIA GeForce RTX 3090": "RTX-3090",
    "NVIDIA GeForce RTX 3090 Ti": None,
    "AMD Instinct MI300X": "MI300X",
}


@pytest.mark.parametrize(("gpu", "name"), list(GPUS.items()))
def test_a_gpu_is_the_device_that_its_driver_names(gpu: str, name: str | None) -> None:
    found = [one for one in device_names() if is_gpu(device(one), gpu)]
    assert found == ([] if name is None else [name])


def test_only_like_is_set_beside_like() -> None:
    run = run_of("long_ctx")

    def named(*names: str) -> Callable[[Candidate], bool]:
        return lambda candidate: candidate.name in names

    def found(run: Summary) -> list[Evidence]:
        return list(beside([run], named("mamba2"), named("gqa", "mqa"), "itl_s", LONG))

    (one,) = found(run)
    assert one.says == "for"
    assert one.source == f"long_ctx {run.run_id} on 2-core-amd-epyc"

    def changed(**fields: object) -> Summary:
        series = tuple(
            s.model_copy(update=fields) if s.name in ("gqa", "mqa") else s for s in run.series
        )
        return run.model_copy(update={"series": series})

    assert not found(changed(dtype="bfloat16"))
    assert not found(changed(backend="transformers"))
    assert not found(changed(model="llama-3-8b"))


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
        scored = parts(candidate, needs, deployment, (renamed,))
        found[name] = {part.name: part for part in scored}
    assert found["yarn"]["context"].score == 1.0
    assert found["linear"]["context"].score == 0.0
    assert found["linear"]["context"].reason.startswith("measured: +0.223 nats at 12K")
    rate = run.quality.rate("passkey", "yarn", 12288) if run.quality else None
    assert rate is not None
    assert found["yarn"]["recall"].score == rate.share.value
    assert math.isclose(sum(part.share for part in found["yarn"].values()), 1.0)


def test_a_bound_beside_measured_times_is_worth_less() -> None:
    run = run_of("long_ctx")
    candidates = (of_model("tiny-gqa"), of_model("tiny-mha"))
    fields = {"context": "32k", "quality": "any", "weight-dtype": "float32", "weights": "speed=1"}
    needs = make_needs({**fields, "models": "tiny-gqa,tiny-mha"})
    made = Made("now", "0", None, "x")
    mixed = advise(candidates, needs, grounds(runs=(run,)), made)
    by_name = {row.name: row for row in mixed.ranking}
    measured, bound = by_name["tiny-gqa"], by_name["tiny-mha"]
    assert measured.figures.request_s.basis in ("measured", "between")
    assert bound.figures.request_s.basis == "bound" and bound.figures.request_s.high is None
    widths = [row.total.high - row.total.low for row in (bound, measured)]  # type: ignore[operator]
    assert widths[0] > 2 * widths[1]
    assert mixed.take == "tiny-gqa" or not mixed.tie
    assert "not all candidates' times rest on the same" in mixed.basis


def test_series_of_a_run_keep_its_chunks_and_pages() -> None:
    run = run_of("long_ctx")
    candidates = tuple(of_series(series) for series in run.series)
    needs = make_needs({"context": "128k", "quality": "any"})
    decision = advise(candidates, needs, grounds(runs=(run,)), Made("now", "0", None, "x"))
    assert decision.compared == "all series of the runs named that meet the needs"
    held = {row.name: row.figures.cache_bytes for row in decision.ranking}
    assert all(held[name] == measured(name, LONG, "cache_used_bytes") for name in held)
