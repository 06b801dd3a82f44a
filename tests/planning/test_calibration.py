"""Speeds fitted to made-up machines whose true speeds are known, and to a real run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctxsweep.analysis.predicted import PREDICTED, Errors, PredictedMetric
from ctxsweep.models.catalog import load_config
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.calibration.calibration import Calibration, ProcessMemory
from ctxsweep.planning.calibration.fit import (
    alternating,
    by_path,
    calibrate,
    fit_group,
    robust_nnls,
    shorter_half,
)
from ctxsweep.planning.calibration.observed import Observed, Run, observe
from ctxsweep.planning.calibration.speeds import (
    BadCalibration,
    Speeds,
    added_demand,
    columns,
    demand_of,
    held_bytes,
)
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import this_machine
from ctxsweep.planning.roofline import decode_bound, prefill_bound
from ctxsweep.records import Ceilings, Record
from ctxsweep.store import RunFolder

BASELINES = Path(__file__).parents[2] / "results" / "baselines" / "2-core-amd-epyc"
SCENARIOS = Path(__file__).parents[2] / "scenarios"
CEILINGS = Ceilings(
    device="cpu", threads=2, matmul_flops_per_s={"float32": 2e11}, read_bytes_per_s=4e10
)
CONTEXTS = [1024 << i for i in range(8)]
SERIES = {"gqa": "tiny-gqa", "mqa": "tiny-mqa", "mamba2": "tiny-mamba2", "moe": "tiny-moe"}
TRUE = Speeds(call_s=3e-4, linear=0.4, attention=0.6, weights=0.8, cache=0.3)
MEMORY = ProcessMemory(base_bytes=2.8e8, bytes_per_token=30.0)
FLOAT32 = Deployment(weight_dtype="float32", prefill_chunk=512, page_size=256)
Noise = Callable[[], float]


def exact() -> float:
    return 1.0


def planted(name: str, model: str, context: int, noise: Noise = exact, begins: int = 0) -> Observed:
    """A rung as a machine of the speeds ``TRUE`` would have measured it."""
    config = load_config(model) if isinstance(model, str) else model
    values: dict[PredictedMetric, float] = {
        "held_bytes": held_bytes(config, FLOAT32, context),
        "process_peak_bytes": held_bytes(config, FLOAT32, context)
        + MEMORY.base_bytes
        + MEMORY.bytes_per_token * context,
    }
    times: tuple[PredictedMetric, ...] = ("itl_s", "prefill_s")
    for metric in times:
        asked = demand_of(metric, config, FLOAT32, context)
        values[metric] = TRUE.seconds(columns(config, FLOAT32, asked, CEILINGS)) * noise()
    asked = added_demand(config, FLOAT32, begins, context)
    added_s = TRUE.seconds(columns(config, FLOAT32, asked, CEILINGS)) * noise()
    rung = {"rung": True, "begins_tokens": begins, "added_s": added_s}
    return Observed(name, "native", config, FLOAT32, context, values, **rung)  # type: ignore[arg-type]


def planted_run(noise: Noise = exact, ceilings: Ceilings | None = CEILINGS) -> Run:
    begins = [0, *CONTEXTS]
    cells = [
        planted(*series, n, noise, before)
        for series in SERIES.items()
        for before, n in zip(begins, CONTEXTS, strict=False)
    ]
    return Run("planted", tuple(cells), ceilings)


def made(run: Run, hold_out: bool = True) -> Calibration:
    return calibrate([run], "box", "2026-01-01T00:00:00Z", None, hold_out=hold_out)


def test_without_noise_every_cell_is_predicted() -> None:
    found = made(planted_run())
    assert set(found.held_out) == set(found.longer) == set(PREDICTED)
    assert all(errors.worst < 0.02 for errors in (*found.held_out.values(), *found.longer.values()))
    assert found.held_out["itl_s"].cells == len(SERIES) * len(CONTEXTS)
    assert found.longer["itl_s"].cells == len(SERIES) * len(CONTEXTS) // 2
    assert found.whole_prefill is not None and found.whole_prefill.worst < 0.02


def slowed(record: Record) -> Record:
    """The same with every chunk from 2K to 4K ten times slower, whichever climb it is of."""
    samples = tuple(
        s.model_copy(update={"wall_s": s.wall_s * 10})
        if s.phase == "prefill" and 2048 <= s.position < 4096
        else s
        for s in record.samples
    )
    return record.model_copy(update={"samples": samples})


def test_a_rung_that_is_held_out_is_not_seen_through_a_longer_one() -> None:
    """All longer rungs climbed through 4K; a fit that holds 4K out must not notice."""
    records = list(RunFolder.open(BASELINES / "long_ctx").records())
    groups = []
    for told in (records, map(slowed, records)):
        run = observe("one", told)
        assert run.ceilings is not None
        path, rows = next(iter(by_path(run.cells, run.ceilings).items()))
        seen = [row for row in rows if row.context_tokens != 4096]
        groups.append((fit_group(path, seen, run.ceilings), rows))
    (plain, quiet), (same, disturbed) = groups
    assert same.speeds == plain.speeds
    added = [{row.context_tokens: row.added_s for row in rows} for rows in (quiet, disturbed)]
    assert added[1][4096] == pytest.approx(10 * (added[0][4096] or 0))
    assert added[1][8192] == added[0][8192]


def test_what_rungs_add_is_the_whole() -> None:
    config = load_config("tiny-hybrid")
    asked = [
        added_demand(config, FLOAT32, before, n)
        for before, n in zip([0, *CONTEXTS], CONTEXTS, strict=False)
    ]
    whole = demand_of("prefill_s", config, FLOAT32, CONTEXTS[-1])
    for name in ("calls", "tokens", "linear_flops", "attention_flops", "weight_bytes"):
        assert sum(getattr(one, name) for one in asked) == pytest.approx(getattr(whole, name))


def test_the_peak_of_a_process_is_judged_on_longer_contexts_alone() -> None:
    found = made(planted_run())
    cells = len(SERIES) * len(CONTEXTS)
    assert found.held_out["process_peak_bytes"].cells == cells // 2
    apart = planted_run()
    apart = replace(apart, cells=tuple(replace(c, rung=False) for c in apart.cells))
    assert made(apart).held_out["process_peak_bytes"].cells == cells


def test_what_cells_of_one_size_do_not_tell_apart_is_named() -> None:
    found = made(planted_run())
    moe, attention = (found.group(load_config(name), FLOAT32) for name in ("tiny-moe", "tiny-gqa"))
    assert moe is not None and attention is not None
    assert "weights" in moe.untold and moe.speeds.weights > 0.99
    assert moe.speeds.call_s > TRUE.call_s
    assert not {"linear", "attention", "cache"} & set(attention.untold)


def sizes_of(scenario: str = "calibration") -> list[tuple[str, ModelConfig]]:
    """Every series of the scenario that is there to tell sizes apart."""
    fields = yaml.safe_load((SCENARIOS / f"{scenario}.yaml").read_text(encoding="utf-8"))
    return [(name, load_config(one["model"])) for name, one in fields["series"].items()]


def test_sizes_of_the_calibration_scenario_tell_calls_from_bytes() -> None:
    """Each size is predicted by a fit of the others, and no share is left at the ceiling."""
    cells = tuple(
        planted(name, config, n, begins=before)
        for name, config in sizes_of()
        for before, n in ((0, 512), (512, 1024), (1024, 2048), (2048, 4096))
    )
    found = made(Run("sizes", cells, CEILINGS))
    assert len(found.groups) == 5
    assert found.sizes["itl_s"].cells == found.sizes["prefill_s"].cells == len(cells)
    assert found.sizes["itl_s"].worst < 0.05 and found.sizes["prefill_s"].worst < 0.05
    for group in found.groups:
        assert "weights" not in group.untold, group.path.kind
        assert group.speeds.weights == pytest.approx(TRUE.weights, rel=0.05)
        assert group.speeds.call_s == pytest.approx(TRUE.call_s, rel=0.05)
    assert not made(planted_run()).sizes  # gqa and mqa are of one size


def test_what_cells_tell_apart_is_found_as_it_was_planted() -> None:
    found = made(planted_run()).group(load_config("tiny-gqa"), FLOAT32)
    assert found is not None and found.memory is not None
    assert found.measured.models == ("tiny-gqa", "tiny-mqa")
    assert found.speeds.linear == pytest.approx(TRUE.linear, rel=0.02)
    assert found.speeds.attention == pytest.approx(TRUE.attention, rel=0.02)
    assert found.speeds.cache == pytest.approx(TRUE.cache, rel=0.02)
    assert found.memory.base_bytes == pytest.approx(MEMORY.base_bytes, rel=1e-3)
    assert found.memory.bytes_per_token == pytest.approx(MEMORY.bytes_per_token, rel=1e-2)


def test_noise_of_a_tenth_stays_a_tenth() -> None:
    rng = np.random.default_rng(1)
    found = made(planted_run(lambda: float(np.exp(rng.normal(0, 0.1)))))
    assert 0.03 < found.held_out["itl_s"].median < 0.12
    assert 0.03 < found.held_out["prefill_s"].median < 0.12


def test_one_disturbed_cell_does_not_move_the_others() -> None:
    run = planted_run()
    cells = list(run.cells)
    slow = cells[3]
    cells[3] = replace(slow, values=slow.values | {"itl_s": slow.values["itl_s"] * 8})
    found = made(replace(run, cells=tuple(cells)))
    assert found.held_out["itl_s"].median < 0.03
    assert found.held_out["itl_s"].worst == pytest.approx(7 / 8, abs=0.05)


def test_groups_are_those_that_share_code() -> None:
    paths = {path.kind for path in by_path(planted_run().cells, CEILINGS)}
    assert paths == {"attention", "mamba2", "attention, experts"}
    fp8 = FLOAT32.model_copy(update={"kv_dtype": "fp8_e4m3"})
    cells = [replace(planted("gqa", "tiny-gqa", n), deployment=fp8) for n in CONTEXTS]
    assert [path.kind for path in by_path(cells, CEILINGS)] == ["attention, fp8_e4m3 cache"]


def test_what_was_not_measured_has_no_answer() -> None:
    found, gqa = made(planted_run(), hold_out=False), load_config("tiny-gqa")
    assert found.predict("itl_s", gqa, FLOAT32, 4096) is not None
    assert found.predict("itl_s", load_config("tiny-rwkv7"), FLOAT32, 4096) is None
    assert found.predict("itl_s", gqa, FLOAT32, 4096, backend="vllm") is None
    for update in ({"weight_dtype": "int8"}, {"weight_dtype": "bfloat16"}, {"tensor_parallel": 2}):
        assert found.predict("prefill_s", gqa, FLOAT32.model_copy(update=update), 4096) is None
    assert found.residual("itl_s") is None
    assert made(planted_run()).residual("itl_s") == pytest.approx(0, abs=0.02)


def test_beyond_names_what_was_not_spanned() -> None:
    found, gqa = made(planted_run(), hold_out=False), load_config("tiny-gqa")
    assert found.beyond(gqa, FLOAT32, 128 << 10) == ()
    assert found.beyond(gqa, FLOAT32, 1 << 20) == ("context 1,048,576: 1,024 to 131,072 measured",)
    large, batch = load_config("llama-3.1-8b"), FLOAT32.model_copy(update={"batch_size": 64})
    assert "bytes of weights" in found.beyond(large, FLOAT32, 4096)[0]
    assert found.beyond(gqa, batch, 4096) == ("batch 64: 1 measured",)
    assert found.beyond(load_config("tiny-rwkv7"), FLOAT32, 4096)


def test_beyond_looks_at_the_calls_of_a_prefill() -> None:
    found, gqa = made(planted_run(), hold_out=False), load_config("tiny-gqa")
    for chunk, within in ((2048, True), (128, True), (4096, False), (64, False)):
        calls = FLOAT32.model_copy(update={"prefill_chunk": chunk})
        assert (found.beyond(gqa, calls, 8192, metric="prefill_s") == ()) is within
        assert found.beyond(gqa, calls, 8192, metric="itl_s") == ()
    assert found.beyond(gqa, calls, 8192) == ("tokens of a prefill call 64: 512 measured",)


@settings(deadline=None)  # the first example loads the catalogue
@example(noise=[1.0] * 24, model="tiny-gqa", context=519, batch=1)  # a last call of 7 tokens
@given(
    noise=st.lists(st.floats(0.01, 100), min_size=24, max_size=24),
    model=st.sampled_from(sorted(SERIES.values())),
    context=st.integers(1, 1 << 20),
    batch=st.integers(1, 256),
)
def test_no_prediction_beats_the_bound(
    noise: list[float], model: str, context: int, batch: int
) -> None:
    factors = iter(noise)
    rows = [planted("one", model, n, lambda: next(factors)) for n in CONTEXTS]
    ((path, found),) = by_path(rows, CEILINGS).items()
    group = fit_group(path, found, CEILINGS)
    config = load_config(model)
    update = {"batch_size": batch, "prefill_chunk": 512 * batch}
    deployment, device = FLOAT32.model_copy(update=update), this_machine(CEILINGS, 1 << 40)
    step = group.predict("itl_s", config, deployment, context, CEILINGS)
    whole = group.predict("prefill_s", config, deployment, context, CEILINGS)
    assert step is not None and whole is not None
    assert step >= decode_bound(config, deployment, device, context).seconds * (1 - 1e-9)
    if batch == 1:  # of several the bound orders the calls another way
        assert whole >= prefill_bound(config, deployment, device, context).seconds * (1 - 1e-6)


@given(st.sets(st.integers(1, 1 << 20), min_size=4, max_size=12))
def test_no_context_is_fitted_to_and_predicted(contexts: set[int]) -> None:
    ordered = sorted(contexts)
    for split in (alternating, shorter_half):
        for seen, left in split(ordered):
            assert seen and left and not seen & left and seen | left == contexts
    ((seen, left),) = shorter_half(ordered)
    assert max(seen) < min(left)
    assert set.union(*(left for _, left in alternating(ordered))) == contexts


def test_factors_are_never_negative() -> None:
    parts = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 4.0]])
    assert robust_nnls(parts, np.array([3.0, 2.0, 0.5]), np.zeros(2)).min() >= 0


def test_runs_that_cannot_be_fitted_say_why() -> None:
    with pytest.raises(BadCalibration, match="no ceilings were measured"):
        made(replace(planted_run(ceilings=None), problem="no ceilings were measured"))
    with pytest.raises(BadCalibration, match="no series was measured at 2 contexts"):
        made(replace(planted_run(), cells=planted_run().cells[:1]))
    one = CEILINGS.model_copy(update={"threads": 1})
    with pytest.raises(BadCalibration, match="cpu with 1 threads, cpu with 2 threads"):
        calibrate([planted_run(), planted_run(ceilings=one)], "box", "", None)


def test_errors_of_nothing_are_none() -> None:
    assert Errors.of([]) is None
    two = Errors.of([-0.5, 0.25])
    assert two is not None and (two.median, two.worst, two.cells) == (0.375, 0.5, 2)
    assert (two.low, two.high) == (0.8, 2.0)
    assert two.coverage == pytest.approx(1 / 3)


def test_the_ratios_of_measured_to_predicted_cover_what_they_say() -> None:
    rng = np.random.default_rng(3)
    for count, least in ((8, 7 / 9), (16, 15 / 17), (39, 0.95), (200, 0.95)):
        inside = []
        for _ in range(400):
            ratios = np.exp(rng.normal(0.2, 0.5, count + 1))
            errors = Errors.of(1 / ratios[:-1] - 1)
            assert errors is not None and errors.coverage == pytest.approx(least, abs=0.01)
            inside.append(errors.low <= ratios[-1] <= errors.high)
        assert np.mean(inside) == pytest.approx(least, abs=0.06)


def test_a_real_run_is_predicted_within_the_goals() -> None:
    """Of a run of nine architectures and of vLLM (docs/planning.md)."""
    folder = RunFolder.open(BASELINES / "long_ctx")
    found = made(observe(folder.manifest.run_id, folder.records()))
    assert found.held_out["itl_s"].median <= 0.15
    assert found.held_out["prefill_s"].median <= 0.20
    assert found.held_out["process_peak_bytes"].median <= 0.02
    assert found.whole_prefill is not None and found.whole_prefill.median <= 0.20
    assert found.held_out["held_bytes"].worst == 0
    assert found.held_out["prefill_s"].cells == 80
    assert found.held_out["itl_s"].cells == 80
