"""What ``ctxsweep calibrate`` found, in the terminal: the errors first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ctxsweep.analysis.predicted import (
    PREDICTED,
    CalibrationOverview,
    Errors,
    GroupOverview,
    PredictedMetric,
)
from ctxsweep.report.predicted import EXACT, SHORT, percent
from ctxsweep.report.printer import Printer
from ctxsweep.report.units import SECONDS

MIXED = "*"
UNTOLD = {
    "weights": "the reading of weights",
    "cache": "the reading of cache or state",
    "linear": "products with weights",
    "attention": "products with the cache",
}
TOO_FAR: Mapping[PredictedMetric, float] = {"itl_s": 0.15, "prefill_s": 0.2}
"""Median errors that forecasts should stay within (docs/planning.md)."""
COLUMNS: tuple[tuple[PredictedMetric, str], ...] = (
    ("itl_s", "Decode"),
    ("prefill_s", "Prefill"),
    ("process_peak_bytes", "Process"),
)


def print_calibration(
    made: CalibrationOverview, path: Path, console: Console | None = None
) -> None:
    """Print how far predictions lie off, by metric and by group, and where the file is."""
    console = console or Console()
    say = Printer(console)
    for metric in PREDICTED:
        if metric in made.held_out:
            say.line(_answer(metric, made.held_out[metric]), style="bold")
    if any(made.held_out[m].median > far for m, far in TOO_FAR.items() if m in made.held_out):
        say.line(
            "That is too far off to plan with: the machine was busy or the run too short. Measure "
            "again with nothing else running: ctxsweep run long_ctx",
            style="yellow",
        )
    if made.held_out:
        say.line(
            "Of every series, each half of the contexts (every second one) was predicted by a "
            "fit of the other half; prefill is judged by what each context adds to the one before "
            "it, since a climb to the longer passes the shorter; the peak of the process, which "
            "carries over to all that follow, on the longer half."
        )
        if made.whole_prefill is not None:
            say.line(
                f"Whole prefills, a part of which these fits saw: {_spread(made.whole_prefill)}."
            )
    else:
        say.line(
            "No cells were held out, so how far predictions lie off is not known: that takes "
            "--holdout half and four contexts of a series."
        )
    if made.longer:
        say.line(f"The longer half of the contexts by a fit of the shorter: {_short(made.longer)}.")
    if made.sizes:
        say.line(f"Models of each size by a fit of the other sizes: {_short(made.sizes)}.")
    say.line("")
    console.print(_table(say, made.groups, console.is_terminal))
    say.line("Overhead: what a layer costs every call, besides arithmetic and reading.")
    mixed = {part for group in made.groups for part in group.untold}
    if mixed:
        words = " and ".join(UNTOLD[part] for part in UNTOLD if part in mixed)
        say.line(
            f"{MIXED} holds {words} too, which these cells do not tell from it (share put at 100%)"
            "; of a model of another size a forecast is then a guess."
        )
    untold = [group for group in made.groups if not group.held_out]
    if untold and made.held_out:
        say.line("–: too few contexts to hold half of them out; four will do.")
    say.line("")
    say.line(
        f"{made.machine}, {made.device}, {_threads(made.threads)}; fitted to all cells of "
        f"{', '.join(made.runs)}."
    )
    console.print(say.text(f"Written: {path}"), soft_wrap=True, highlight=False, markup=False)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _answer(metric: PredictedMetric, errors: Errors) -> str:
    cells = "1 cell" if errors.cells == 1 else f"{errors.cells} cells"
    if errors.worst < EXACT:
        return f"{SHORT[metric]}: exact on {cells}"
    if errors.median < EXACT:
        return f"{SHORT[metric]}: exact on most of {cells} (9 of 10 below {percent(errors.p90)})"
    return (
        f"{SHORT[metric]}: median error {percent(errors.median)} on {cells} it had not seen "
        f"(9 of 10 below {percent(errors.p90)})"
    )


def _spread(errors: Errors) -> str:
    return f"{percent(errors.median)} (9 of 10 below {percent(errors.p90)})"


def _short(errors: Mapping[PredictedMetric, Errors]) -> str:
    return ", ".join(
        f"{SHORT[metric]} {percent(errors[metric].median)}"
        for metric, _ in COLUMNS
        if metric in errors
    )


def _table(say: Printer, groups: tuple[GroupOverview, ...], framed: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD if framed else None, pad_edge=False)
    table.add_column("Median error")
    for head in ("Cells", *(head for _, head in COLUMNS), "Overhead"):
        table.add_column(head, justify="right")
    engines = list(dict.fromkeys(group.engine for group in groups))
    for engine in engines:
        if len(engines) > 1:
            table.add_row(say.text(engine))
        for group in groups:
            if group.engine == engine:
                table.add_row(*map(say.text, _row(group, indent="  " * (len(engines) > 1))))
    return table


def _row(group: GroupOverview, indent: str) -> tuple[str, ...]:
    errors = (_error(group.held_out.get(metric)) for metric, _ in COLUMNS)
    name = f"{indent}{group.kind}: {', '.join(group.models)}"
    return (name, str(group.cells), *errors, f"{SECONDS.text(group.call_s)}{_mark(group)}")


def _mark(group: GroupOverview) -> str:
    return MIXED if group.untold else ""


def _error(found: Errors | None) -> str:
    return "–" if found is None else percent(found.median)
