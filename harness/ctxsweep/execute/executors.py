"""Where jobs run. One small interface: a job in, its records out as they come.

``LocalExecutor`` runs one child process at a time on this machine. The parent waits in ``poll``
and takes no part of the processor while the child measures.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

from ctxsweep.execute.build import Build
from ctxsweep.execute.child import Child
from ctxsweep.execute.following import Follower
from ctxsweep.execute.job import (
    Begin,
    Failed,
    Job,
    Loaded,
    Measured,
    Tick,
    failure,
    not_tried,
    rules_out,
)
from ctxsweep.records import Cell, Reached, Record, Status

MAX_FAILURES_IN_A_ROW = 2
CLOSE_S = 5.0


class Display(Protocol):
    """Told what happens, for the eyes of a person."""

    def begin(self, cell: Cell) -> None:
        """Work towards a cell begins."""

    def tick(self, position: int, last_decode_s: float | None) -> None:
        """Where the work is."""


class Executor(Protocol):
    """Runs a job somewhere. Nothing may assume that this is the same machine."""

    def run(self, job: Job, display: Display) -> Generator[Record, None, None]:
        """Exactly one record for every cell of the job, each as soon as it is known."""


class LocalExecutor:
    """One child process at a time on this machine, its stderr in the run's log.

    A cell at which a child fails gets that as its record; larger contexts too if it lacked memory
    or time; a fresh child does the rest, until ``MAX_FAILURES_IN_A_ROW`` have measured nothing.
    ``build``: the source tree that children run; default: this installation's. A run with another
    raises ``BuildUnavailable`` if that cannot measure the job.
    """

    def __init__(self, log_path: Path, build: Build | None = None) -> None:
        self._log_path = log_path
        self._build = build

    def run(self, job: Job, display: Display) -> Generator[Record, None, None]:
        left = {cell.key: cell for cell in job.cells}
        series_s = job.budgets.series_s
        failures = 0
        while left:
            budgets = job.budgets.model_copy(update={"series_s": series_s})
            update = {"cells": tuple(left.values()), "budgets": budgets}
            rest = job.model_copy(update=update)
            attempt = _Attempt(rest, self._log_path, display, self._build)
            failures += 1
            for record in attempt.records():
                if left.pop(record.cell.key, None) is not None:
                    failures = 0
                    yield record
            series_s -= attempt.measured_s
            yield from self._settle(attempt, left)
            if failures >= MAX_FAILURES_IN_A_ROW or series_s <= 0:
                yield from self._give_up(attempt.failed, left, series_s)

    def _settle(self, attempt: _Attempt, left: dict[str, Cell]) -> Iterator[Record]:
        """Records of the cells that this attempt decides; those in ``left`` need another."""
        failed = attempt.failed
        if not left:
            return
        if failed.key in left:
            cell = left.pop(failed.key)
            record = failure(cell, failed.status, failed.detail, attempt.cell_s)
            record = record.model_copy(update={"reached": attempt.reached})
            yield record
            for other in [c for c in left.values() if rules_out(record, c)]:
                yield not_tried(record, left.pop(other.key))
        elif not attempt.died:
            for key in list(left):
                yield failure(left.pop(key), failed.status, failed.detail)

    def _give_up(self, failed: Failed, left: dict[str, Cell], series_s: float) -> Iterator[Record]:
        status, why = Status.TIMEOUT, "budgets.series_s is spent"
        if series_s > 0:
            status = failed.status
            why = f"{MAX_FAILURES_IN_A_ROW} children in a row failed, the last: {failed.detail}"
        for key in list(left):
            yield failure(left.pop(key), status, f"not tried: {why}")


class _Attempt:
    """One child from start to end, held to its deadlines."""

    def __init__(self, job: Job, log_path: Path, display: Display, build: Build | None) -> None:
        self._job = job
        self._build = build
        self._log_path = log_path
        self._display = display
        self._cells = {cell.key: cell for cell in job.cells}
        self._key: str | None = None
        self._loaded_at: float | None = None
        self._begun_at = time.monotonic()
        self._follower: Follower | None = None
        self.died = False
        self.reached: Reached | None = None
        """At a timeout, of the cell that was begun."""
        self.failed = Failed(status=Status.ERROR, detail="not measured", key=None)

    @property
    def measured_s(self) -> float:
        """Time since the model was loaded."""
        return 0.0 if self._loaded_at is None else time.monotonic() - self._loaded_at

    @property
    def cell_s(self) -> float:
        """Time since the present cell was begun."""
        return time.monotonic() - self._begun_at

    def records(self) -> Iterator[Record]:
        """Records as they come; ``failed`` says afterwards what became of cells without one."""
        waiting = set(self._cells)
        child = Child(self._job, self._log_path, self._build)
        try:
            while waiting:
                message = child.receive(self._deadline()[0])
                if isinstance(message, Measured):
                    self._key = None
                    self._begun_at = time.monotonic()
                    waiting.discard(message.record.cell.key)
                    yield message.record
                elif isinstance(message, Failed):
                    self.failed = message
                    return
                elif message is None:
                    self.died = True
                    status, detail = child.death(self._job.memory_bytes)
                    self.failed = Failed(status=status, detail=detail, key=self._key)
                    return
                else:
                    self._follow(message)
            child.wait_for_end(CLOSE_S)
        except TimeoutError:
            detail = f"no result within {self._deadline()[1]}"
            self.failed = Failed(status=Status.TIMEOUT, detail=detail, key=self._key)
            if self._follower is not None:
                self.reached = self._follower.reached(time.monotonic())
        finally:
            child.end()

    def _deadline(self) -> tuple[float, str]:
        """When the child has had its time, and which budget says so.

        Decode stops by itself after ``max_cell_s``, which the budgets do not count. Until a cell is
        begun the engine warms up, and may compile: that has the longer of the two budgets.
        """
        budgets, decode_s = self._job.budgets, self._job.procedure.max_cell_s
        if self._loaded_at is None:
            return self._begun_at + budgets.load_s, f"budgets.load_s = {budgets.load_s} s"
        cell_s, budget = budgets.cell_s, f"budgets.cell_s = {budgets.cell_s} s"
        if self._follower is None and budgets.load_s > cell_s:
            cell_s, budget = budgets.load_s, f"budgets.load_s = {budgets.load_s} s, to warm up"
        return min(
            (self._begun_at + cell_s + decode_s, budget),
            (self._loaded_at + budgets.series_s + decode_s, "what is left of budgets.series_s"),
        )

    def _follow(self, message: Loaded | Begin | Tick) -> None:
        if isinstance(message, Loaded):
            self._loaded_at = self._begun_at = time.monotonic()
        elif isinstance(message, Begin):
            self._key = message.key
            self._begun_at = time.monotonic()
            cell = self._cells[message.key]
            self._follower = Follower(cell.context_tokens, self._begun_at)
            self._display.begin(cell)
        else:
            if self._follower is not None:
                self._follower.tick(message.position, message.last_decode_s, time.monotonic())
            self._display.tick(message.position, message.last_decode_s)
