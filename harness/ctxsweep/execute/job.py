"""What passes between the parent and a child: a job in, messages out as lines of JSON."""

from __future__ import annotations

from typing import Literal

from ctxsweep.frozen import Frozen
from ctxsweep.records import Ceilings, Cell, Environment, Record, Status
from ctxsweep.scenario import Budgets, Procedure
from ctxsweep.store import utc_now


class Job(Frozen):
    """Cells of one series at one batch size, for one loaded backend, in order of measuring."""

    cells: tuple[Cell, ...]
    procedure: Procedure
    budgets: Budgets
    device: str = "cpu"
    threads: int = 1
    memory_bytes: int | None = None
    measure_ceilings: bool = True


class Loaded(Frozen):
    """The model is loaded; measuring begins."""

    kind: Literal["loaded"] = "loaded"
    environment: Environment
    ceilings: Ceilings | None


class Begin(Frozen):
    """Work towards this cell begins."""

    kind: Literal["begin"] = "begin"
    key: str


class Tick(Frozen):
    """Where the work is; sent about once a second."""

    kind: Literal["tick"] = "tick"
    position: int
    last_decode_s: float | None = None


class Measured(Frozen):
    """A cell is done."""

    kind: Literal["record"] = "record"
    record: Record


class Failed(Frozen):
    """The child gives up; ``key`` is None if no cell could be measured."""

    kind: Literal["failed"] = "failed"
    status: Status
    detail: str
    key: str | None


Message = Loaded | Begin | Tick | Measured | Failed


def failure(cell: Cell, status: Status, detail: str, elapsed_s: float = 0.0) -> Record:
    """The record of a cell that could not be measured."""
    return Record(
        cell=cell, status=status, detail=detail, started_at=utc_now(), elapsed_s=elapsed_s
    )


def rules_out(record: Record, cell: Cell) -> bool:
    """Whether what happened in ``record`` would happen in ``cell`` too: same line, not smaller."""
    of = record.cell
    return (
        record.status in (Status.OOM, Status.TIMEOUT, Status.OVER_BUDGET)
        and (of.series.name, of.batch_size, of.role)
        == (cell.series.name, cell.batch_size, cell.role)
        and of.context_tokens <= cell.context_tokens
    )


def not_tried(record: Record, cell: Cell) -> Record:
    """The record of a cell that ``record`` rules out."""
    return failure(
        cell,
        record.status,
        f"not tried: {record.status} already at {record.cell.context_tokens} tokens",
    )
