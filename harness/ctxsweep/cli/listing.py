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
from ctxsweep.models.pretrained import PRETRAINED
from ctxsweep.scenario import ScenarioError, load_scenario
from ctxsweep.scenario_schema import json_schema


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
    """Name, shape and source of every model of the catalogue, shipped with weights or fetched."""
    table = Table("model", "mixer", "layers", "hidden", "source", box=None)
    for name in catalog.all_names():
        if name in PRETRAINED and not PRETRAINED[name].path.is_file():
            table.add_row(name, "", "", "", f"{PRETRAINED[name].summary}; ctxsweep fetch {name}")
            continue
        try:
            config = catalog.load_config(name)
        except catalog.UnknownModel as problem:  # a file of the cache that was damaged
            table.add_row(name, "", "", "", escape(str(problem)))
            continue
        mixers = " + ".join(dict.fromkeys(config.layer_mixers()))
        shape = str(config.num_layers), str(config.hidden_size)
        table.add_row(name, mixers, *shape, config.source)
    return table


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
