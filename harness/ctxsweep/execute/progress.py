"""The sweep's progress in a terminal, drawn when something is told and never by itself."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ctxsweep.analysis.frontier_summary import TryOutcome
from ctxsweep.records import Cell, Record, Status


class RichProgress:
    """One line: cells done, series, context, where it is, last decode step, time left."""

    def __init__(self, console: Console | None = None) -> None:
        # auto_refresh would wake a thread ten times a second beside the measurement.
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            auto_refresh=False,
        )
        self._task: TaskID | None = None
        self._first_s = time.monotonic()
        self._done_before = 0
        self._cell: Cell | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def start(self, total: int, done: int) -> None:
        self._first_s, self._done_before = time.monotonic(), done
        self._task = self._bar.add_task("starting", total=total, completed=done, note="")
        self._bar.refresh()

    def begin(self, cell: Cell) -> None:
        self._cell = cell
        self._show(description=label(cell), note=self._left())

    def tick(self, position: int, last_decode_s: float | None) -> None:
        step = "" if last_decode_s is None else f" · {last_decode_s * 1e3:.1f} ms/token"
        self._show(note=f"at {position}{step} {self._left()}")

    def record(self, record: Record) -> None:
        if record.status is not Status.OK:
            reason = record.detail.splitlines()[0] if record.detail else ""
            text = f"{label(record.cell)}: {record.status} ({reason})"
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._show(advance=1)

    def tried(self, record: Record, outcome: TryOutcome) -> None:
        if outcome.kind == "over" and record.status is not Status.OK:
            self._show(advance=1)  # that is what a try is for, and no news
        else:
            self.record(record)

    def _show(self, **update: object) -> None:
        if self._task is not None:
            self._bar.update(self._task, refresh=True, **update)  # type: ignore[arg-type]

    def _left(self) -> str:
        """Time left if cells go on as fast as they did; contexts differ, so only a hint."""
        if self._task is None:
            return ""
        task = self._bar.tasks[0]
        new = task.completed - self._done_before
        if new < 1 or task.total is None:
            return ""
        left_s = (time.monotonic() - self._first_s) / new * (task.total - task.completed)
        return (
            f"· about {left_s / 60:.0f} min left" if left_s > 90 else f"· about {left_s:.0f} s left"
        )


def label(cell: Cell) -> str:
    """As people of the field write it: series, prompt and generated tokens, batch."""
    batch = f" × {cell.batch_size}" if cell.batch_size > 1 else ""
    sentinel = f" (sentinel {cell.occurrence})" if cell.role == "sentinel" else ""
    role = " (frontier)" if cell.role == "frontier" else sentinel
    return f"{cell.series.name} tg{cell.generate_tokens} @ d{cell.context_tokens}{batch}{role}"
