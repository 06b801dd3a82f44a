"""``ctxsweep history``: add a run to the history of its machine, and show what has shifted."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from rich.console import Console

from ctxsweep.analysis.history import append, place, read
from ctxsweep.analysis.history_rows import bench_rows, rows_of, stamp_of
from ctxsweep.cli.compare import BENCHMARKS
from ctxsweep.cli.errors import BadInput
from ctxsweep.cli.sweep import derive
from ctxsweep.report.trend import build_trend, sentence, trend_of
from ctxsweep.store import RunFolder


def add_to_history(run: Path, results: Path, bench: Path | None) -> Path:
    """Add a run's figures, and those of a pytest-benchmark file as a part of it; the history's
    path. ``bench``: default: the run's own ``bench.json``, if it has one.

    A run that is there already is replaced as a whole, benchmarks of a file elsewhere too.
    Raises ``StoreError`` for a run, a file or a history that cannot be read, ``BadInput`` for a
    run without any figure.
    """
    folder = RunFolder.open(run)
    if folder.manifest.finished_at is None:
        raise BadInput(
            f"{run}: this run was not finished, so its night would have gaps; "
            "ctxsweep run --resume goes on with it"
        )
    summary = derive(folder)
    stamp = stamp_of(summary)
    rows = rows_of(summary)
    own = folder.path / BENCHMARKS
    if bench is None and own.is_file():
        bench = own
    if bench is not None:
        rows = pl.concat([rows, bench_rows(bench, stamp)])
    if rows.is_empty():
        raise BadInput(f"{run}: no cell of this run has figures; its report says why")
    path = place(results, stamp.machine, stamp.scenario)
    append(path, rows)
    return path


def show_trend(scenario: str | None, results: Path) -> Path:
    """Write the trend page beside the history, print what has shifted; the page's path.

    Of several histories, of scenarios or machines, the one that was written last. Raises
    ``BadInput`` where there is none, ``StoreError`` for one that cannot be read.
    """
    root = results / "history"
    histories = sorted(root.glob("*/*.parquet"))
    chosen = [path for path in histories if scenario in (None, path.stem)]
    if not chosen:
        known = ", ".join(sorted({path.stem for path in histories}))
        raise BadInput(
            f"{root}: no history of {scenario}; there are: {known}"
            if known
            else f"{root}: no history yet; it begins with ctxsweep history add RUN"
        )
    path = max(chosen, key=lambda one: one.stat().st_mtime)
    frame = read(path)
    if frame.is_empty():
        raise BadInput(f"{path}: this history has no rows; ctxsweep history add RUN adds some")
    page = build_trend(frame, path.with_suffix(""))
    console = Console(soft_wrap=True)
    console.print(sentence(trend_of(frame)), highlight=False, markup=False)
    console.print(str(page), highlight=False, markup=False)
    return page
