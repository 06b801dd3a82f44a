"""What a run says of quality, in the terminal: a table of 80 columns and the recommendation."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctxsweep.analysis.quality_summary import QualityCell, QualitySummary, Standing
from ctxsweep.analysis.summary import Summary
from ctxsweep.analysis.wording import plus_minus, signed, times
from ctxsweep.records_quality import TaskName
from ctxsweep.report.printer import Printer
from ctxsweep.report.quality_notes import (
    MACHINE_NOTE,
    MARKS,
    PASSAGE_NOTE,
    breaks_text,
    detail_notes,
    dynamic_note,
    effective_text,
    missing_reference,
    reference_text,
    setting_note,
)
from ctxsweep.report.quality_tables import task_names
from ctxsweep.report.units import TOKENS

STYLES: dict[Standing | None, str] = {
    "within": "green",
    "open": "yellow",
    "beyond": "bold red",
    None: "",
}
TASK_HEADS: dict[TaskName, str] = {
    "passkey": "key",
    "multi_key": "keys",
    "variable_tracking": "track",
}
HARM_HEAD = "short"


def print_quality(summary: Summary, console: Console | None = None) -> None:
    """Print the recommendation, the losses with what they cost, and how far each series holds.

    Nothing where the run measured no quality.
    """
    quality = summary.quality
    if quality is None:
        return
    console = console or Console()
    say = Printer(console)
    if missing := missing_reference(quality):
        say.line(missing)
        say.line("")
    for advice in quality.advice:
        say.line(advice.sentence)
        say.line("")
    console.print(_table(say, quality, console.is_terminal))
    say.line("")
    for line in _notes(quality):
        say.line(line)


def _notes(quality: QualitySummary) -> list[str]:
    short, series = quality.short_context, quality.reference_series
    harm = "" if short is None else f" {HARM_HEAD}: the same setting at {TOKENS.text(short)}."
    lines = [
        f"Δ: nats against {reference_text(quality)} on the same {quality.target_tokens} tokens of "
        f"{quality.text.name}: ✓ shown to be within what is allowed, ? not decided, ✕ shown to be "
        f"beyond; beside: against {series} at the same context.{harm} {PASSAGE_NOTE} Prefill, "
        f"decode: time over {series}'s at the same context. {MACHINE_NOTE}",
    ]
    lines += [
        f"  {reach.series}: {effective_text(reach, quality)} within {quality.max_loss:g} nats; "
        f"{breaks_text(reach, quality)}"
        for reach in quality.reach
    ]
    lines += [setting_note(quality, HARM_HEAD), *detail_notes(quality), dynamic_note(quality)]
    return [line for line in lines if line]


def _table(say: Printer, quality: QualitySummary, framed: bool) -> Table:
    heads = [
        *("Series", "At", "Δ loss", "beside"),
        *(TASK_HEADS[task] for task in task_names(quality)),
        *(() if quality.short_context is None else (HARM_HEAD,)),
        *("prefill", "decode"),
    ]
    table = Table(box=box.SIMPLE_HEAD if framed else None, pad_edge=False, padding=(0, 1, 0, 0))
    for i, head in enumerate(heads):
        table.add_column(
            say.text(head), overflow="fold", justify="left" if i == 0 else "right", no_wrap=i > 0
        )
    for cell in quality.cells:
        difference = Text(say.text(_difference(quality, cell)), style=STYLES[cell.standing])
        context = TOKENS.text(cell.context_tokens)
        texts = map(say.text, _texts(quality, cell))
        table.add_row(say.text(cell.series), context, difference, *texts)
    return table


def _texts(quality: QualitySummary, cell: QualityCell) -> list[str]:
    """A cell's columns after that of its loss."""
    own = (cell.series, cell.context_tokens)
    rates = [quality.rate(task, *own) for task in task_names(quality)]
    harm = None if cell.series == quality.reference_series else cell.harm
    return [
        plus_minus(cell.beside),
        *("–" if rate is None else f"{rate.exact}/{rate.trials}" for rate in rates),
        *(() if quality.short_context is None else ("–" if harm is None else signed(harm.value),)),
        times(cell.prefill_ratio, interval=False),
        times(cell.decode_ratio, interval=False),
    ]


def _difference(quality: QualitySummary, cell: QualityCell) -> str:
    own = (cell.series, cell.context_tokens)
    if quality.is_reference(*own):
        return "reference"
    return MARKS[cell.standing] + plus_minus(cell.difference)
