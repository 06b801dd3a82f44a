"""The verdicts in the terminal, at the end of a run."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctxsweep.analysis.predicted import Predictions
from ctxsweep.analysis.summary import CellSummary, ScalingClass, Summary
from ctxsweep.records import Status
from ctxsweep.report.crossings import crossing_lines
from ctxsweep.report.frontier import finding, headlines, tries_text
from ctxsweep.report.predicted import predicted_line
from ctxsweep.report.printer import Printer
from ctxsweep.report.quality_terminal import print_quality
from ctxsweep.report.rows import STATUS_TEXT, failed_cells
from ctxsweep.report.units import TOKENS
from ctxsweep.report.verdicts import COLUMNS, VerdictCell, VerdictRow, answer, verdict_rows

STYLES: dict[ScalingClass, str] = {
    "O(1)": "bold green",
    "O(n)": "bold cyan",
    "O(n²)": "bold red",
    "undecided": "bold yellow",
}
HEADS = {
    "cache_used_bytes": "Cache or state",
    "itl_s": "Per generated token",
    "prefill_s": "Prefill",
}
NARROW_COLUMNS = 100


def print_summary(
    summary: Summary,
    page: Path | None = None,
    console: Console | None = None,
    predictions: Predictions | None = None,
) -> None:
    """Print the answer, the verdict table, crossings, what failed, and where the page is.

    A narrow terminal gets a list in place of a table; where output is no terminal there is neither
    colour nor frame, and where it has no Unicode there is none.
    """
    console = console or Console()
    rows = verdict_rows(summary)
    say = Printer(console)
    if summary.quality is not None:
        print_quality(summary, console)
        say.line("")
    _print_frontier(say, summary)
    say.line(answer(summary))
    say.line("")
    if console.width < NARROW_COLUMNS:
        for row in rows:
            _print_row(say, row)
    else:
        console.print(_table(say, rows, console.is_terminal))
    _print_crossings(say, summary)
    _print_failures(say, summary)
    if line := predicted_line(predictions):
        say.line("")
        say.line(line)
    if page is not None:
        say.line("")
        # Not wrapped: a path cut in two cannot be copied.
        console.print(say.text(f"Report: {page}"), soft_wrap=True, highlight=False, markup=False)


def _print_frontier(say: Printer, summary: Summary) -> None:
    if summary.frontier is None:
        return
    for heading, lines in headlines(summary.frontier):
        say.line(heading, style="bold")
        for name, line in lines:
            say.line(f"  {name}: {finding(line)} ({tries_text(line)})")
        say.line("")


def _print_crossings(say: Printer, summary: Summary) -> None:
    lines = crossing_lines(summary)
    for i, line in enumerate(lines):
        if i == 0:
            say.line("")
        say.line(line, style="" if i else "bold")


def _table(say: Printer, rows: list[VerdictRow], framed: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD if framed else None, pad_edge=False)
    for head in ("Series", *(HEADS[column.metric] for column in COLUMNS)):
        table.add_column(head, overflow="fold")
    table.add_column("Bytes per token", overflow="fold")
    compared = any(row.numerics for row in rows)
    if compared:
        table.add_column("Numerics", overflow="fold")
    for row in rows:
        cells = [_cell_text(say, row.cells[column.metric]) for column in COLUMNS]
        numerics = [_numerics_text(say, row)] if compared else []
        table.add_row(say.text(row.label), *cells, say.text(_bytes_text(row)), *numerics)
    return table


def _numerics_text(say: Printer, row: VerdictRow) -> Text:
    if row.numerics is None:
        return Text(say.text("–"), style="dim")
    return Text(say.text(row.numerics.short), style="" if row.numerics.agrees else "bold red")


def _cell_text(say: Printer, cell: VerdictCell | None) -> Text:
    if cell is None:
        return Text("not known", style="dim")
    first = Text(say.text(cell.scaling), style=STYLES[cell.scaling])
    return first.append(say.text(f"  {cell.short}"), style="not bold default")


def _bytes_text(row: VerdictRow) -> str:
    """Measured, and whether the formula says the same."""
    if row.agrees is None:
        return "–"
    if row.agrees:
        return f"{row.measured} = formula"
    return f"{row.measured}, formula {row.formula}, off by {row.difference}"


def _print_row(say: Printer, row: VerdictRow) -> None:
    say.line(row.label, style="bold")
    for column in COLUMNS:
        cell = row.cells[column.metric]
        text = "not known" if cell is None else f"{cell.scaling}, {cell.span}"
        say.line(f"  {HEADS[column.metric]}: {text}")
    say.line(f"  Bytes per token: {_bytes_text(row)}")
    if row.numerics is not None:
        say.line(f"  Numerics: {row.numerics.short} ({row.numerics.figures})")


def _print_failures(say: Printer, summary: Summary) -> None:
    failed = failed_cells(summary)
    if not failed:
        return
    say.line("")
    say.line(f"{len(failed)} of {len(summary.cells)} cells have no figures:", style="bold")
    groups: dict[tuple[str, int, Status], list[CellSummary]] = defaultdict(list)
    for cell in failed:
        groups[cell.series, cell.batch_size, cell.status].append(cell)
    for (series, batch, status), cells in groups.items():
        where = f"{series}{'' if batch == 1 else f' ×{batch}'} at "
        where += ", ".join(TOKENS.text(cell.context_tokens) for cell in cells)
        reason = f": {cells[0].detail}" if cells[0].detail else ""
        say.line(f"  {where}: {STATUS_TEXT[status]}{reason}")
