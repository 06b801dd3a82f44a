"""What a run says of quality, in the terminal: a table of 80 columns and the recommendation."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.quality_summary import QualityCell, QualitySummary, Standing
from ctxsweep.analysis.summary import Summary
from ctxsweep.analysis.wording import signed
from ctxsweep.report.printer import Printer
from ctxsweep.report.quality_tables import (
    DYNAMIC_NOTE,
    breaks_text,
    effective_text,
    reference_text,
    task_names,
)
from ctxsweep.report.units import TOKENS

STYLES: dict[Standing | None, str] = {
    "within": "green",
    "open": "yellow",
    "beyond": "bold red",
    None: "",
}


def print_quality(summary: Summary, console: Console | None = None) -> None:
    """Print the recommendation, the losses with what they cost, and how far each series holds.

    Nothing where the run measured no quality.
    """
    quality = summary.quality
    if quality is None:
        return
    console = console or Console()
    say = Printer(console)
    for advice in quality.advice:
        say.line(advice.sentence)
        say.line("")
    console.print(_table(say, quality, console.is_terminal))
    say.line("")
    for line in _notes(quality):
        say.line(line)


def _notes(quality: QualitySummary) -> list[str]:
    short = quality.short_context
    harm = "" if short is None else f" Short: the same setting at {TOKENS.text(short)}."
    lines = [
        f"Δ: nats against {reference_text(quality)} on the same {quality.target_tokens} tokens of "
        f"{quality.text.name}; beside: against {quality.reference_series} at the same context; ± "
        f"95%.{harm} Prefill, decode: time over {quality.reference_series}'s at the same context.",
    ]
    lines += [
        f"  {reach.series}: {effective_text(reach, quality)} within {quality.max_loss:g} nats; "
        f"{breaks_text(reach, quality)}"
        for reach in quality.reach
    ]
    if any(cell.rope_type == "dynamic" for cell in quality.cells):
        lines.append(DYNAMIC_NOTE)
    return lines


def _table(say: Printer, quality: QualitySummary, framed: bool) -> Table:
    tasks = task_names(quality)
    heads = ("Series", "At", "Δ loss", "beside", *map(_task_head, tasks), "short")
    table = Table(box=box.SIMPLE_HEAD if framed else None, pad_edge=False, padding=(0, 1, 0, 0))
    for i, head in enumerate((*heads, "prefill", "decode")):
        table.add_column(
            say.text(head), overflow="fold", justify="left" if i == 0 else "right", no_wrap=i > 0
        )
    for cell in quality.cells:
        own = (cell.series, cell.context_tokens)
        rates = [quality.rate(task, *own) for task in tasks]
        texts = (
            _plus_minus(cell.beside),
            *("–" if rate is None else f"{rate.exact}/{rate.trials}" for rate in rates),
            "–" if cell.series == quality.reference_series else _value(cell.harm),
            _ratio(cell.prefill_ratio),
            _ratio(cell.decode_ratio),
        )
        difference = Text(say.text(_difference(quality, cell)), style=STYLES[cell.standing])
        context = TOKENS.text(cell.context_tokens)
        table.add_row(say.text(cell.series), context, difference, *map(say.text, texts))
    return table


def _task_head(task: str) -> str:
    return {"passkey": "passkey", "multi_key": "keys", "variable_tracking": "track"}[task]


def _difference(quality: QualitySummary, cell: QualityCell) -> str:
    own = (cell.series, cell.context_tokens)
    if quality.is_reference(*own):
        return "reference"
    return _plus_minus(cell.difference)


def _plus_minus(estimate: Estimate | None) -> str:
    """``+0.008 ±0.018``: the wider side of the interval."""
    if estimate is None:
        return "–"
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return signed(estimate.value)
    half = max(estimate.value - estimate.low, estimate.high - estimate.value)
    return f"{signed(estimate.value)} ±{half:.3f}"


def _value(estimate: Estimate | None) -> str:
    return "–" if estimate is None else signed(estimate.value)


def _ratio(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.2f}×"
