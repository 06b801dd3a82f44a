"""The search as a function of records: planted limits are found, in as few tries as can be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep.analysis.frontier import FrontierPlan, Search, summarise_frontier
from ctxsweep.analysis.frontier_summary import FrontierLine
from ctxsweep.records import Cell, Record, Sample, Series, Status

Ends = Callable[[int, int], Record]


def scenario(**frontier: Any) -> dict[str, Any]:
    """As a manifest holds it."""
    section = {"within": {"memory": 1 << 30}, **frontier}
    return {
        "series": [{"name": "a"}],
        "batch_sizes": [1],
        "generate_tokens": 8,
        "budgets": {"memory_bytes": None},
        "frontier": section,
    }


def cell(context: int, batch: int = 1, role: str = "frontier", **update: Any) -> Cell:
    values = {
        "scenario": "s",
        "series": Series(name="a", model="m"),
        "context_tokens": context,
        "generate_tokens": 8,
        "batch_size": batch,
        "procedure": "independent",
        "role": role,
    }
    return Cell(**{**values, **update})


def ran(of: Cell, prefill_s: float = 1.0, step_s: float = 0.01) -> Record:
    prefill = Sample(
        phase="prefill", position=0, tokens=of.context_tokens, wall_s=prefill_s, cpu_s=None
    )
    decode = [
        Sample(phase="decode", position=of.context_tokens + i, tokens=1, wall_s=step_s, cpu_s=None)
        for i in range(8)
    ]
    return Record(cell=of, status=Status.OK, samples=(prefill, *decode))


def ended(of: Cell, status: Status, **update: Any) -> Record:
    return Record(cell=of, status=status, detail="why", **update)


def frontier_lines(known: list[Record], whole: dict[str, Any]) -> tuple[FrontierLine, ...]:
    found = summarise_frontier(known, whole)
    assert found is not None
    return found.lines


def hunt(
    plan: FrontierPlan, search: Search, end: Callable[[Cell], Record], known: list[Record]
) -> int:
    """Follow the search to its end; the number of tries."""
    tries = 0
    while (step := plan.bracket(search, known).next_step) is not None:
        context, batch = search.point(step)
        known.append(end(cell(context, batch)))
        tries += 1
    return tries


@given(steps=st.integers(1, 5000), limit=st.integers(0, 5001), step=st.sampled_from([1, 100, 1024]))
@settings(max_examples=300, deadline=None)
def test_a_hidden_limit_is_found_to_the_step_in_log2_tries(
    steps: int, limit: int, step: int
) -> None:
    whole = scenario(context={"up_to": steps * step, "step": step})
    plan = FrontierPlan.of(whole)
    assert plan is not None
    (search,) = plan.searches()

    def end(tried: Cell) -> Record:
        fits = tried.context_tokens <= limit * step
        return ran(tried) if fits else ended(tried, Status.OOM)

    known: list[Record] = []
    tries = hunt(plan, search, end, known)
    assert tries <= search.most_tries == math.ceil(math.log2(steps + 1))
    assert len({record.cell.key for record in known}) == tries
    (line,) = frontier_lines(known, whole)
    assert line.complete and line.tries == tries
    assert (line.passes.value if line.passes else 0) == min(limit, steps) * step
    if limit < steps:
        assert line.fails is not None and line.fails.value == (limit + 1) * step
        assert line.stopped_by == "memory"
    else:
        assert line.fails is None and line.stopped_by is None


@given(limit=st.integers(0, 64), at=st.sampled_from([1024, 8192]))
@settings(max_examples=60, deadline=None)
def test_the_largest_batch_is_found_the_same_way(limit: int, at: int) -> None:
    whole = scenario(batch={"up_to": 64, "at": [1024, 8192]})
    plan = FrontierPlan.of(whole)
    assert plan is not None
    search = next(one for one in plan.searches() if one.at == at)

    def end(tried: Cell) -> Record:
        assert tried.context_tokens == at
        return ran(tried) if tried.batch_size <= limit else ended(tried, Status.OOM)

    known: list[Record] = []
    assert hunt(plan, search, end, known) <= 7
    line = next(one for one in frontier_lines(known, whole) if one.at == at)
    assert (line.passes.value if line.passes else 0) == limit
    assert line.quantity == "batch_size" and line.step == 1


@given(seed=st.randoms(use_true_random=False), cut=st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_noise_around_a_limit_of_time_ends_in_neighbours_and_a_cut_off_search_goes_on(
    seed: Any, cut: int
) -> None:
    """Steps near the limit pass or fail by chance: two neighbours that differ are still found, and
    from any part of the records the search goes the same way."""
    whole = scenario(context={"up_to": 1 << 20, "step": 1024}, within={"decode": 0.02})
    plan = FrontierPlan.of(whole)
    assert plan is not None
    (search,) = plan.searches()
    times: dict[int, float] = {}

    def end(tried: Cell) -> Record:
        n = tried.context_tokens
        times.setdefault(n, 0.02 * (n / 600_000) * seed.uniform(0.8, 1.25))
        return ran(tried, step_s=times[n])

    known: list[Record] = []
    hunt(plan, search, end, known)
    (line,) = frontier_lines(known, whole)
    assert line.passes and line.fails and line.fails.value - line.passes.value == 1024
    assert line.passes.metrics["itl_s"].value <= 0.02 < line.fails.metrics["itl_s"].value
    assert line.stopped_by == "decode"
    again = known[:cut]
    hunt(plan, search, end, again)
    assert [r.cell.key for r in again] == [r.cell.key for r in known]


def test_cells_of_the_sweep_bound_the_search_where_they_ran_under_the_same_limits() -> None:
    whole = scenario(context={"up_to": 16384, "step": 1024}, within={"decode": 0.02})
    plan = FrontierPlan.of(whole)
    assert plan is not None
    (search,) = plan.searches()

    def bounds(record: Record, scenario: dict[str, Any] = whole) -> tuple[int, int]:
        plan = FrontierPlan.of(scenario)
        assert plan is not None
        at = plan.bracket(search, [record])
        return at.low, at.high

    assert bounds(ran(cell(4096, role="measure"))) == (4, 17)
    assert bounds(ran(cell(4096, role="measure"), step_s=0.05)) == (0, 4)
    nothing = (0, 17)
    assert bounds(ended(cell(4096, role="measure"), Status.OOM)) == nothing
    assert bounds(ran(cell(4000, role="measure"))) == nothing
    assert bounds(ran(cell(4096, batch=2, role="measure"))) == nothing
    assert bounds(ran(cell(4096, role="sentinel"))) == nothing
    assert bounds(ran(cell(4096, role="measure", generate_tokens=9))) == nothing
    other = {**whole, "frontier": {**whole["frontier"], "within": {"memory": 1 << 30}}}
    assert bounds(ran(cell(4096, role="measure")), other) == nothing
    known = [ran(cell(4096, role="measure"))]
    tries = hunt(plan, search, lambda tried: ran(tried), known)
    assert frontier_lines(known, whole)[0].tries == tries


@pytest.mark.parametrize("status", [Status.ERROR, Status.UNSUPPORTED])
def test_a_try_that_breaks_ends_the_search_without_a_limit(status: Status) -> None:
    whole = scenario(context={"up_to": 16384, "step": 1024})
    plan = FrontierPlan.of(whole)
    assert plan is not None
    (search,) = plan.searches()
    known: list[Record] = []
    tries = hunt(
        plan,
        search,
        lambda tried: ended(tried, status) if tried.context_tokens > 9000 else ran(tried),
        known,
    )
    (line,) = frontier_lines(known, whole)
    assert tries < search.most_tries and line.complete
    assert line.stopped_by == status.value and line.silent and line.silent.value == 12288
    assert line.silent.outcome.detail == "why" and line.fails is None
    assert line.passes and line.passes.value == 8192


@given(limit=st.integers(0, 64), budget=st.integers(0, 64))
@settings(max_examples=100, deadline=None)
def test_a_spent_budget_bounds_nothing(limit: int, budget: int) -> None:
    """Beyond ``budget`` steps every try is ended by the sweep's time, whatever its memory."""
    whole = scenario(context={"up_to": 64 * 1024, "step": 1024})
    plan = FrontierPlan.of(whole)
    assert plan is not None
    (search,) = plan.searches()

    def end(tried: Cell) -> Record:
        if tried.context_tokens > budget * 1024:
            return ended(tried, Status.TIMEOUT, elapsed_s=60.0)
        fits = tried.context_tokens <= limit * 1024
        return ran(tried) if fits else ended(tried, Status.OOM)

    known: list[Record] = []
    assert hunt(plan, search, end, known) <= search.most_tries
    (line,) = frontier_lines(known, whole)
    assert line.complete
    assert (line.passes.value if line.passes else 0) == min(limit, budget) * 1024
    if budget >= min(limit + 1, 64):
        assert line.silent is None, "the budget was never in the way of the answer"
        return
    assert line.silent and line.silent.value == (budget + 1) * 1024
    assert line.stopped_by == "time" and plan.bracket(search, known).unanswered


def test_a_limit_seen_above_a_silent_try_is_kept() -> None:
    whole = scenario(context={"up_to": 16384, "step": 1024})
    plan = FrontierPlan.of(whole)
    assert plan is not None
    known: list[Record] = []

    def end(tried: Cell) -> Record:
        if tried.context_tokens > 6000:
            return ended(tried, Status.OOM)
        slow = tried.context_tokens > 3000
        return ended(tried, Status.TIMEOUT, elapsed_s=60.0) if slow else ran(tried)

    hunt(plan, plan.searches()[0], end, known)
    (line,) = frontier_lines(known, whole)
    assert line.passes and line.silent and line.fails
    assert (line.passes.value, line.silent.value, line.fails.value) == (2048, 3072, 8192)
    assert line.fails.outcome.reason == "memory" and line.stopped_by == "time"


def test_an_engine_that_never_begins_is_tried_once() -> None:
    whole = scenario(context={"up_to": 65536, "step": 1024})
    plan = FrontierPlan.of(whole)
    assert plan is not None
    known: list[Record] = []
    (search,) = plan.searches()
    assert hunt(plan, search, lambda tried: ended(tried, Status.TIMEOUT), known) == 1
    (line,) = frontier_lines(known, whole)
    assert line.stopped_by == "load" and line.passes is None and line.fails is None


@pytest.mark.parametrize(
    ("up_to", "ends_at", "tries"), [(65536, 1006, 1), (1024, 1006, 1), (512, 512, 1)]
)
def test_positions_that_end_are_the_answer_and_no_try_goes_beyond(
    up_to: int, ends_at: int, tries: int
) -> None:
    """1,024 positions, 8 of them for what is generated and 2 to spare: on no whole step."""
    section = {"context": {"up_to": up_to, "step": 512}, "positions": {"a": 1016}}
    whole = scenario(**section)
    plan = FrontierPlan.of(whole)
    assert plan is not None
    (search,) = plan.searches()
    known: list[Record] = []
    assert hunt(plan, search, lambda tried: ran(tried), known) >= tries
    (line,) = frontier_lines(known, whole)
    assert line.passes and line.passes.value == ends_at == max(r.cell.context_tokens for r in known)
    assert line.fails is None and line.complete and line.up_to == ends_at
    assert line.stopped_by == (None if up_to == 512 else "positions")
    full: list[Record] = []
    hunt(plan, search, lambda tried: ended(tried, Status.OOM), full)
    assert frontier_lines(full, whole)[0].stopped_by == "memory"


def test_a_limit_inside_the_interval_is_said_to_be_close() -> None:
    whole = scenario(context={"up_to": 2048, "step": 1024}, within={"decode": 0.02})

    def steps(of: Cell, *times: float) -> Record:
        record = ran(of)
        first, *rest = record.samples
        timed = [s.model_copy(update={"wall_s": t}) for s, t in zip(rest, times, strict=True)]
        return record.model_copy(update={"samples": (first, *timed)})

    spread = (0.017, 0.018, 0.018, 0.019, 0.019, 0.021, 0.022, 0.023)
    tight = (0.010,) * 8
    for times, close in ((spread, True), (tight, False)):
        (line,) = frontier_lines([steps(cell(1024), *times), ran(cell(2048), step_s=0.1)], whole)
        assert line.passes and line.fails and line.close is close


def test_a_scenario_without_the_section_has_no_answer() -> None:
    assert summarise_frontier([ran(cell(1024))], {"series": [], "frontier": None}) is None
    assert summarise_frontier([ran(cell(1024))], {"series": []}) is None
