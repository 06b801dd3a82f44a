"""Cells measured again, in turns with the build that they are compared with.

Turns, because a machine drifts: what changes slowly falls on both builds alike. Every round goes
through the cells once per build, and the builds change their order from round to round (ABBA), so
that neither always comes first. A round has fresh children, so what a process draws by chance
(addresses, pages, the cores it lands on) is drawn anew and shows as scatter between rounds.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from ctxsweep.execute.build import Build, BuildUnavailable
from ctxsweep.execute.executors import Display, LocalExecutor
from ctxsweep.execute.job import Job, failure
from ctxsweep.execute.sweep import Silent, default_memory_bytes
from ctxsweep.expansion import blocks
from ctxsweep.measure.environment import physical_cores
from ctxsweep.records import Cell, Record, Status
from ctxsweep.scenario import Budgets, Procedure, Scenario

LEAST_ROUNDS = 4
"""What fewer rounds say cannot be told from the chance of their children."""
BROKEN = (Status.ERROR, Status.UNSUPPORTED)


@dataclass(frozen=True)
class Settings:
    """How cells are measured: what a scenario says beside its cells."""

    procedure: Procedure
    budgets: Budgets
    device: str
    threads: int
    memory_bytes: int | None

    @classmethod
    def of(cls, scenario: Scenario) -> Self:
        """As ``run_sweep`` measures a scenario here and now."""
        return cls(
            procedure=scenario.procedure,
            budgets=scenario.budgets,
            device=scenario.device,
            threads=scenario.threads or physical_cores(),
            memory_bytes=scenario.budgets.memory_bytes or default_memory_bytes(scenario.device),
        )


@dataclass(frozen=True)
class Round:
    """One record for every cell, in the order asked for; ``base`` is None without a base build."""

    index: int
    base: tuple[Record, ...] | None
    new: tuple[Record, ...]


class Watch(Display, Protocol):
    """Follows the rounds for a person."""

    def turn(self, index: int, build: Build, cells: Sequence[Cell]) -> None:
        """In round ``index`` a child of this build begins with these cells."""


class Unwatched(Silent):
    """Shows nothing."""

    def turn(self, index: int, build: Build, cells: Sequence[Cell]) -> None:
        pass


def measure_again(
    cells: Sequence[Cell],
    settings: Settings,
    base: Build | None,
    new: Build,
    rounds: int,
    log_path: Path,
    watch: Watch | None = None,
    most_s: float | None = None,
) -> Iterator[Round]:
    """Up to ``rounds`` rounds of all ``cells``, each round as it is done.

    A child loads a model once per round and build, and measures the cells of one series in it; of
    a ladder it climbs to the cells asked for only. After ``most_s`` seconds no round is begun, but
    ``LEAST_ROUNDS`` are always had. Without ``base`` only ``new`` is measured.

    Raises ``BuildUnavailable`` if a child of ``base`` fails in the first round by an error or for
    want of support, or ran another commit; failures later, and those for want of memory or time,
    are records. Of ``new`` all failures are records.
    """
    again = _Again(settings, base, new, log_path, watch or Unwatched())
    grouped = tuple(blocks(_together(cells)))
    start = time.monotonic()
    for index in range(rounds if grouped else 0):
        spent_s = time.monotonic() - start
        if most_s is not None and index >= LEAST_ROUNDS and spent_s >= most_s:
            return
        yield again.round(index, grouped, [cell.key for cell in cells])


def _together(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of one series beside each other, in the order in which the series first came."""
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in {cell.key: cell for cell in cells}.values():
        line = cell.series.name, cell.batch_size, cell.role, cell.occurrence
        groups.setdefault(line, []).append(cell)
    return [cell for group in groups.values() for cell in group]


@dataclass(frozen=True)
class _Again:
    settings: Settings
    base: Build | None
    new: Build
    log_path: Path
    watch: Watch

    def round(self, index: int, grouped: Sequence[tuple[Cell, ...]], keys: Sequence[str]) -> Round:
        of_base: dict[str, Record] = {}
        of_new: dict[str, Record] = {}
        turns = [(self.base, of_base)] if self.base else []
        turns = [*turns, (self.new, of_new)]
        for block in grouped:
            for build, found in turns if index % 2 == 0 else reversed(turns):
                self.watch.turn(index, build, block)
                found |= {r.cell.key: r for r in self._measure(index, build, block)}
        return Round(
            index=index,
            base=tuple(of_base[key] for key in keys) if self.base else None,
            new=tuple(of_new[key] for key in keys),
        )

    def _measure(self, index: int, build: Build, block: tuple[Cell, ...]) -> list[Record]:
        decisive = index == 0 and build is self.base
        found: list[Record] = []
        try:
            with closing(self._run(build, block)) as records:
                for record in records:
                    if decisive and record.status in BROKEN:
                        raise BuildUnavailable(f"{build.label} fails: {record.detail}")
                    found.append(_stamped(record, build))
        except BuildUnavailable as problem:
            if decisive:
                raise
            have = {record.cell.key for record in found}
            left = [cell for cell in block if cell.key not in have]
            found += [failure(cell, Status.ERROR, problem.reason) for cell in left]
        return found

    def _run(self, build: Build, block: tuple[Cell, ...]) -> Generator[Record, None, None]:
        settings = self.settings
        job = Job(
            cells=block,
            procedure=settings.procedure,
            budgets=settings.budgets,
            device=settings.device,
            threads=settings.threads,
            memory_bytes=settings.memory_bytes,
            measure_ceilings=False,  # the run that raised the suspicion has them
        )
        return LocalExecutor(self.log_path, build).run(job, self.watch)


def _stamped(record: Record, build: Build) -> Record:
    """With the commit of a tree that is too old to say it. Raises ``BuildUnavailable``."""
    environment = record.environment
    if environment is None or not build.path:
        return record
    if environment.commit not in (None, build.commit):
        raise BuildUnavailable(f"{build.label}: its child ran {environment.commit} instead")
    known = {"commit": build.commit, "dirty": build.dirty}
    return record.model_copy(update={"environment": environment.model_copy(update=known)})
