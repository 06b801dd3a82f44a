"""The procedures against an engine without a model and a clock without time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_backend import FakeBackend

from ctxsweep.backends.base import Limits
from ctxsweep.execute.prediction import PrefillCurve
from ctxsweep.execute.procedure import PrefixCacheHit, independent, ladder
from ctxsweep.execute.rig import RandomPrompts, Rig, noise
from ctxsweep.measure.clock import Timing
from ctxsweep.measure.memory import MemoryMeter
from ctxsweep.measure.power import NoPowerMeter
from ctxsweep.records import Cell, Record, Sample, Series, Status
from ctxsweep.scenario import Budgets, Procedure

CONTEXTS = (1024, 2048, 4096, 8192, 16384)


class ScriptedClock:
    """Time passes only in calls of the engine: as much as ``cost(what, context before)`` says."""

    def __init__(self, backend: FakeBackend, cost: Callable[[str, int, int], float]) -> None:
        self.backend = backend
        self.cost = cost
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def time(self, call: Callable[[], None], synchronize: Callable[[], None]) -> Timing:
        before = self.backend.context
        call()
        tokens = self.backend.context - before
        kind = self.backend.calls[-1][0]
        taken = self.cost(kind, before, tokens)
        self.seconds += taken
        return Timing(taken, taken)


class Diary:
    """Writes down what the procedure told."""

    def __init__(self) -> None:
        self.begun: list[int] = []

    def begin(self, cell: Cell) -> None:
        self.begun.append(cell.context_tokens)

    def tick(self, position: int, last_decode_s: float | None) -> None:
        pass


def linear(kind: str, before: int, tokens: int) -> float:
    return tokens * 1e-3 if kind == "prefill" else 1e-2


def make(
    cost: Callable[[str, int, int], float] = linear,
    contexts: tuple[int, ...] = CONTEXTS,
    generate_tokens: int = 8,
    series: dict[str, Any] | None = None,
    **procedure: Any,
) -> tuple[Rig, tuple[Cell, ...], FakeBackend]:
    settings = {"repeats": 3, "warmup_tokens": 16, "min_samples": 8, "max_noise": 0.05}
    how = Procedure(**{**settings, **procedure})
    line = Series(name="a", model="m", **(series or {}))
    cells = tuple(
        Cell(
            scenario="s",
            series=line,
            context_tokens=n,
            generate_tokens=generate_tokens,
            batch_size=2,
            procedure=how.kind,
        )
        for n in contexts
    )
    limits = Limits(max(contexts) + generate_tokens, 2, "cpu", 1, 0)
    backend = FakeBackend(line, limits)
    clock = ScriptedClock(backend, cost)
    memory = MemoryMeter(backend, "cpu")
    prompts = RandomPrompts(backend.vocab_size, 2, 0)
    power = NoPowerMeter("a test")
    rig = Rig(backend, line, 2, how, clock, memory, power, prompts, Diary())
    return rig, cells, backend


def climbs_of(record: Record) -> dict[int, list[Sample]]:
    prefill = [s for s in record.samples if s.phase == "prefill"]
    return {
        repeat: list(group) for repeat, group in itertools.groupby(prefill, key=lambda s: s.repeat)
    }


def test_ladder_climbs_once_and_comes_back_to_every_rung() -> None:
    rig, cells, backend = make(extra_climb_share=0, warmup_tokens=0)
    records = list(ladder(rig, cells, Budgets()))
    assert [r.cell for r in records] == list(cells)
    assert all(r.status is Status.OK for r in records)
    kinds = [kind for kind, _ in itertools.groupby(backend.calls, key=lambda call: call[0])]
    assert kinds == ["reset", *["prefill", "snapshot", "decode", "restore"] * len(cells)]
    assert sum(kind == "prefill" for kind, _ in backend.calls) == 16384 // 512
    for record in records:
        decode = [s for s in record.samples if s.phase == "decode"]
        context = record.cell.context_tokens
        assert [s.position for s in decode] == list(range(context, context + 8))
        assert sum(s.tokens for s in record.samples if s.phase == "prefill") == context


def test_short_climbs_stay_within_their_share_and_reach_their_rungs() -> None:
    rig, cells, _ = make(extra_climb_share=0.2)
    records = list(ladder(rig, cells, Budgets()))
    repeats = [len(climbs_of(record)) for record in records]
    assert repeats == [3, 2, 1, 1, 1]
    for record in records:
        for chunks in climbs_of(record).values():
            ends = [s.position + s.tokens for s in chunks]
            assert [s.position for s in chunks] == [0, *ends[:-1]]
            assert ends[-1] == record.cell.context_tokens
    longest = 16384 * 1e-3
    # Beside the longest climb there are the short climbs, and nothing of warm-up or decode.
    assert records[-1].climb_s == pytest.approx(longest + 1.024 + 2.048)
    assert records[-1].climb_s <= longest * 1.2
    assert sum(r.elapsed_s for r in records) == pytest.approx(rig.clock.now())


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("slope", [0.0, 1e-6])
def test_the_cost_of_short_climbs_is_bounded(share: float, slope: float) -> None:
    def cost(kind: str, before: int, tokens: int) -> float:
        return tokens * (1e-3 + slope * before) if kind == "prefill" else 1e-2

    rig, cells, _ = make(cost, extra_climb_share=share, repeats=4)
    records = list(ladder(rig, cells, Budgets()))
    longest = sum(s.wall_s for s in climbs_of(records[-1])[max(climbs_of(records[-1]))])
    assert records[-1].climb_s is not None
    assert longest * 0.999 <= records[-1].climb_s <= longest * (1 + share) * 1.001
    counts = [len(climbs_of(record)) for record in records]
    assert counts == sorted(counts, reverse=True) and max(counts) <= 4


def test_chunks_end_at_rungs_that_are_no_multiple_of_them() -> None:
    rig, cells, _ = make(contexts=(1000, 1500, 9000), extra_climb_share=1)
    records = list(ladder(rig, cells, Budgets()))
    assert len(climbs_of(records[0])) > 1
    for record in records:
        for chunks in climbs_of(record).values():
            assert sum(s.tokens for s in chunks) == record.cell.context_tokens


def test_decode_stops_by_noise_by_time_and_by_count() -> None:
    random = np.random.default_rng(0)

    def noisy(kind: str, before: int, tokens: int) -> float:
        return tokens * 1e-3 if kind == "prefill" else float(random.uniform(1e-3, 1e-1))

    def stops(cost: Callable[[str, int, int], float], **procedure: Any) -> tuple[str | None, int]:
        rig, cells, _ = make(cost, contexts=(1024,), generate_tokens=20, **procedure)
        record = next(ladder(rig, cells, Budgets()))
        return record.stopped_by, sum(s.phase == "decode" for s in record.samples)

    assert stops(linear) == ("noise", 8)
    assert stops(linear, min_samples=13) == ("noise", 13)
    assert stops(noisy, max_noise=0.001, max_cell_s=1e4) == ("count", 60)
    assert stops(linear, min_samples=50, max_cell_s=0.105) == ("time", 11)
    reason, count = stops(noisy, max_noise=0.2, max_cell_s=1e4, repeats=100)
    assert reason == "noise" and 20 < count < 2000


def test_repeated_decode_runs_start_at_the_mark() -> None:
    rig, cells, backend = make(contexts=(1024,), max_noise=1e-9, min_samples=1000)
    record = next(ladder(rig, cells, Budgets()))
    decode = [s for s in record.samples if s.phase == "decode"]
    assert [s.repeat for s in decode] == [0] * 8 + [1] * 8 + [2] * 8
    assert [s.position for s in decode] == [*range(1024, 1032)] * 3
    assert backend.context == 1024


def test_a_rung_that_would_take_too_long_and_all_above_are_over_budget() -> None:
    rig, cells, _ = make(extra_climb_share=0)
    records = list(ladder(rig, cells, Budgets(cell_s=3.0)))
    assert [r.status for r in records] == [Status.OK] * 3 + [Status.OVER_BUDGET] * 2
    assert records[3].predicted_s == pytest.approx(4.096, rel=1e-6)
    assert records[4].predicted_s == pytest.approx(4.096 + 8.192, rel=1e-6)
    assert "budgets.cell_s" in records[3].detail and not records[3].samples


def test_the_time_of_the_series_is_shared_by_its_rungs() -> None:
    rig, cells, _ = make(extra_climb_share=0)
    records = list(ladder(rig, cells, Budgets(cell_s=100.0, series_s=9.0)))
    assert [r.status for r in records] == [Status.OK] * 4 + [Status.OVER_BUDGET]


def test_independent_prefills_every_cell_afresh_in_the_order_given() -> None:
    rig, cells, backend = make(contexts=(4096, 1024, 2048), kind="independent", warmup_tokens=0)
    records = list(independent(rig, cells, Budgets()))
    assert [r.cell.context_tokens for r in records] == [4096, 1024, 2048]
    assert rig.watcher.begun == [4096, 1024, 2048]
    assert not any(kind in ("snapshot", "restore") for kind, _ in backend.calls)
    for record in records:
        assert sorted(climbs_of(record)) == [0, 1, 2]
        assert record.climb_s is None
        repeats = {s.repeat for s in record.samples if s.phase == "decode"}
        assert repeats == {0, 1, 2}


def test_independent_stops_repeating_when_its_time_is_spent() -> None:
    rig, cells, _ = make(contexts=(4096,), kind="independent", repeats=50)
    record = next(independent(rig, cells, Budgets(cell_s=20.0)))
    assert len(climbs_of(record)) == 4


def test_independent_leaves_out_only_what_is_too_long() -> None:
    rig, cells, _ = make(contexts=(4096, 16384, 2048), kind="independent", repeats=1)
    records = list(independent(rig, cells, Budgets(cell_s=10.0)))
    assert [r.status.value for r in records] == ["ok", "over_budget", "ok"]
    assert records[1].predicted_s == pytest.approx(16.384, rel=1e-6)


def test_warm_up_is_recorded_apart_and_once() -> None:
    for kind, procedure in (("ladder", ladder), ("independent", independent)):
        rig, cells, _ = make(kind=kind, warmup_tokens=5)
        records = list(procedure(rig, cells, Budgets()))
        phases = [(s.phase, s.tokens) for s in records[0].warmups]
        assert phases == [("prefill", 5), *[("decode", 1)] * 5]
        assert not any(record.warmups for record in records[1:])


def test_memory_is_a_series_with_first_and_last() -> None:
    rig, cells, _ = make(
        contexts=(1024, 65536), generate_tokens=40, memory_every_tokens=16, min_samples=40
    )
    short, long = ladder(rig, cells, Budgets())
    for record in (short, long):
        context = record.cell.context_tokens
        prefill = [m.position for m in record.memory if m.phase == "prefill"]
        decode = [m.position for m in record.memory if m.phase == "decode"]
        assert prefill[0] == 512 and prefill[-1] == context and len(prefill) <= 64
        assert decode == [context + 16, context + 32, context + 40]
        for reading in record.memory:
            assert reading.cache_used_bytes == reading.position * 2000
            assert reading.process_bytes and reading.process_peak_bytes
            assert reading.process_peak_bytes >= reading.process_bytes // 2


@pytest.mark.parametrize(
    ("chunk", "calls", "samples"), [("whole", 1, 1), (512, 2, 2), ("recurrent", 1024, 16)]
)
def test_prefill_is_cut_as_the_series_says(chunk: Any, calls: int, samples: int) -> None:
    rig, cells, backend = make(
        contexts=(1024,),
        kind="independent",
        repeats=1,
        warmup_tokens=0,
        series={"prefill_chunk": chunk},
    )
    record = next(independent(rig, cells, Budgets()))
    assert sum(kind == "prefill" for kind, _ in backend.calls) == calls
    assert len(climbs_of(record)[0]) == samples


def test_prompts_are_new_for_every_repetition_and_the_same_for_a_seed() -> None:
    prompts = RandomPrompts(1000, 2, seed=7)
    first = prompts.next(64)
    prompts.start(1)
    second = prompts.next(64)
    again = RandomPrompts(1000, 2, seed=7).next(64)
    assert first.shape == (2, 64)
    assert (first == again).all()
    assert (first != second).mean() > 0.9
    assert (first[0] != first[1]).mean() > 0.9


def test_an_answer_from_a_prefix_cache_is_not_a_measurement() -> None:
    rig, cells, _ = make(series={"options": {"cached_tokens": 512}})
    with pytest.raises(PrefixCacheHit, match="cached_tokens = 512"):
        next(ladder(rig, cells, Budgets()))


def test_noise_is_the_half_width_of_the_medians_interval() -> None:
    assert noise([1.0] * 5) == float("inf")
    assert noise([1.0] * 6) == 0.0
    # 95% of such intervals must hold the true median, 1.0 here.
    random = np.random.default_rng(1)
    draws = random.normal(1.0, 0.1, size=(2000, 30))
    medians = np.median(draws, axis=1)
    half = np.array([noise(list(row)) for row in draws]) * medians
    covered = np.abs(medians - 1.0) <= half
    assert 0.9 < covered.mean() < 0.995


def test_prediction_finds_base_and_slope_through_outliers() -> None:
    random = np.random.default_rng(2)
    samples = []
    for i in range(40):
        position = 512 * i
        seconds = 512 * (1e-4 + 2e-9 * (position + 256)) * random.uniform(0.99, 1.01)
        slow = 8 if i % 7 == 3 else 1
        samples.append(
            Sample(phase="prefill", position=position, tokens=512, wall_s=seconds * slow, cpu_s=0.0)
        )
    exact = 1e-4 * 65536 + 1e-9 * 65536**2
    assert PrefillCurve(samples).seconds(0, 65536) == pytest.approx(exact, rel=0.05)
    assert PrefillCurve([]).seconds(0, 65536) == 0.0
    assert PrefillCurve(samples[:1]).seconds(0, 1024) == pytest.approx(2 * samples[0].wall_s)
