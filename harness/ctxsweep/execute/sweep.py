"""A whole sweep: the cells that have no record yet, block by block, into the run's folder.

Where the scenario has a section ``frontier``, its search follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from ctxsweep.analysis.frontier import FrontierPlan
from ctxsweep.analysis.frontier_summary import TryOutcome
from ctxsweep.execute.executors import Display, Executor
from ctxsweep.execute.frontier import plan_of, probe_job, probes
from ctxsweep.execute.job import Job, not_tried, rules_out
from ctxsweep.expansion import blocks
from ctxsweep.measure.environment import available_memory_bytes, physical_cores
from ctxsweep.records import Cell, Record, Status
from ctxsweep.scenario import Scenario
from ctxsweep.store import RunFolder

FREE_SHARE = 0.9
"""Default limit of a child: this part of what is free when the sweep starts."""


class Progress(Display, Protocol):
    """Follows a sweep for a person; see ``progress.RichProgress``."""

    def start(self, total: int, done: int) -> None:
        """``done`` of ``total`` cells have a record already."""

    def record(self, record: Record) -> None:
        """A cell has its record, and it is on disk."""

    def tried(self, record: Record, outcome: TryOutcome) -> None:
        """The same of a try of the search for the frontier, with what it says."""


class Silent:
    """Shows nothing."""

    def start(self, total: int, done: int) -> None:
        pass

    def begin(self, cell: Cell) -> None:
        pass

    def tick(self, position: int, last_decode_s: float | None) -> None:
        pass

    def record(self, record: Record) -> None:
        pass

    def tried(self, record: Record, outcome: TryOutcome) -> None:
        pass


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended. ``tries`` are those of the search for the frontier, ``unanswered`` the
    lines on which it ended without an answer: to go over a limit is what a try is for."""

    measured: int
    failed: int
    missing: int
    interrupted: bool = False
    tries: int = 0
    unanswered: int = 0

    @property
    def exit_code(self) -> int:
        """0 done, 1 finished with failed cells or without an answer, 130 interrupted."""
        return 130 if self.interrupted else int(self.failed + self.unanswered > 0)


def run_sweep(
    scenario: Scenario,
    cells: Sequence[Cell],
    folder: RunFolder,
    executor: Executor,
    progress: Progress | None = None,
    *,
    measure_ceilings: bool = True,
) -> Outcome:
    """Measure every cell that ``folder`` has no record of, in order; a record is on disk at once.

    Failures are records. On Ctrl-C what is measured stays, ``interrupted`` is set, and the same
    call on the resumed folder does the rest. The search for the frontier begins when all cells
    have their records.
    """
    shown: Progress = progress or Silent()
    known = list(folder.records())
    finished = {record.cell.key for record in known}
    memory_bytes = scenario.budgets.memory_bytes or default_memory_bytes(scenario.device)
    plan = plan_of(scenario)
    shown.start(len(cells) + (plan.most_tries if plan else 0), len(finished))
    interrupted = False

    def keep(records: Iterable[Record]) -> None:
        for record in records:
            folder.append(record)
            known.append(record)
            if plan is not None and record.cell.role == "frontier":
                shown.tried(record, plan.outcome(record))
            else:
                shown.record(record)

    try:
        for block in blocks([cell for cell in cells if cell.key not in finished]):
            ruled_out = [_ruled_out(cell, known) for cell in block]
            keep(record for record in ruled_out if record)
            to_measure = tuple(c for c, out in zip(block, ruled_out, strict=True) if not out)
            if not to_measure:
                continue
            job = Job(
                cells=to_measure,
                procedure=scenario.procedure,
                budgets=scenario.budgets,
                device=scenario.device,
                threads=scenario.threads or physical_cores(),
                memory_bytes=memory_bytes,
                measure_ceilings=measure_ceilings and block[0].role == "measure",
            )
            with closing(executor.run(job, shown)) as records:
                keep(records)
        for cell in probes(scenario, known):
            with closing(executor.run(probe_job(scenario, cell, memory_bytes), shown)) as records:
                keep(records)
        if folder.manifest.finished_at is None:
            folder.finish()
    except KeyboardInterrupt:
        interrupted = True
        folder.interrupt()
    return _outcome(known, len(cells), interrupted, plan)


def default_memory_bytes(device: str) -> int | None:
    """What a child may take if the scenario does not say: most of what is free; on a GPU all."""
    return None if device == "cuda" else int(FREE_SHARE * available_memory_bytes())


def _ruled_out(cell: Cell, known: Sequence[Record]) -> Record | None:
    """Not tried, if a record of an earlier block or of the run before says how it would end."""
    because = next((record for record in known if rules_out(record, cell)), None)
    return not_tried(because, cell) if because else None


def _outcome(
    known: Sequence[Record], total: int, interrupted: bool, plan: FrontierPlan | None
) -> Outcome:
    planned = [record for record in known if record.cell.role != "frontier"]
    tries = [record for record in known if record.cell.role == "frontier"]
    failed = sum(record.status is not Status.OK for record in planned)
    return Outcome(
        measured=len(planned) - failed,
        failed=failed,
        missing=total - len(planned),
        interrupted=interrupted,
        tries=len(tries),
        unanswered=sum(plan.bracket(one, known).unanswered for one in plan.searches())
        if plan
        else 0,
    )
