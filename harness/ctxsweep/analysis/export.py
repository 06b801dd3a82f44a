"""Writing a run for other programs: csv, parquet, md, hud, otava.

``hud`` follows the record format of the PyTorch OSS benchmark database (github.com/pytorch/pytorch,
wiki "PyTorch OSS benchmark infra"); ``otava`` is a CSV for Apache Otava (otava.apache.org, CSV
importer): one row per run with a time column, attributes, and one column per series and metric.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ctxsweep.analysis.metrics import METRICS, measure
from ctxsweep.analysis.tables import cells_frame, model_text
from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.records import Record, Status

SUMMARY_COLUMNS = ("prefill_s", "prefill_tps", "itl_s", "decode_tps", "cache_used_bytes")
OTAVA_METRICS = ("prefill_s", "itl_s", "cache_used_bytes")


def write_csv(run_id: str, records: Sequence[Record], path: Path) -> None:
    """The table of cells."""
    cells_frame(run_id, records).write_csv(path)


def write_parquet(run_id: str, records: Sequence[Record], path: Path) -> None:
    """The table of cells."""
    cells_frame(run_id, records).write_parquet(path)


def write_md(run_id: str, records: Sequence[Record], path: Path) -> None:
    """A table for people: a line per measured cell, failures with their status."""
    head = ["series", "context", "batch", "status", *SUMMARY_COLUMNS]
    lines = [f"# {run_id}", "", _line(head), _line(["---"] * len(head))]
    for record in _measured(records, every_status=True):
        cell, values = record.cell, measure(record) if record.status is Status.OK else {}
        figures = [
            quantity(values[name].value, METRICS[name].unit) if name in values else "–"
            for name in SUMMARY_COLUMNS
        ]
        who = [cell.series.name, context_label(cell.context_tokens), str(cell.batch_size)]
        lines.append(_line([*who, record.status.value, *figures]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_hud(run_id: str, records: Sequence[Record], path: Path) -> None:
    """Rows of the PyTorch benchmark database, one per cell and metric."""
    rows = [row for record in _measured(records) for row in _hud_rows(run_id, record)]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def write_otava(run_id: str, records: Sequence[Record], path: Path) -> None:
    """Add this run's row to a CSV of runs; a run that is in it already is replaced."""
    row = _otava_row(run_id, records)
    frame = pl.DataFrame([row])
    if path.exists():
        older = pl.read_csv(path).filter(pl.col("run_id") != run_id)
        frame = pl.concat([older, frame], how="diagonal_relaxed").sort("time")
    frame.write_csv(path)


Writer = Callable[[str, Sequence[Record], Path], None]

EXPORTS: dict[str, Writer] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "md": write_md,
    "hud": write_hud,
    "otava": write_otava,
}
"""By the name of ``ctxsweep export --format``."""


def _measured(records: Sequence[Record], every_status: bool = False) -> list[Record]:
    """The latest record of every cell that is not a sentinel, by series and context."""
    latest = {r.cell.key: r for r in records if r.cell.role == "measure"}
    chosen = [r for r in latest.values() if every_status or r.status is Status.OK]
    return sorted(
        chosen, key=lambda r: (r.cell.series.name, r.cell.batch_size, r.cell.context_tokens)
    )


def _line(columns: Sequence[str]) -> str:
    return "| " + " | ".join(columns) + " |"


def _hud_rows(run_id: str, record: Record) -> list[dict[str, Any]]:
    cell, environment = record.cell, record.environment
    benchmark = {
        "name": f"ctxsweep {cell.scenario}",
        "mode": "inference",
        "dtype": cell.series.dtype,
        "extra_info": {
            "run_id": run_id,
            "device": environment.device if environment else None,
            "machine": environment.machine if environment else None,
            "context_tokens": cell.context_tokens,
            "batch_size": cell.batch_size,
            "generate_tokens": cell.generate_tokens,
            "kv_dtype": cell.series.kv_dtype,
            "procedure": cell.procedure,
        },
    }
    model = {
        "name": cell.series.name,
        "type": model_text(cell.series),
        "backend": cell.series.backend,
        "origins": ["ctxsweep"],
    }
    return [
        {
            "benchmark": benchmark,
            "model": model,
            "metric": {
                "name": name,
                "benchmark_values": [estimate.value],
                "target_value": None,
                "extra_info": {
                    "unit": METRICS[name].unit,
                    "low": estimate.low,
                    "high": estimate.high,
                },
            },
        }
        for name, estimate in measure(record).items()
    ]


def _otava_row(run_id: str, records: Sequence[Record]) -> dict[str, Any]:
    measured = _measured(records)
    environment = next((r.environment for r in measured if r.environment), None)
    row: dict[str, Any] = {
        "time": min((r.started_at for r in records), default=""),
        "run_id": run_id,
        "commit": environment.commit if environment else None,
    }
    for record in measured:
        cell, values = record.cell, measure(record)
        where = f"{cell.series.name}.b{cell.batch_size}.{cell.context_tokens}"
        row |= {f"{where}.{m}": values[m].value for m in OTAVA_METRICS if m in values}
    return row
