"""``ctxsweep list`` and ``ctxsweep schema``."""

from __future__ import annotations

import json
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctxsweep.backends.base import BACKENDS
from ctxsweep.cli.complete import scenario_files
from ctxsweep.models import catalog
from ctxsweep.models.catalog_table import Row, by_family, row
from ctxsweep.models.pretrained import PRETRAINED
from ctxsweep.report.units import BYTES, TOKENS, Unit
from ctxsweep.scenario import ScenarioError, load_scenario
from ctxsweep.scenario_schema import json_schema

PARAMETERS = Unit("parameters", ((1.0, ""), (1e6, "M"), (1e9, "B")))
NOTE = (
    "trained: tokens of its training, before any stretching; of an encoder, the longest input. "
    "a token: bytes it adds to the cache in bfloat16, of an encoder-decoder those of a token read. "
    "at 128K: cache and state. Sources: docs/models.md."
)


def print_list(what: str) -> None:
    """Print a table of scenarios, models or backends."""
    tables: dict[str, Callable[[], Table]] = {
        "scenarios": scenarios,
        "models": models,
        "backends": backends,
    }
    Console().print(tables[what]())


def scenarios() -> Table:
    """Name, size and question of every scenario that is found by name."""
    table = Table("scenario", "series", "contexts", "question", box=None)
    for name, path in scenario_files().items():
        try:
            plan = load_scenario(path)
        except ScenarioError as error:
            table.add_row(name, "", "", f"not valid: {escape(str(error))}")
            continue
        span = f"{plan.contexts[0]}–{plan.contexts[-1]}"
        table.add_row(name, str(len(plan.series)), span, escape(plan.question))
    return table


def models() -> Table:
    """Every model that a scenario or a command may name, by family."""
    table = Table(box=None, padding=(0, 1, 0, 0), caption=NOTE, caption_justify="left")
    table.add_column("model", no_wrap=True)
    table.add_column("made of")
    for heading in ("size", "trained", "a token", "at 128K"):
        table.add_column(heading, justify="right", no_wrap=True)
    for family, rows in by_family().items():
        table.add_row(f"[bold]{family}[/bold]")
        for each in rows:
            table.add_row(f"  {each.name}", escape(each.made_of), *_figures(each))
    table.add_row("[bold]with weights[/bold]")
    for name in (*catalog.trained_names(), *PRETRAINED):
        table.add_row(f"  {name}", *_with_weights(name))
    return table


def _figures(each: Row) -> tuple[str, ...]:
    trained = "" if each.trained_tokens is None else TOKENS.text(each.trained_tokens)
    token = BYTES.text(each.token_bytes) if each.token_bytes else "0"
    far = "" if each.far_bytes is None else BYTES.text(each.far_bytes)
    return PARAMETERS.text(each.parameters), trained, token, far


def _with_weights(name: str) -> tuple[str, ...]:
    """What is known of a model that has weights, or how to get them."""
    if name in PRETRAINED and not PRETRAINED[name].path.is_file():
        return (escape(f"{PRETRAINED[name].summary}; ctxsweep fetch {name}"),)
    try:
        each = row(catalog.load_config(name))
    except catalog.UnknownModel as problem:  # a file of the cache that was damaged
        return (escape(str(problem)),)
    return (escape(each.made_of), *_figures(each))


def models_markdown() -> str:
    """The catalogue's table as ``docs/models.md`` has it."""
    lines = [
        "| model | made of | parameters | published | trained on | a token adds | at 128K | of |",
        "|---|---|--:|---|--:|--:|--:|---|",
    ]
    for family, rows in by_family().items():
        lines.append(f"| **{family}** | | | | | | | |")
        for each in rows:
            _, trained, token, far = _figures(each)
            count, published = f"{each.parameters:,}", _published(each)
            cells = (each.name, each.made_of, count, published, trained, token, far, each.source)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _published(each: Row) -> str:
    """The published count and who gives it; rounded figures as they were given."""
    told = each.published
    if told is None:
        return ""
    count = f"{told.parameters:,}"
    if told.rounded_to > 1:  # in the digits that were given
        size, unit = (1e9, "B") if told.parameters >= 1e9 else (1e6, "M")
        count = f"{told.parameters / size:g}{unit}"
    twice = ", with the tied head" if told.counts_tied_head else ""
    return f"{count}{twice}: {told.source}"


def backends() -> Table:
    """Every engine: what it drives, whether it runs here, and otherwise why not."""
    table = Table("backend", "drives", "here", box=None)
    for name, entry in BACKENDS.items():
        problem = entry.adapter().availability()
        here = "runs" if problem is None else f"no: {problem.reason}. {problem.remedy}".strip()
        table.add_row(name, entry.summary, here)
    return table


def schema_text() -> str:
    """The JSON schema of scenario files, as it is committed."""
    schema = json_schema(catalog.all_names(), list(BACKENDS))
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
