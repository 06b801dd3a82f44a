"""Commands that say whether anything got worse: compare, baseline, history, nightly, selftest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctxsweep.cli import complete
from ctxsweep.cli.errors import EXIT_CODES, EXIT_FAILED, EXIT_REGRESSION, said_plainly
from ctxsweep.cli.options import Device, DeviceChoice, Results, RunName, Settings

SideName = Annotated[
    str | None,
    typer.Argument(
        help="A run's folder, a scenario (its latest run; smoke~1 is the one before), a folder of "
        "runs, 'baseline', or a JSON file of pytest-benchmark.",
    ),
]
Why = Annotated[str, typer.Option("--why", help="Why this run is the one: said in the file.")]
NoRecheck = Annotated[
    bool, typer.Option("--no-recheck", help="Do not measure suspects again before an alarm.")
]


def compare(
    base: SideName = None,
    new: SideName = None,
    across: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="Compare although these differ: machine, threads, versions, settings, contended. "
            "Repeatable.",
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=SHARE",
            help="Smallest change worth an alarm, over the scenario's: itl_s=5%. Repeatable.",
        ),
    ] = None,
    recheck: Annotated[
        bool,
        typer.Option("--recheck", help="Measure suspects again, in turn with the base's build."),
    ] = False,
    fail_on_regression: Annotated[
        bool,
        typer.Option(
            "--fail-on-regression",
            help="Exit with 3 if anything is SLOW, 1 if no time was compared "
            "or NEW is not complete.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for compare.html, comparison.md, junit.xml and JSON."
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show equal lines too.")] = False,
    results: Results = Path("results"),
) -> None:
    """Say what is faster, slower or the same in NEW than in BASE, with intervals.

    Without names: the latest run beside its baseline.
    """
    with said_plainly():
        from ctxsweep.cli.compare import compare_named

        found = compare_named(
            base,
            new,
            results,
            across=across or (),
            thresholds=threshold or (),
            out=out,
            recheck=recheck,
            verbose=verbose,
        )
    if fail_on_regression and found.regressions:
        raise typer.Exit(EXIT_REGRESSION)
    if fail_on_regression and (found.blind or found.new.missing_cells):
        raise typer.Exit(EXIT_FAILED)


def nightly(
    scenario: Annotated[
        str,
        typer.Argument(
            metavar="SCENARIO", help="Default: nightly.", autocompletion=complete.scenarios
        ),
    ] = "nightly",
    device: Device = DeviceChoice.auto,
    settings: Settings = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Default: this machine's baseline, else the run before this one."
        ),
    ] = None,
    no_recheck: NoRecheck = False,
    out: Annotated[Path, typer.Option(help="Folder for results.", metavar="DIR")] = Path("results"),
) -> None:
    """Sweep, benchmark, compare, keep the history: the whole job; exit 3 on a regression."""
    with said_plainly():
        from ctxsweep.cli.nightly import nightly as night

        code = night(
            scenario,
            device.value,
            {"settings": settings or ()},
            out,
            base=base,
            recheck=not no_recheck,
        )
    raise typer.Exit(code)


def selftest(
    scenario: Annotated[
        str | None,
        typer.Argument(metavar="SCENARIO", help="Default: a small table of tiny models."),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="Time for measuring.")] = 10.0,
    device: Device = DeviceChoice.auto,
    results: Results = Path("results"),
) -> None:
    """Measure how often comparisons on this machine would be wrong, and what they can detect."""
    with said_plainly():
        from ctxsweep.cli.selftest import selftest as measure_self

        measure_self(scenario, minutes, device.value, results)


baseline = typer.Typer(
    help="Runs that later ones are compared with: chosen by a person, never renewed by themselves.",
    no_args_is_help=True,
)


@baseline.command()
def bless(
    run_name: RunName = None,
    why: Why = "",
    who: Annotated[str | None, typer.Option("--who", help="Default: git's user.name.")] = None,
    allow_dirty: Annotated[
        bool,
        typer.Option("--allow-dirty", help="Though it was measured with changes on its commit."),
    ] = False,
    results: Results = Path("results"),
) -> None:
    """Make a complete run the baseline of its scenario on its machine."""
    with said_plainly():
        from ctxsweep.cli import find
        from ctxsweep.cli.baseline import bless as make

        make(find.run_folder(run_name, results), results, who, why, allow_dirty=allow_dirty)


@baseline.command(name="list")
def list_(results: Results = Path("results")) -> None:
    """Show which run is the baseline of what, who said so, when and why."""
    with said_plainly():
        from ctxsweep.cli.baseline import print_baselines

        print_baselines(results)


history = typer.Typer(
    help="Figures of every night in one table per machine and scenario.", no_args_is_help=True
)


@history.command()
def add(
    run_name: RunName = None,
    bench: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON of pytest-benchmark to add too.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Add a run to its history; one that is in it is replaced."""
    with said_plainly():
        from ctxsweep.cli import find
        from ctxsweep.cli.history import add_to_history

        place = add_to_history(find.run_folder(run_name, results), results, bench)
        typer.echo(str(place))


@history.command()
def trend(
    scenario: Annotated[
        str | None, typer.Argument(metavar="SCENARIO", help="Default: the latest history.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Find lasting shifts in a history with Apache Otava, and draw it."""
    with said_plainly():
        from ctxsweep.cli.history import show_trend

        show_trend(scenario, results)


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    codes = f"Exit codes: {EXIT_CODES}"
    for command in (compare, nightly, selftest):
        app.command(epilog=codes)(command)
    app.add_typer(baseline, name="baseline")
    app.add_typer(history, name="history")
