"""The history of a scenario on a machine: one Parquet table, a row per figure of every night.

``results/history/<machine>/<scenario>.parquet`` has the columns of ``SCHEMA``, for polars, DuckDB
or pandas. A run that is added once more replaces its own rows. What cannot be read is never
written over.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from ctxsweep.analysis.comparison import Kind
from ctxsweep.analysis.metrics import METRICS
from ctxsweep.baselines import plain_name
from ctxsweep.store import StoreError

HISTORY_VERSION = 1
VERSION_KEY = "ctxsweep_history_version"
SCHEMA: dict[str, Any] = {
    "time": pl.Datetime("ms", "UTC"),
    "run_id": pl.String(),
    "commit": pl.String(),
    "dirty": pl.Boolean(),
    "machine": pl.String(),
    "scenario": pl.String(),
    "kind": pl.String(),
    "series": pl.String(),
    "subject": pl.String(),
    "metric": pl.String(),
    "unit": pl.String(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "n": pl.Int64(),
}
_FIGURE = ("kind", "series", "subject", "metric")
LOCK_WAIT_S = 10.0
"""How long to wait for another process that adds a run; it takes a fraction of a second."""
_LOCK_POLL_S = 0.05


@dataclass(frozen=True)
class Stamp:
    """Whose figures they are: the columns that all rows of a run share."""

    time: datetime
    run_id: str
    commit: str | None
    dirty: bool | None
    machine: str
    scenario: str


@dataclass(frozen=True)
class Line:
    """One metric of one subject over the nights, oldest first; None where there is no interval."""

    kind: Kind
    series: str
    subject: str
    metric: str
    unit: str
    times: tuple[datetime, ...]
    run_ids: tuple[str, ...]
    commits: tuple[str | None, ...]
    dirty: tuple[bool | None, ...]
    values: tuple[float, ...]
    lows: tuple[float | None, ...]
    highs: tuple[float | None, ...]

    @property
    def exact(self) -> bool:
        """Whether the metric is read and not sampled: then it carries no noise."""
        metric = METRICS.get(self.metric.split(".")[0])
        return self.kind != "bench" and metric is not None and metric.exact


def place(results: Path, machine: str, scenario: str) -> Path:
    """Where the history of a scenario on a machine (``machine_slug``) lies. Raises ``StoreError``
    for a scenario whose name is no plain name."""
    return results / "history" / machine / f"{plain_name(scenario)}.parquet"


def frame_of(stamp: Stamp, figures: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """The rows of one run; ``figures`` have the columns from ``kind`` on."""
    time = stamp.time if stamp.time.tzinfo else stamp.time.replace(tzinfo=UTC)
    shared = {**vars(stamp), "time": time.astimezone(UTC)}
    return pl.DataFrame([{**shared, **figure} for figure in figures], schema=SCHEMA)


def read(path: Path) -> pl.DataFrame:
    """All rows, oldest run first. Raises ``StoreError`` for a file that is missing or not one."""
    if not path.is_file():
        raise StoreError(f"{path}: no history yet; it begins with ctxsweep history add RUN")
    try:
        version = pl.read_parquet_metadata(path).get(VERSION_KEY)
        if version != str(HISTORY_VERSION):
            raise StoreError(
                f"{path}: {_wrong_version(version)}; this ctxsweep reads version {HISTORY_VERSION}"
            )
        frame = pl.read_parquet(path)
    except (PolarsError, PanicException) as error:  # polars panics at some damage
        raise StoreError(
            f"{path}: not a Parquet file, or damaged ({str(error).splitlines()[0]}); move it away "
            "or fetch it again from where it was kept"
        ) from error
    differing = [name for name in SCHEMA if frame.schema.get(name) != SCHEMA[name]]
    if differing or len(frame.columns) != len(SCHEMA):
        told = ", ".join(differing) or "more than it should have"
        raise StoreError(f"{path}: not a history of ctxsweep, its columns differ: {told}")
    return frame


def append(path: Path, frame: pl.DataFrame) -> None:
    """Add the rows of one or more runs; rows of these runs that are there already are replaced.

    The file is replaced as a whole and is on disk on return. Processes may add at once; one waits
    for the other. Raises ``StoreError`` for rows of another form, or if the file that is there
    cannot be read or another process keeps writing it; then it stays as it is.
    """
    if frame.schema != pl.Schema(SCHEMA):
        raise StoreError(f"{path}: these rows have not the columns of a history")
    new = frame.unique(["run_id", *_FIGURE], keep="first", maintain_order=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path):
        if path.exists():
            old = read(path)
            new = pl.concat([old.filter(~pl.col("run_id").is_in(new["run_id"].to_list())), new])
        _write(path, new.sort("time", "run_id", maintain_order=True))


def lines(frame: pl.DataFrame, nights: int) -> list[Line]:
    """Every figure over the last ``nights`` runs; those first that the rows have first.

    Values that are not finite are nights without the figure.
    """
    runs = frame.select("time", "run_id").unique().sort("time", "run_id").tail(nights)
    held = frame.filter(pl.col("run_id").is_in(runs["run_id"].to_list()))
    held = held.filter(pl.col("value").is_finite()).sort("time", "run_id", maintain_order=True)
    found = []
    for (kind, series, subject, metric), of_one in held.group_by(_FIGURE, maintain_order=True):
        columns = {name: tuple(of_one[name].to_list()) for name in SCHEMA}
        line = Line(
            kind=kind,
            series=series,
            subject=subject,
            metric=metric,
            unit=columns["unit"][-1],
            times=columns["time"],
            run_ids=columns["run_id"],
            commits=columns["commit"],
            dirty=columns["dirty"],
            values=columns["value"],
            lows=columns["low"],
            highs=columns["high"],
        )
        found.append(line)
    return found


def _wrong_version(version: str | None) -> str:
    return "not a history of ctxsweep" if version is None else f"a history of version {version}"


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Nobody else adds to this history meanwhile; the system lets go when the process dies.

    The lock's file stays: whoever waits for it would wait for one that is gone.
    """
    beside = path.with_name(f"{path.name}.lock")
    lock = os.open(beside, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = time.monotonic() + LOCK_WAIT_S
        while not _locked(lock):
            if time.monotonic() >= end:
                raise StoreError(
                    f"{path}: another process has been writing it for {LOCK_WAIT_S:g} s "
                    f"(it holds {beside.name}); wait for it or end it first"
                )
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(path: Path, frame: pl.DataFrame) -> None:
    """As ``store.write_atomic``: readers see the old table or the new, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            frame.write_parquet(file, metadata={VERSION_KEY: str(HISTORY_VERSION)})
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
