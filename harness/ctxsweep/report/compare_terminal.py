"""A comparison in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctxsweep.analysis.comparison import Change, Comparison, Outcome
from ctxsweep.report.compare_words import (
    counted,
    headline,
    line,
    method_line,
    metric_name,
    not_compared_line,
    of_outcome,
    remark,
    side_line,
    sides,
    size,
)
from ctxsweep.report.printer import Printer

STYLES: dict[Outcome, str] = {
    "SLOW": "bold red",
    "FAST": "bold green",
    "AMBG": "yellow",
    "SAME": "dim",
}
NARROW_COLUMNS = 100
MOST_NOT_COMPARED = 12
MOST_AMBG = 20


def print_comparison(
    comparison: Comparison, console: Console | None = None, *, verbose: bool = False
) -> None:
    """Print the headline, what is SLOW or FAST, the AMBG lines that changed most, and what was not
    compared and why.

    ``verbose`` prints every line and every reason. A narrow terminal gets a list in place of a
    table; where output is no terminal there is neither colour nor frame.
    """
    console = console or Console()
    say = Printer(console)
    say.line(headline(comparison), style="bold")
    say.line("")
    shown, hidden = _shown(comparison, verbose)
    if shown:
        if console.width < NARROW_COLUMNS:
            _print_list(say, console, shown)
        else:
            console.print(_table(say, shown, console.is_terminal))
    if hidden:
        say.line(f"and {counted(hidden, 'line')} AMBG more (--verbose)")
    same = comparison.count("SAME")
    if same and not verbose:
        say.line(f"{counted(same, 'line')} SAME: equal within the threshold")
    _print_left_out(say, comparison, verbose)
    _print_sides(say, comparison)
    say.line(method_line(comparison), style="dim")


def _shown(comparison: Comparison, verbose: bool) -> tuple[list[Change], int]:
    """The lines to print, and how many AMBG lines are left out."""
    if verbose:
        return of_outcome(comparison, "SLOW", "FAST", "AMBG", "SAME"), 0
    told, ambiguous = of_outcome(comparison, "SLOW", "FAST"), of_outcome(comparison, "AMBG")
    kept = sorted(ambiguous, key=_change_of, reverse=True)[:MOST_AMBG]
    return told + [change for change in ambiguous if change in kept], len(ambiguous) - len(kept)


def _change_of(change: Change) -> float:
    """How far the ratio is from 1; what has none may be anything, and comes last."""
    return 0.0 if change.ratio is None else abs(change.ratio.value - 1)


def _table(say: Printer, changes: Sequence[Change], framed: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD if framed else None, pad_edge=False)
    table.add_column("")
    for head in ("What", "Metric", "Change", "Base, new"):
        table.add_column(head, overflow="fold")
    remarks = any(remark(change) for change in changes)
    if remarks:
        table.add_column("Why", overflow="fold")
    for change in changes:
        texts = (change.subject, metric_name(change), size(change.ratio), sides(change))
        # As Text: a benchmark's name has brackets, which are markup in a string.
        cells = [Text(say.text(text)) for text in (*texts, *([remark(change)] if remarks else []))]
        table.add_row(Text(change.outcome, style=STYLES[change.outcome]), *cells)
    return table


def _print_list(say: Printer, console: Console, changes: Sequence[Change]) -> None:
    for change in changes:
        text = Text(change.outcome, style=STYLES[change.outcome])
        text.append(say.text(f" {line(change)}"), style="not bold not dim default")
        console.print(text)
        if why := remark(change):
            say.line(f"     {why}", style="dim")


def _print_left_out(say: Printer, comparison: Comparison, verbose: bool) -> None:
    entries = comparison.not_compared
    if not entries:
        return
    say.line("")
    say.line(f"Not compared: {sum(entry.count for entry in entries)}", style="bold")
    shown = entries if verbose else entries[:MOST_NOT_COMPARED]
    for entry in shown:
        say.line(f"  {not_compared_line(entry)}")
    if len(shown) < len(entries):
        say.line(f"  and {counted(len(entries) - len(shown), 'reason')} more (--verbose)")


def _print_sides(say: Printer, comparison: Comparison) -> None:
    say.line("")
    say.line(f"Base: {side_line(comparison.base)}")
    say.line(f"New:  {side_line(comparison.new)}")
    for difference in comparison.differences:
        say.line(f"Differs: {difference}")
