"""Records as tables for SQL and export: ``cells``, ``samples`` and ``memory`` (polars).

One row per cell, sample or reading; every table starts with the same columns that say whose row it
is. Metrics follow as ``name``, ``name_low``, ``name_high``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ctxsweep.analysis.metrics import METRICS, measure
from ctxsweep.analysis.samples import (
    Phase,
    contended_flags,
    contended_share,
    of_phase,
    outlier_count,
    outlier_flags,
)
from ctxsweep.records import MemoryReading, Record, Series, Status
from ctxsweep.store import RunFolder

Row = dict[str, Any]
Schema = dict[str, pl.DataType]

PHASES: tuple[Phase, ...] = ("prefill", "decode")
_WHO: Schema = {
    "run_id": pl.String(),
    "key": pl.String(),
    "scenario": pl.String(),
    "series": pl.String(),
    "backend": pl.String(),
    "model": pl.String(),
    "context_tokens": pl.Int64(),
    "batch_size": pl.Int64(),
    "role": pl.String(),
    "occurrence": pl.Int64(),
}
_CELL: Schema = {
    "dtype": pl.String(),
    "kv_dtype": pl.String(),
    "window": pl.Int64(),
    "generate_tokens": pl.Int64(),
    "procedure": pl.String(),
    "seed": pl.Int64(),
    "status": pl.String(),
    "detail": pl.String(),
    "stopped_by": pl.String(),
    "samples": pl.Int64(),
    "outliers": pl.Int64(),
    "contended_share": pl.Float64(),
    "machine": pl.String(),
    "device": pl.String(),
    "threads": pl.Int64(),
    "commit": pl.String(),
    "started_at": pl.String(),
    "elapsed_s": pl.Float64(),
}
_SAMPLE: Schema = {
    "phase": pl.String(),
    "repeat": pl.Int64(),
    "position": pl.Int64(),
    "tokens": pl.Int64(),
    "wall_s": pl.Float64(),
    "cpu_s": pl.Float64(),
    "device_s": pl.Float64(),
    "outlier": pl.Boolean(),
    "contended": pl.Boolean(),
}
_MEMORY: Schema = {
    name: pl.String() if name == "phase" else pl.Int64() for name in MemoryReading.model_fields
}


def cells_frame(run_id: str, records: Iterable[Record]) -> pl.DataFrame:
    """One row per record: what was measured, how it ended, and every metric."""
    metrics: Schema = {f"{m}{end}": pl.Float64() for m in METRICS for end in ("", "_low", "_high")}
    rows = [_who(run_id, r) | _cell(r) | _metrics(r) for r in records]
    return pl.DataFrame(rows, schema=_WHO | _CELL | metrics)


def samples_frame(run_id: str, records: Iterable[Record]) -> pl.DataFrame:
    """One row per sample, with its flags."""
    rows = [_who(run_id, r) | row for r in records for row in _samples(r)]
    return pl.DataFrame(rows, schema=_WHO | _SAMPLE)


def memory_frame(run_id: str, records: Iterable[Record]) -> pl.DataFrame:
    """One row per memory reading."""
    rows = [_who(run_id, r) | m.model_dump() for r in records for m in r.memory]
    return pl.DataFrame(rows, schema=_WHO | _MEMORY)


def query(paths: Sequence[Path], sql: str) -> pl.DataFrame:
    """Run SQL over any number of run folders; tables ``cells``, ``samples`` and ``memory``.

    Raises:
        StoreError: a path is not a run's folder.
        ValueError: the statement is wrong; the message names the tables.
    """
    runs = [(folder.manifest.run_id, list(folder.records())) for folder in _open(paths)]
    makers = {"cells": cells_frame, "samples": samples_frame, "memory": memory_frame}
    frames = {
        name: pl.concat([make(*run) for run in runs] or [make("", [])])
        for name, make in makers.items()
        if name in sql.lower()
    }
    try:
        with pl.SQLContext(frames=frames) as context:
            return context.execute(sql, eager=True)
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("Resolved plan")[0].strip().rstrip(".")
        raise ValueError(
            f"query: {reason}. There are the tables {', '.join(makers)}; "
            "'select * from cells limit 1' shows the columns"
        ) from error


def _open(paths: Sequence[Path]) -> list[RunFolder]:
    return [RunFolder.open(path) for path in paths]


def _who(run_id: str, record: Record) -> Row:
    cell = record.cell
    return {
        "run_id": run_id,
        "key": cell.key,
        "scenario": cell.scenario,
        "series": cell.series.name,
        "backend": cell.series.backend,
        "model": model_text(cell.series),
        "context_tokens": cell.context_tokens,
        "batch_size": cell.batch_size,
        "role": cell.role,
        "occurrence": cell.occurrence,
    }


def model_text(series: Series) -> str:
    """The model's name; as JSON where the scenario writes it out."""
    return series.model if isinstance(series.model, str) else json.dumps(series.model)


def _cell(record: Record) -> Row:
    cell, environment = record.cell, record.environment
    return {
        "dtype": cell.series.dtype,
        "kv_dtype": cell.series.kv_dtype,
        "window": cell.series.window,
        "generate_tokens": cell.generate_tokens,
        "procedure": cell.procedure,
        "seed": cell.seed,
        "status": record.status.value,
        "detail": record.detail,
        "stopped_by": record.stopped_by,
        "samples": len(record.samples),
        "outliers": outlier_count(record),
        "contended_share": contended_share(record),
        "machine": environment.machine if environment else None,
        "device": environment.device if environment else None,
        "threads": environment.threads if environment else None,
        "commit": environment.commit if environment else None,
        "started_at": record.started_at,
        "elapsed_s": record.elapsed_s,
    }


def _metrics(record: Record) -> Row:
    values = measure(record) if record.status is Status.OK else {}
    row: Row = {}
    for name, estimate in values.items():
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return row


def _samples(record: Record) -> list[Row]:
    rows: list[Row] = []
    for phase in PHASES:
        samples = of_phase(record, phase)
        contended = contended_flags(samples)
        for i, (sample, outlier) in enumerate(zip(samples, outlier_flags(samples), strict=True)):
            flags = {
                "outlier": bool(outlier),
                "contended": None if contended is None else bool(contended[i]),
            }
            rows.append(sample.model_dump() | flags)
    return rows
