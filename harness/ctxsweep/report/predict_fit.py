"""What fits: a table for the terminal and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctxsweep.planning.answers import Fit, FitRow, FitTable
from ctxsweep.report.predict_layout import column_groups
from ctxsweep.report.predict_markdown import table as markdown_table
from ctxsweep.report.printer import Printer
from ctxsweep.report.units import SECONDS, TOKENS
from ctxsweep.scenario_units import MAX_CONTEXT_TOKENS

SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
GIGA = 1e9
BEYOND = "*: longer than it was trained or stretched for"


def print_fit(found: FitTable, console: Console | None = None) -> None:
    """Print what fits with its longest context and largest batch, then what does not."""
    console = console or Console()
    say = Printer(console)
    fitting, others = _parted(found)
    say.line(headline(found, fitting), style="bold")
    say.line(assumptions(found), style="dim")
    if fitting:
        say.line("")
        _print_table(say, console, found, fitting)
        say.line("")
        say.line(legend(found), style="dim")
    for line in _leftover(others):
        say.line(line)


def headline(found: FitTable, fitting: Sequence[FitRow]) -> str:
    """How much memory, and the largest models that fit; first those whose training reaches it."""
    where = place(found)
    at = f"{TOKENS.text(found.context_tokens)} tokens"
    if not fitting:
        return f"None of {len(found.rows)} models fits {at} into {where}."
    reached = [row for row in fitting if understands(row, found)]
    if not reached:
        return f"Into {where} fit, with {at}, up to {_best(found, fitting)}: trained for less."
    best = _best(found, reached)
    said = f"Into {where} fit, with {at}, up to {best}."
    larger = [row for row in fitting if row.parameters > max(one.parameters for one in reached)]
    return f"{said} Trained for less: {_best(found, larger)}." if larger else said


def understands(row: FitRow, found: FitTable) -> bool:
    """Whether a model was trained, or is stretched, to the table's context, as far as is known."""
    return row.reach_tokens is None or row.reach_tokens >= found.context_tokens


def _best(found: FitTable, rows: Sequence[FitRow]) -> str:
    """The largest of the rows in every type that takes a larger one: ``A in bf16, B in int8``."""
    best: dict[str, str] = {}
    for index, dtype in enumerate(found.weight_dtypes):
        held = [row for row in rows if reaches(row.fits[index], found)]
        if held:
            best.setdefault(held[0].model, f"{held[0].model} in {short(dtype)}")
    return ", ".join(best.values())


def place(found: FitTable) -> str:
    """``24 GB``, ``8 × 80 GB``, ``H100 (80 GB)``."""
    size = f"{found.memory_bytes / GIGA:.4g} GB"
    if found.device is not None:
        size = f"{found.device} ({size})"
    return size if found.devices == 1 else f"{found.devices} × {size}"


def assumptions(found: FitTable) -> str:
    """What the figures stand on."""
    cache = "as computed with" if found.kv_dtype == "auto" else found.kv_dtype
    states = "float32" if found.state_dtype == "float32" else "as computed with"
    return (
        f"Weights, activations of one prefill call, cache ({cache}) and states ({states}); "
        f"{found.reserve_share:.0%} of the memory kept back. Computed, not run."
    )


def legend(found: FitTable) -> str:
    """What the columns and marks say."""
    batch = "" if found.batch_size == 1 else f" with batch {found.batch_size}"
    said = [
        f"context: the longest that fits{batch}",
        f"batch: sequences of {TOKENS.text(found.context_tokens)} tokens at once",
    ]
    if found.device is not None:
        said.append("token: least time of a decode step there, of the first type that fits")
    said.append(f"any: no context is too long; {BEYOND}; –: does not fit")
    return "; ".join(said) + "."


def heads(found: FitTable) -> tuple[str, ...]:
    """The columns' names."""
    names = [short(dtype) for dtype in found.weight_dtypes]
    timed = ("token",) if found.device is not None else ()
    contexts = [f"context\n{name}" for name in names]
    return ("model", "size", *contexts, *(f"batch\n{name}" for name in names), *timed)


def row_texts(found: FitTable, row: FitRow) -> tuple[str, ...]:
    """A model's texts, as in ``heads``."""
    contexts = [longest(fit, row) for fit in row.fits]
    batches = [most_sequences(fit) if fit.largest_batch else "–" for fit in row.fits]
    timed: tuple[str, ...] = ()
    if found.device is not None:
        seconds = next((fit.decode_s for fit in row.fits if fit.decode_s is not None), None)
        timed = ("–" if seconds is None else SECONDS.text(seconds),)
    return (row.model, size(row), *contexts, *batches, *timed)


def longest(fit: Fit, row: FitRow) -> str:
    """The longest context of a model in a type."""
    if fit.longest_context == 0:
        return "–"
    beyond = row.reach_tokens is not None and (
        fit.longest_context is None or fit.longest_context > row.reach_tokens
    )
    text = "any" if fit.longest_context is None else TOKENS.text(fit.longest_context)
    if fit.longest_context == MAX_CONTEXT_TOKENS:
        text = f"≥{text}"
    return f"{text}*" if beyond else text


def most_sequences(fit: Fit) -> str:
    """The largest batch, as far as it was looked for."""
    return f"{'≥' if fit.larger_not_sought else ''}{fit.largest_batch:,}"


def reaches(fit: Fit, found: FitTable) -> bool:
    """Whether the table's context fits."""
    return fit.longest_context is None or fit.longest_context >= found.context_tokens


def size(row: FitRow) -> str:
    """``8.03B``, ``129M``."""
    billions = row.parameters / 1e9
    return f"{billions:.3g}B" if billions >= 1 else f"{row.parameters / 1e6:.3g}M"


def short(dtype: str) -> str:
    """A type's short name."""
    return SHORT.get(dtype, dtype)


def markdown(tables: Sequence[FitTable]) -> str:
    """One amount of memory: as in the terminal. Several: a table per type, memories side by side,
    with the longest context and in brackets the largest batch."""
    if len(tables) == 1:
        found = tables[0]
        names = [head.replace("\n", ", ") for head in heads(found)]
        fitting, others = _parted(found)
        body = markdown_table(names, [row_texts(found, row) for row in fitting])
        notes = [assumptions(found), legend(found), *_leftover(others)]
        return "\n".join([headline(found, fitting), "", body, *notes]) + "\n"
    parts = [f"{assumptions(tables[0])} {several_legend(tables[0])}\n"]
    for index, dtype in enumerate(tables[0].weight_dtypes):
        by_model = [{row.model: row for row in one.rows} for one in tables]
        rows = []
        for row in tables[0].rows:
            cells = [_both(held[row.model], index) for held in by_model]
            rows.append((row.model, size(row), *cells))
        names = ("model", "size", *(place(one) for one in tables))
        parts.append(f"### Weights in {dtype}\n\n{markdown_table(names, rows)}")
    return "\n".join(parts)


def several_legend(found: FitTable) -> str:
    """What a cell of several memories side by side says."""
    batch = "" if found.batch_size == 1 else f" with batch {found.batch_size}"
    return (
        f"A cell: the longest context that fits{batch}, and in brackets how many sequences of "
        f"{TOKENS.text(found.context_tokens)} tokens fit at once; any: no context is too long; "
        f"{BEYOND}; –: does not fit; not split: its heads do not divide by so many devices."
    )


def _both(row: FitRow, index: int) -> str:
    if row.problem:
        return "not split"
    fit = row.fits[index]
    text = longest(fit, row)
    return text if text == "–" else f"{text} ({most_sequences(fit)})"


def _parted(found: FitTable) -> tuple[list[FitRow], list[FitRow]]:
    """Rows in which something reaches the table's context, and the rest."""
    fitting = [row for row in found.rows if any(reaches(fit, found) for fit in row.fits)]
    return fitting, [row for row in found.rows if row not in fitting]


def _leftover(rows: Sequence[FitRow]) -> list[str]:
    """What is not in the table, and why."""
    unsplit = [row.model for row in rows if row.problem]
    large = [row.model for row in rows if not row.problem and not any(map(_any, row.fits))]
    shorter = [row for row in rows if not row.problem and any(map(_any, row.fits))]
    said = []
    if large:
        said.append(f"Do not fit in any of these types: {', '.join(large)}.")
    if shorter:
        listed = ", ".join(f"{row.model} ({_most(row)})" for row in shorter)
        said.append(f"Only with a shorter context: {listed}.")
    if unsplit:
        said.append(f"Cannot be split over so many devices: {', '.join(unsplit)}.")
    return said


def _any(fit: Fit) -> bool:
    return fit.longest_context != 0


def _most(row: FitRow) -> str:
    return TOKENS.text(max(fit.longest_context or 0 for fit in row.fits))


def _print_table(say: Printer, console: Console, found: FitTable, rows: Sequence[FitRow]) -> None:
    titles = heads(found)
    texts = [[say.text(text) for text in row_texts(found, row)] for row in rows]
    for columns in column_groups(titles, texts, console.width, gap=1):
        table = Table(box=None, pad_edge=False, header_style="dim", collapse_padding=True)
        for i in columns:
            table.add_column(titles[i], justify="right" if i else "left", no_wrap=True)
        for row in texts:
            table.add_row(*(Text(row[i]) for i in columns))
        console.print(table)
