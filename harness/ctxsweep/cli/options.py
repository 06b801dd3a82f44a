"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ctxsweep.cli import complete


class DeviceChoice(StrEnum):
    """Which profile of a scenario is run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Listed(StrEnum):
    """What ``ctxsweep list`` can list."""

    scenarios = "scenarios"
    models = "models"
    backends = "backends"


class ExportFormat(StrEnum):
    """Formats of ``ctxsweep export``."""

    csv = "csv"
    parquet = "parquet"
    md = "md"
    hud = "hud"
    otava = "otava"


ScenarioName = Annotated[
    str,
    typer.Argument(
        metavar="SCENARIO",
        help="Name of a scenario (see: ctxsweep list scenarios) or path of a YAML file.",
        autocompletion=complete.scenarios,
    ),
]
Contexts = Annotated[
    str | None,
    typer.Option(help="Context lengths instead of the scenario's: 4k,8k or 1k-128k*2."),
]
SeriesNames = Annotated[
    str | None,
    typer.Option("--series", help="Only these series of the scenario, parted by commas."),
]
Device = Annotated[
    DeviceChoice, typer.Option(help="Profile to run; auto takes cuda where a GPU answers.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set any key: procedure.repeats=5. Repeatable."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of prompts, weights and order.")]
RunName = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="Folder of a run, or a scenario's name for its latest. Default: the latest of all.",
    ),
]
Results = Annotated[Path, typer.Option("--results", help="Folder with the runs.", metavar="DIR")]
Out = Annotated[Path, typer.Option(help="Folder for results.", metavar="DIR")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the latest run: measure what is missing.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan with an estimate; measure nothing.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only the page's path.")]
Verbose = Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more of each cell.")]
