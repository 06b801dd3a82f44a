"""``ctxsweep calibrate``: this machine's own speeds, fitted to a run of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctxsweep.cli.errors import EXIT_CODES, BadInput, said_plainly
from ctxsweep.cli.options import Results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxsweep.planning.calibration.calibration import Calibration
    from ctxsweep.store import RunFolder

SCENARIO = "long_ctx"


class HoldOut(StrEnum):
    """Which cells a fit is judged on."""

    half = "half"
    none = "none"


def calibrate(
    run_names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help=f"Runs of one machine: folders or scenarios. Default: the latest of {SCENARIO}.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Default: calibration/<machine>.yaml in the folder with the runs."
        ),
    ] = None,
    holdout: Annotated[
        HoldOut,
        typer.Option(
            help="half: first say how far fits of one half of the contexts miss the other half."
        ),
    ] = HoldOut.half,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
    results: Results = Path("results"),
) -> None:
    """Fit this machine's own speeds to a run, so that predictions are forecasts, not bounds.

    Says first how far it misses cells that a fit has not seen; then fits all and writes the file.
    """
    with said_plainly():
        made = fitted(run_names or (), results, hold_out=holdout is HoldOut.half)
        path = write(made, out, results)
        if json_:
            typer.echo(made.model_dump_json(indent=1))
            return
        from ctxsweep.report.calibration import print_calibration

        print_calibration(made.overview(), path)


def fitted(names: Sequence[str], results: Path, *, hold_out: bool = True) -> Calibration:
    """The calibration of runs by name; of the latest of ``long_ctx`` without any."""
    from ctxsweep.planning.calibration.fit import calibrate as fit
    from ctxsweep.planning.calibration.observed import observe
    from ctxsweep.planning.calibration.speeds import BadCalibration
    from ctxsweep.store import utc_now

    folders = run_folders(names, results)
    machine, commit = _machine(folders)
    try:
        runs = [observe(folder.manifest.run_id, folder.records()) for folder in folders]
        return fit(runs, machine, utc_now(), commit, hold_out=hold_out)
    except BadCalibration as error:
        raise BadInput(str(error)) from None


def run_folders(names: Sequence[str], results: Path) -> list[RunFolder]:
    """The runs named, or the latest of ``long_ctx``. Raises ``BadInput``."""
    from ctxsweep.cli import find
    from ctxsweep.store import RunFolder
    from ctxsweep.store import run_folders as of_scenario

    if names:
        return [RunFolder.open(find.run_folder(name, results)) for name in names]
    latest = of_scenario(results, SCENARIO)
    if not latest:
        raise BadInput(
            f"no run of {SCENARIO} lies in {results}/; make one: ctxsweep run {SCENARIO}, "
            "or name a run: ctxsweep calibrate RUN"
        )
    return [RunFolder.open(latest[-1])]


def _machine(folders: Sequence[RunFolder]) -> tuple[str, str | None]:
    """The one machine of the runs, and the commit of the last. Raises ``BadInput``."""
    from ctxsweep.machine import machine_slug

    found: dict[str, str] = {}
    commit = None
    for folder in folders:
        environment = folder.manifest.environment
        if environment is None:
            raise BadInput(f"{folder.path}: stored no environment, so its machine is not known")
        found[machine_slug(environment)] = str(folder.path)
        commit = environment.commit
    if len(found) > 1:
        words = ", ".join(f"{path} is of {machine}" for machine, path in found.items())
        raise BadInput(f"{words}; a calibration is of one machine")
    return next(iter(found)), commit


def write(calibration: Calibration, out: Path | None, results: Path) -> Path:
    """Write the file where it was asked for, or where others look for it."""
    from ctxsweep.planning.calibration.file import own_file, save

    path = out or own_file(results, calibration.machine)
    if path.is_dir():
        raise BadInput(f"--out {path}: is a folder; name a file: --out {path / 'mine.yaml'}")
    save(calibration, path)
    return path


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(epilog=f"Exit codes: {EXIT_CODES}")(calibrate)
