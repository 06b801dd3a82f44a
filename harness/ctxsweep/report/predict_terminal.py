"""Predictions in the terminal: a table per model, or several models side by side."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctxsweep.planning.answers import Predicted, PredictedCell, PredictedModel
from ctxsweep.report import predict_words as words
from ctxsweep.report.predict_layout import column_groups
from ctxsweep.report.printer import Printer
from ctxsweep.report.units import TOKENS

MOST_CROSSINGS = 12


def print_predicted(found: Predicted, console: Console | None = None) -> None:
    """Print what was assumed, the figures, the longest contexts that fit, and remarks."""
    console = console or Console()
    say = Printer(console)
    say.line(words.headline(found), style="bold")
    for model in found.models:
        name = f"{model.name}: " if len(found.models) > 1 else ""
        for line in words.reach_lines(found, model):
            say.line(f"{name}{line}")
    for line in words.assumptions(found):
        say.line(line, style="dim")
    if len(found.models) == 1:
        _print_model(say, console, found, found.models[0])
    else:
        _print_side_by_side(say, console, found)
    say.line("")
    say.line(words.limits_line(found))
    energy = words.energy_line(found)
    if energy:
        say.line(energy)
    for remark in words.all_remarks(found):
        say.line(f"· {remark}", style="dim")


def _print_model(say: Printer, console: Console, found: Predicted, model: PredictedModel) -> None:
    say.line(words.weights_line(found, model), style="dim")
    say.line("")
    cells = found.cells_of(model.name)
    several = len(found.batch_sizes) > 1
    heads = ("context", *(("batch",) if several else ()), *words.HEADS)
    rows: list[tuple[Text, ...]] = []
    for cell in cells:
        texts = words.row(cell)
        if not several:
            texts = (texts[0], *texts[2:])
        style = "" if cell.fits else "red"
        rows.append(tuple(Text(say.text(text), style=style) for text in texts))
    console.print(_table(heads, rows))
    if any(not cell.fits for cell in cells):
        say.line("✕ does not fit: the times are those of a device with more memory.", style="red")


def _print_side_by_side(say: Printer, console: Console, found: Predicted) -> None:
    for batch in found.batch_sizes:
        for quantity, title in words.QUANTITIES.items():
            say.line("")
            times = f", batch {batch}" if len(found.batch_sizes) > 1 else ""
            say.line(f"{title}{times}", style="bold")
            heads = ("model", *(TOKENS.text(context) for context in found.contexts))
            rows = [
                (Text(model.name), *_values(say, found, model, batch, quantity))
                for model in found.models
            ]
            texts = [[text.plain for text in row] for row in rows]
            for columns in column_groups(heads, texts, console.width, gap=2):
                kept = [tuple(row[i] for i in columns) for row in rows]
                console.print(_table(tuple(heads[i] for i in columns), kept))
    if any(not cell.fits for cell in found.cells):
        say.line("✕ does not fit: the times are those of a device with more memory.", style="red")
    crossings = words.crossing_lines(found)
    if crossings:
        say.line("")
        say.line("Where one overtakes another (of these bounds, not measured):", style="bold")
        for line in crossings[:MOST_CROSSINGS]:
            say.line(line)
        if len(crossings) > MOST_CROSSINGS:
            say.line(f"and {len(crossings) - MOST_CROSSINGS} more (--json, --out DIR)")


def _values(
    say: Printer, found: Predicted, model: PredictedModel, batch: int, quantity: words.Quantity
) -> list[Text]:
    held = {cell.context_tokens: cell for cell in found.cells_of(model.name, batch)}
    return [_value(say, held.get(context), quantity) for context in found.contexts]


def _value(say: Printer, cell: PredictedCell | None, quantity: words.Quantity) -> Text:
    if cell is None:
        return Text(say.text("–"), style="dim")
    text = words.value(cell, quantity)
    if not cell.fits:
        return Text(say.text(f"{text}✕"), style="red")
    return Text(say.text(text))


def _table(heads: tuple[str, ...], rows: list[tuple[Text, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in heads:
        named = head in ("model", "limited by")
        table.add_column(head, justify="left" if named else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
