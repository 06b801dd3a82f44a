"""The search that really runs cells: planted limits are found, in few tries, and it can resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from sweep_driver import scenario_of

from ctxsweep.analysis.frontier import FrontierPlan, summarise_frontier
from ctxsweep.analysis.frontier_outcome import outcome_of
from ctxsweep.analysis.frontier_summary import FrontierLine, TryOutcome
from ctxsweep.execute.executors import Display, LocalExecutor
from ctxsweep.execute.frontier import probe_job, probes, with_positions
from ctxsweep.execute.job import Job, failure
from ctxsweep.execute.sweep import Outcome, Silent, run_sweep
from ctxsweep.expansion import expand
from ctxsweep.records import Cell, Record, Sample, Series, Status
from ctxsweep.report.frontier import frontier_answer
from ctxsweep.scenario import Budgets, Procedure, Scenario, ScenarioError
from ctxsweep.scenario_frontier import Frontier
from ctxsweep.store import RunFolder

QUICK = Procedure(max_cell_s=0.2, min_samples=2, warmup_tokens=2, repeats=1)
Engine = Callable[[Cell], Record]


def frontier(**section: Any) -> Frontier:
    return Frontier.model_validate({"within": {"memory": 400 << 20}, **section})


def planned(section: Frontier, series: dict[str, Any] | None = None, **more: Any) -> Scenario:
    """The sweep itself is one short cell a series."""
    values = {"contexts": (256,), "procedure": QUICK, "frontier": section, **more}
    return scenario_of(series or {"a": {}}, **values)


def new_folder(root: Path, scenario: Scenario) -> RunFolder:
    order = tuple(cell.key for cell in expand(scenario))
    return RunFolder.create(root, "fake", scenario.model_dump(mode="json"), scenario.seed, order)


class Simulated:
    """An executor that asks a function; after ``patience`` jobs somebody presses Ctrl-C."""

    def __init__(self, engine: Engine, patience: int = 10_000) -> None:
        self.engine = engine
        self.patience = patience
        self.jobs: list[Job] = []

    def run(self, job: Job, display: Display) -> Generator[Record, None, None]:
        if len(self.jobs) == self.patience:
            raise KeyboardInterrupt
        self.jobs.append(job)
        for cell in job.cells:
            yield self.engine(cell)


def took(cell: Cell, step_s: float = 0.001) -> Record:
    prompt = Sample(phase="prefill", position=0, tokens=cell.context_tokens, wall_s=1, cpu_s=None)
    steps = [
        Sample(phase="decode", position=cell.context_tokens + i, tokens=1, wall_s=step_s, cpu_s=0)
        for i in range(8)
    ]
    return Record(cell=cell, status=Status.OK, samples=(prompt, *steps))


def search(root: Path, scenario: Scenario, executor: Any) -> tuple[Outcome, list[Record]]:
    with new_folder(root, scenario) as folder:
        outcome = run_sweep(scenario, expand(scenario), folder, executor, measure_ceilings=False)
        return outcome, list(folder.records())


def lines_of(scenario: Scenario, records: list[Record]) -> tuple[FrontierLine, ...]:
    found = summarise_frontier(records, scenario.model_dump(mode="json"))
    assert found is not None
    return found.lines


@pytest.mark.parametrize("limit", [0, 1, 777, 1024, 5000, 8191, 8192, 100_000])
def test_a_planted_memory_limit_is_found_within_a_step(tmp_path: Path, limit: int) -> None:
    def engine(cell: Cell) -> Record:
        held = cell.context_tokens * cell.batch_size
        return took(cell) if held <= limit else failure(cell, Status.OOM, "refused")

    section = frontier(context={"up_to": 8192, "step": 256}, batch={"up_to": 32, "at": [256]})
    scenario = planned(section, batch_sizes=(2,))
    executor = Simulated(engine)
    outcome, records = search(tmp_path, scenario, executor)
    context, batch = lines_of(scenario, records)
    assert (context.passes.value if context.passes else 0) == min(limit // 2 // 256 * 256, 8192)
    assert (batch.passes.value if batch.passes else 0) == min(limit // 256, 32)
    assert context.complete and context.tries <= 6 and batch.complete and batch.tries <= 6
    assert outcome.tries == len(executor.jobs) - 1
    assert outcome.measured + outcome.failed == 1 and outcome.missing == 0
    assert outcome.exit_code == outcome.failed, "that a try goes over the limit is no failure"


def test_every_try_is_a_job_of_its_own_under_the_limits_of_the_search(tmp_path: Path) -> None:
    within = {"memory": 300 << 20, "prefill": 0.5}
    section = frontier(context={"up_to": 4096, "step": 256}, within=within)
    scenario = planned(section, procedure=QUICK.model_copy(update={"repeats": 3}))
    executor = Simulated(took)
    search(tmp_path, scenario, executor)
    tries = [job for job in executor.jobs if job.cells[0].role == "frontier"]
    assert len(tries) == 4, "a cell of the sweep, too slow by its prefill, is known already"
    for job in tries:
        assert len(job.cells) == 1 and job.memory_bytes == 300 << 20
        assert job.procedure.kind == "independent" and job.procedure.repeats == 3
        assert job.budgets.cell_s == 2.0 and not job.measure_ceilings
    (cell,) = tries[0].cells
    plain = scenario.model_copy(
        update={"frontier": frontier(context={"up_to": 4096}, within={"decode": 1.0})}
    )
    job = probe_job(plain, cell, 123 << 20)
    assert job.memory_bytes == 123 << 20 and job.procedure.repeats == 1
    assert job.budgets.cell_s == plain.budgets.cell_s


def test_a_limit_of_decode_time_is_found_by_its_median(tmp_path: Path) -> None:
    def engine(cell: Cell) -> Record:
        return took(cell, step_s=1e-3 + cell.context_tokens * 1e-6)

    section = frontier(context={"up_to": 65536, "step": 1024}, within={"decode": 0.0205})
    scenario = planned(section)
    _, records = search(tmp_path, scenario, Simulated(engine))
    (line,) = lines_of(scenario, records)
    assert line.stopped_by == "decode" and line.tries <= 7
    assert line.passes and line.passes.value == 19 * 1024
    assert line.passes.metrics["itl_s"].value == pytest.approx(0.020456)


@pytest.mark.parametrize("patience", range(1, 7))
def test_ctrl_c_at_any_try_and_the_search_goes_on_from_its_records(
    tmp_path: Path, patience: int
) -> None:
    def engine(cell: Cell) -> Record:
        fits = cell.context_tokens <= 9000
        return took(cell) if fits else failure(cell, Status.OOM, "refused")

    scenario = planned(frontier(context={"up_to": 16384, "step": 256}))
    _, straight = search(tmp_path / "straight", scenario, Simulated(engine))
    with new_folder(tmp_path, scenario) as folder:
        executor = Simulated(engine, patience)
        outcome = run_sweep(scenario, expand(scenario), folder, executor)
        assert outcome.interrupted and outcome.exit_code == 130
        (line,) = lines_of(scenario, list(folder.records()))
        assert not line.complete
    plain = scenario.model_dump(mode="json")
    with RunFolder.resume(folder.path, plain, scenario.seed) as again:
        outcome = run_sweep(scenario, expand(scenario), again, Simulated(engine))
        records = list(again.records())
    assert not outcome.interrupted and again.manifest.finished_at
    assert [r.cell.key for r in records] == [r.cell.key for r in straight]
    assert max(Counter(r.cell.key for r in records).values()) == 1
    assert list(probes(scenario, records)) == []


def test_an_engine_that_breaks_is_said_to_and_the_others_are_searched(tmp_path: Path) -> None:
    def engine(cell: Cell) -> Record:
        broken = cell.series.name == "a" and cell.role == "frontier"
        return failure(cell, Status.ERROR, "unwell") if broken else took(cell)

    scenario = planned(frontier(context={"up_to": 4096}), {"a": {}, "b": {}})
    outcome, records = search(tmp_path, scenario, Simulated(engine))
    broken, fine = lines_of(scenario, records)
    assert broken.stopped_by == "error" and broken.tries == 1 and broken.silent
    assert fine.fails is None and fine.passes and fine.passes.value == 4096
    assert (outcome.failed, outcome.unanswered, outcome.exit_code) == (0, 1, 1)


class News(Silent):
    """Keeps what it was told of tries."""

    def __init__(self) -> None:
        self.said: list[tuple[int, str]] = []

    def tried(self, record: Record, outcome: TryOutcome) -> None:
        self.said.append((record.cell.context_tokens, outcome.kind))


def test_a_budget_that_is_spent_is_no_limit_of_the_model(tmp_path: Path) -> None:
    def engine(cell: Cell) -> Record:
        spent = cell.context_tokens > 2000
        return failure(cell, Status.TIMEOUT, "no result", 60.0) if spent else took(cell)

    scenario = planned(frontier(context={"up_to": 4096, "step": 1024}))
    news = News()
    with new_folder(tmp_path, scenario) as folder:
        outcome = run_sweep(scenario, expand(scenario), folder, Simulated(engine), news)
        found = summarise_frontier(list(folder.records()), scenario.model_dump(mode="json"))
    assert news.said == [(2048, "says_nothing"), (1024, "passes")]
    assert outcome.unanswered == 1 and outcome.exit_code == 1
    assert found is not None and "a at least 1K (budget spent)." in frontier_answer(found)


def test_a_budget_that_is_spent_beside_the_answer_is_forgiven(tmp_path: Path) -> None:
    def engine(cell: Cell) -> Record:
        if cell.context_tokens > 3000:
            return failure(cell, Status.TIMEOUT, "no result", 60.0)
        return took(cell) if cell.context_tokens < 2000 else failure(cell, Status.OOM, "refused")

    scenario = planned(frontier(context={"up_to": 8192, "step": 1024}))
    outcome, records = search(tmp_path, scenario, Simulated(engine))
    (line,) = lines_of(scenario, records)
    assert line.stopped_by == "memory" and line.passes and line.passes.value == 1024
    assert (outcome.unanswered, outcome.exit_code) == (0, 0)


def test_where_positions_end_the_search_does(tmp_path: Path) -> None:
    series = (Series(name="gpt2", model="gpt2"), Series(name="gqa", model="tiny-gqa"))
    section = frontier(context={"up_to": 8192, "step": 1024}, within={"decode": 1.0})
    plain = planned(section).model_copy(update={"series": series, "generate_tokens": 16})
    scenario = with_positions(plain)
    assert scenario.frontier is not None and scenario.frontier.positions == {"gpt2": 1024}
    assert with_positions(scenario) == scenario
    _, records = search(tmp_path, scenario, Simulated(took))
    gpt2, gqa = lines_of(scenario, records)
    assert gpt2.passes and (gpt2.passes.value, gpt2.stopped_by) == (1006, "positions")
    assert gqa.passes and (gqa.passes.value, gqa.stopped_by) == (8192, None)


def test_the_longest_of_a_model_with_learned_positions_really_runs(tmp_path: Path) -> None:
    model = {"like": "tiny-gpt", "num_layers": 1, "max_positions": 300}
    section = frontier(context={"up_to": 1024, "step": 256}, within={"decode": 10.0})
    scenario = planned(section, contexts=(64,), generate_tokens=2).model_copy(
        update={"series": (Series(name="learned", model=model),)}
    )
    executor = LocalExecutor(tmp_path / "log.txt")
    outcome, records = search(tmp_path, with_positions(scenario), executor)
    (line,) = lines_of(with_positions(scenario), records)
    assert line.passes and (line.passes.value, line.stopped_by) == (296, "positions")
    assert outcome.exit_code == 0


def test_memory_of_an_engine_elsewhere_is_refused_as_a_limit() -> None:
    series = (Series(name="server", backend="server", model="m"),)
    section = frontier(context={"up_to": 4096})
    with pytest.raises(ScenarioError, match=r"frontier.within.memory: series 'server' runs on"):
        with_positions(planned(section).model_copy(update={"series": series}))
    timed = frontier(context={"up_to": 4096}, within={"decode": 1.0})
    with_positions(planned(timed).model_copy(update={"series": series}))


def test_the_short_deadline_begins_with_the_cell(tmp_path: Path) -> None:
    """A warm-up that compiles takes longer than any try may."""
    section = frontier(context={"up_to": 2048, "step": 1024}, within={"prefill": 0.3})
    once = str(tmp_path / "compiled")
    slow = QUICK.model_copy(update={"warmup_tokens": 64})
    scenario = planned(section, {"a": {"fault": ["doze", 50], "once": once}}, procedure=slow)
    executor = LocalExecutor(tmp_path / "log.txt")
    cell = next(probes(scenario, []))
    (record,) = executor.run(probe_job(scenario, cell, None), SILENT)
    assert record.status is Status.OK


def test_a_hang_before_the_first_cell_is_no_limit_and_is_tried_once(tmp_path: Path) -> None:
    section = frontier(context={"up_to": 65536, "step": 1024}, within={"prefill": 0.2})
    budgets = Budgets(load_s=4, cell_s=0.5, memory_bytes=400 << 20)
    series = {"a": {"fault": ["hang", 1]}}
    scenario = planned(section, series, budgets=budgets)
    outcome, records = search(tmp_path, scenario, LocalExecutor(tmp_path / "log.txt"))
    (line,) = lines_of(scenario, records)
    assert line.tries == 1 and line.stopped_by == "load" and line.silent
    assert "budgets.load_s = 4.0 s, to warm up" in line.silent.outcome.detail
    assert line.fails is None and outcome.exit_code == 1


def test_a_hang_in_decode_is_not_blamed_on_prefill(tmp_path: Path) -> None:
    section = frontier(context={"up_to": 1024, "step": 1024}, within={"prefill": 0.2})
    quick = QUICK.model_copy(update={"warmup_tokens": 0})
    budgets = Budgets(cell_s=1.0, memory_bytes=400 << 20)
    series = {"a": {"decode_s": 3600}}
    scenario = planned(section, series, procedure=quick, budgets=budgets)
    executor = LocalExecutor(tmp_path / "log.txt")
    _, records = search(tmp_path, scenario, executor)
    tried = [record for record in records if record.cell.role == "frontier"]
    (line,) = lines_of(scenario, records)
    assert line.stopped_by == "time" and tried[-1].reached is not None
    assert tried[-1].reached.prefill_s is not None and tried[-1].reached.prefill_s < 0.2


def test_without_the_section_nothing_is_tried(tmp_path: Path) -> None:
    scenario = scenario_of({"a": {}}, contexts=(256,), procedure=QUICK)
    assert list(probes(scenario, [])) == []
    outcome, _ = search(tmp_path, scenario, Simulated(took))
    assert outcome.tries == 0


@pytest.mark.parametrize(
    ("fault", "within", "reason"),
    [
        (["memory_error", 3000], {"memory": 300 << 20}, "memory"),
        (["allocate", 3000], {"memory": 300 << 20}, "memory"),
        (["hang", 3000], {"prefill": 0.5}, "prefill"),
    ],
)
def test_a_real_child_that_fails_beyond_its_limit(
    tmp_path: Path, fault: list[Any], within: dict[str, Any], reason: str
) -> None:
    section = frontier(context={"up_to": 4096, "step": 512}, within=within)
    scenario = planned(section, {"a": {"fault": fault}})
    _, records = search(tmp_path, scenario, LocalExecutor(tmp_path / "log.txt"))
    (line,) = lines_of(scenario, records)
    assert line.passes and line.passes.value == 2560
    assert line.fails and line.fails.value == 3072
    assert line.stopped_by == reason and line.tries <= line.most_tries == 4


WIDE_CACHE = {
    "like": "tiny-mha",
    "num_layers": 2,
    "attention": {"heads": 32, "kv_heads": 32, "head_dim": 256},
}
"""128 KiB of cache a token: a limit of memory is met at a context that takes no time to read."""


def test_a_native_model_under_a_real_limit_of_memory(tmp_path: Path) -> None:
    """What the search says is within one step of what cells beside it show."""
    step, memory_bytes = 256, 453 << 20  # 32 MiB a step: more than a peak varies by
    section = frontier(context={"up_to": 2048, "step": step}, within={"memory": memory_bytes})
    scenario = Scenario(
        name="fake",
        contexts=(step,),
        generate_tokens=2,
        threads=1,
        series=(Series(name="wide", model=WIDE_CACHE, prefill_chunk=128, page_size=16),),
        procedure=QUICK,
        budgets=Budgets(memory_bytes=memory_bytes),
        frontier=section,
    )
    executor = LocalExecutor(tmp_path / "log.txt")
    _, records = search(tmp_path, scenario, executor)
    (line,) = lines_of(scenario, records)
    assert line.complete and line.stopped_by == "memory" and line.tries <= line.most_tries == 4
    assert line.passes and line.fails and line.fails.value == line.passes.value + step

    def fits(context_tokens: int) -> bool:
        tried = {**records[-1].cell.model_dump(), "context_tokens": context_tokens}
        cell = Cell(**{**tried, "role": "measure"})
        (record,) = executor.run(probe_job(scenario, cell, memory_bytes), SILENT)
        return outcome_of(record, section.within).kind == "passes"

    assert fits(line.passes.value - step) and not fits(line.fails.value + step)


class _Silent:
    def begin(self, cell: Cell) -> None:
        pass

    def tick(self, position: int, last_decode_s: float | None) -> None:
        pass


SILENT = _Silent()


def test_the_plan_is_read_from_a_manifest_as_from_the_scenario() -> None:
    scenario = planned(frontier(context={"up_to": 4096}, batch={"up_to": 8, "at": [1024, 2048]}))
    plan = FrontierPlan.of(scenario.model_dump(mode="json"))
    assert plan is not None
    assert [(s.quantity, s.at) for s in plan.searches()] == [
        ("context_tokens", 1),
        ("batch_size", 1024),
        ("batch_size", 2048),
    ]
    assert plan.most_tries == 3 + 4 + 4
