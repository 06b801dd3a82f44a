"""Sweeps in real processes: every way to fail is a record, and nothing stops the sweep."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sweep_driver import MEMORY_BYTES, scenario_of

from ctxsweep.execute.executors import LocalExecutor
from ctxsweep.execute.job import Job, failure
from ctxsweep.execute.sweep import Display, Outcome, Silent, run_sweep
from ctxsweep.expansion import expand
from ctxsweep.records import Cell, Record, Series, Status
from ctxsweep.scenario import Budgets, Procedure, Scenario, Sentinel
from ctxsweep.store import RunFolder

QUICK = Procedure(max_cell_s=0.2, min_samples=2, warmup_tokens=2)


def new_folder(root: Path, scenario: Scenario) -> RunFolder:
    order = tuple(cell.key for cell in expand(scenario))
    return RunFolder.create(root, "fake", scenario.model_dump(mode="json"), scenario.seed, order)


def sweep(root: Path, scenario: Scenario) -> tuple[Outcome, list[Record], str]:
    with new_folder(root, scenario) as folder:
        executor = LocalExecutor(folder.log_path)
        outcome = run_sweep(
            scenario, expand(scenario), folder, executor, Silent(), measure_ceilings=False
        )
        records = list(folder.records())
        assert folder.manifest.finished_at
        assert sorted(r.cell.key for r in records) == sorted(folder.manifest.order)
        return outcome, records, folder.log_path.read_text()


def statuses(records: list[Record], series: str) -> list[str]:
    chosen = [r for r in records if r.cell.series.name == series]
    return [r.status.value for r in sorted(chosen, key=lambda r: r.cell.context_tokens)]


def faulty(fault: list[Any], **settings: Any) -> Scenario:
    """A series that fails, and one that must not suffer from it."""
    series = {"bad": {"fault": fault}, "good": {}}
    return scenario_of(series, **{"procedure": QUICK, **settings})


@pytest.mark.parametrize(
    ("kind", "expected", "words"),
    [
        ("hang", ["ok", "timeout", "timeout"], "budgets.cell_s = 1.0 s"),
        ("memory_error", ["ok", "oom", "oom"], "MemoryError: refused"),
        ("torch_memory", ["ok", "oom", "oom"], "can't allocate memory"),
        ("allocate", ["ok", "oom", "oom"], "MemoryError"),
        ("grow", ["ok", "oom", "oom"], "MemoryError"),
        ("abort", ["ok", "error", "error"], "SIGABRT"),
        ("kill", ["ok", "error", "error"], "SIGKILL"),
        ("exit", ["ok", "error", "error"], "exit code 3"),
        ("raise", ["ok", "error", "error"], "ValueError: the engine is unwell"),
        ("unsupported", ["ok", "unsupported", "unsupported"], "Install it"),
    ],
)
def test_a_fault_is_a_record_and_the_sweep_goes_on(
    tmp_path: Path, kind: str, expected: list[str], words: str
) -> None:
    budgets = Budgets(cell_s=1.0 if kind == "hang" else 60.0, memory_bytes=MEMORY_BYTES)
    outcome, records, log = sweep(tmp_path, faulty([kind, 2000], budgets=budgets))
    assert statuses(records, "bad") == expected
    assert statuses(records, "good") == ["ok"] * 3
    assert outcome == Outcome(measured=4, failed=2, missing=0)
    assert outcome.exit_code == 1
    failing, larger = [r for r in records if r.status is not Status.OK]
    assert words in failing.detail
    assert "Traceback" in log or kind in ("hang", "abort", "kill", "exit", "unsupported")
    if expected[1] in ("timeout", "oom"):
        assert larger.detail == f"not tried: {expected[1]} already at 2048 tokens"
    if kind in ("abort", "kill"):
        assert "about to fail" in failing.detail


def test_a_crash_that_does_not_come_again_costs_one_cell(tmp_path: Path) -> None:
    options = {"fault": ["abort", 2000], "once": str(tmp_path / "once")}
    _, records, _ = sweep(tmp_path, scenario_of({"bad": options}, procedure=QUICK))
    assert statuses(records, "bad") == ["ok", "error", "ok"]
    assert records[0].engine["pid"] != records[-1].engine["pid"]


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("hang", "timeout", "budgets.load_s = 1.5 s"),
        ("memory_error", "oom", "refused"),
        ("unsupported", "unsupported", "no such kernel here. Install it"),
        ("abort", "error", "SIGABRT"),
        ("raise", "error", "unwell"),
    ],
)
def test_a_fault_in_load_is_the_record_of_all_cells(
    tmp_path: Path, kind: str, status: str, words: str
) -> None:
    budgets = Budgets(load_s=1.5, memory_bytes=MEMORY_BYTES)
    _, records, _ = sweep(tmp_path, faulty([kind, "load"], budgets=budgets))
    assert statuses(records, "bad") == [status] * 3
    assert statuses(records, "good") == ["ok"] * 3
    assert all(words in r.detail for r in records if r.status is not Status.OK)


def test_a_reservation_too_large_for_the_longest_context_leaves_the_others(tmp_path: Path) -> None:
    options = {"fault": ["memory_error", "load"], "load_limit": 3000}
    _, records, _ = sweep(tmp_path, scenario_of({"pool": options}, procedure=QUICK))
    assert statuses(records, "pool") == ["ok", "ok", "oom"]


def test_an_unknown_engine_and_one_that_cannot_be_imported_are_unsupported(tmp_path: Path) -> None:
    lines = tuple(
        Series(name=name, backend=backend, model="m")
        for name, backend in (("typo", "natiev"), ("gone", "no_such_module:Engine"))
    )
    scenario = scenario_of({"good": {}}).model_copy(update={"series": lines})
    _, records, _ = sweep(tmp_path, scenario)
    details = {r.cell.series.name: r.detail for r in records}
    assert "nearest valid: native" in details["typo"]
    assert "cannot be imported" in details["gone"]
    assert {r.status for r in records} == {Status.UNSUPPORTED}


def test_a_slow_cell_is_predicted_from_the_rungs_below(tmp_path: Path) -> None:
    budgets = Budgets(cell_s=1.2, memory_bytes=MEMORY_BYTES)
    patient = QUICK.model_copy(update={"max_cell_s": 3.0})
    scenario = scenario_of({"slow": {"chunk_s": 0.4}}, procedure=patient, budgets=budgets)
    _, records, _ = sweep(tmp_path, scenario)
    assert statuses(records, "slow") == ["ok", "ok", "over_budget"]
    assert records[-1].predicted_s == pytest.approx(1.6, rel=0.2)


def test_time_spent_on_a_series_is_counted_over_its_children(tmp_path: Path) -> None:
    options = {"fault": ["hang", 1], "snapshot": False}
    budgets = Budgets(cell_s=30, series_s=0.8, memory_bytes=MEMORY_BYTES)
    start = time.monotonic()
    _, records, _ = sweep(tmp_path, scenario_of({"bad": options}, procedure=QUICK, budgets=budgets))
    assert statuses(records, "bad") == ["timeout"] * 3
    assert time.monotonic() - start < 30


def test_the_engine_sees_its_threads_and_prints_to_the_log(tmp_path: Path) -> None:
    scenario = scenario_of({"a": {}}, threads=3, procedure=QUICK)
    _, records, log = sweep(tmp_path, scenario)
    assert {r.engine["threads_seen"] for r in records} == {"3"}
    assert {r.environment.threads for r in records if r.environment} == {3}
    assert "this line of the engine goes to the log" in log


def test_an_engine_without_snapshot_is_measured_independently(tmp_path: Path) -> None:
    scenario = scenario_of({"a": {"snapshot": False}, "b": {}}, procedure=QUICK)
    _, records, _ = sweep(tmp_path, scenario)
    how = {r.cell.series.name: r.engine["procedure"] for r in records}
    assert how == {"a": "independent", "b": "ladder"}
    assert all((r.climb_s is None) == (r.cell.series.name == "a") for r in records)


class Recorder:
    """An executor that measures nothing and remembers the order of what it was given."""

    def __init__(self, fail: frozenset[tuple[str, int]] = frozenset()) -> None:
        self.jobs: list[Job] = []
        self.fail = fail

    def run(self, job: Job, display: Display) -> Generator[Record, None, None]:
        self.jobs.append(job)
        for cell in job.cells:
            bad = (cell.series.name, cell.context_tokens) in self.fail
            yield failure(cell, Status.OOM if bad else Status.OK, "")


def test_jobs_run_in_the_order_of_the_plan_with_sentinels_between(tmp_path: Path) -> None:
    scenario = scenario_of({"a": {}, "b": {}, "c": {}}, batch_sizes=(1, 2))
    recorder = Recorder()
    with new_folder(tmp_path, scenario) as folder:
        run_sweep(scenario, expand(scenario), folder, recorder)
        assert [r.cell.key for r in folder.records()] == list(folder.manifest.order)
    roles = [job.cells[0].role for job in recorder.jobs]
    assert roles == ["sentinel", "measure", "measure"] * 3 + ["sentinel"]
    for job in recorder.jobs:
        assert len({(c.series.name, c.batch_size, c.role) for c in job.cells}) == 1
        assert job.measure_ceilings == (job.cells[0].role == "measure")
        assert job.memory_bytes == MEMORY_BYTES and job.threads == 1


def test_abba_alternates_and_what_is_ruled_out_is_not_tried(tmp_path: Path) -> None:
    procedure = Procedure(kind="independent", order="abba")
    scenario = scenario_of({"a": {}, "b": {}}, procedure=procedure)
    recorder = Recorder(fail=frozenset({("b", 2048)}))
    with new_folder(tmp_path, scenario) as folder:
        run_sweep(scenario, expand(scenario), folder, recorder)
        records = list(folder.records())
    tried = [(c.series.name, c.context_tokens) for job in recorder.jobs for c in job.cells]
    assert tried == [("a", 1024), ("b", 1024), ("b", 2048), ("a", 2048), ("a", 4096)]
    assert statuses(records, "b") == ["ok", "oom", "oom"]
    assert records[-1].detail == "not tried: oom already at 2048 tokens"


class Interrupting(Silent):
    """Presses Ctrl-C after some records."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.pids: set[int] = set()

    def record(self, record: Record) -> None:
        self.pids.add(record.engine["pid"])
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: what a shell starts in the background ignores it from birth."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_what_is_measured_and_resume_does_the_rest(tmp_path: Path) -> None:
    scenario = scenario_of({"a": {"chunk_s": 0.01}, "b": {}})
    cells = expand(scenario)
    progress = Interrupting(after=3)
    with new_folder(tmp_path, scenario) as folder:
        executor = LocalExecutor(folder.log_path)
        outcome = run_sweep(scenario, cells, folder, executor, progress, measure_ceilings=False)
        assert outcome.interrupted and outcome.exit_code == 130
        assert outcome.missing == len(cells) - 3
        assert folder.manifest.finished_at is None
        assert not any(Path(f"/proc/{pid}").exists() for pid in progress.pids)
        kept = list(folder.records())
    assert len(kept) == 3
    plain = scenario.model_dump(mode="json")
    with RunFolder.resume(folder.path, plain, scenario.seed) as again:
        executor = LocalExecutor(again.log_path)
        outcome = run_sweep(scenario, cells, again, executor, measure_ceilings=False)
        records = list(again.records())
    assert outcome == Outcome(measured=len(cells), failed=0, missing=0)
    assert records[:3] == kept
    assert Counter(r.cell.key for r in records) == Counter(folder.manifest.order)


class Awake(Silent):
    """Processor and wall time of this process from the first cell to the last record."""

    def __init__(self) -> None:
        self.started: tuple[float, float] | None = None
        self.share = 0.0
        self.wall_s = 0.0

    def begin(self, cell: Cell) -> None:
        self.started = self.started or (time.process_time(), time.monotonic())

    def record(self, record: Record) -> None:
        assert self.started
        cpu, wall = self.started
        self.wall_s = time.monotonic() - wall
        self.share = (time.process_time() - cpu) / self.wall_s


def test_the_parent_sleeps_while_the_child_measures(tmp_path: Path) -> None:
    procedure = Procedure(max_cell_s=3.0, max_noise=1e-6, repeats=1, min_samples=2)
    series = {"a": {"chunk_s": 0.2, "decode_s": 0.05}}
    scenario = scenario_of(series, contexts=(1024, 4096), generate_tokens=40, procedure=procedure)
    awake = Awake()
    with new_folder(tmp_path, scenario) as folder:
        executor = LocalExecutor(folder.log_path)
        run_sweep(scenario, expand(scenario), folder, executor, awake, measure_ceilings=False)
    assert awake.wall_s > 4
    assert awake.share < 0.01


def test_a_native_model_that_cannot_fit_is_out_of_memory(tmp_path: Path) -> None:
    lines = tuple(
        Series(name=name, model=model)
        for name, model in (("big", "llama-3.1-8b"), ("tiny", "tiny-gqa"))
    )
    scenario = Scenario(
        name="fake",
        contexts=(256, 512),
        generate_tokens=4,
        threads=1,
        series=lines,
        procedure=Procedure(max_cell_s=0.5, sentinel=Sentinel(series="tiny", context=256)),
        budgets=Budgets(memory_bytes=1 << 30),
    )
    _, records, _ = sweep(tmp_path, scenario)
    assert statuses(records, "big") == ["oom", "oom"]
    assert set(statuses(records, "tiny")) == {"ok"}
