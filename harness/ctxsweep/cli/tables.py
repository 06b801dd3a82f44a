"""``ctxsweep export`` and ``ctxsweep query``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ctxsweep.analysis.export import EXPORTS
from ctxsweep.cli.errors import BadInput
from ctxsweep.store import RunFolder


def write_export(path: Path, format_: str, out: Path | None) -> None:
    """Write a run's metrics to a file, or text formats to standard output."""
    import polars as pl

    folder = RunFolder.open(path)
    records = list(folder.records())
    if out is None and format_ == "parquet":
        raise BadInput("--format parquet is not text; name a file: --out cells.parquet")
    try:
        if out is not None:
            EXPORTS[format_](folder.manifest.run_id, records, out)
            return
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "export"
            EXPORTS[format_](folder.manifest.run_id, records, file)
            sys.stdout.write(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--out {out}: {error.strerror or error}") from None
    except pl.exceptions.PolarsError:  # otava adds a row to what is there
        raise BadInput(f"--out {out}: is there and is no CSV of runs; name another file") from None


def print_query(sql: str, paths: Sequence[Path]) -> None:
    """Print what SQL over the runs gives, as a table."""
    import polars as pl

    from ctxsweep.analysis.tables import query

    try:
        frame = query(paths, sql)
    except ValueError as error:
        raise BadInput(str(error)) from None
    with pl.Config(
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=10_000,
        fmt_str_lengths=80,
        tbl_hide_dtype_separator=True,
    ):
        print(frame)
