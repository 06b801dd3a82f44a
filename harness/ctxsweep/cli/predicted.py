"""What a run could have been predicted to take: with this machine's calibration, or as bounds."""

from __future__ import annotations

from pathlib import Path

from ctxsweep.analysis.predicted import Predictions
from ctxsweep.machine import machine_slug
from ctxsweep.planning.calibration.calibration import Calibration
from ctxsweep.planning.calibration.file import check, find, load
from ctxsweep.planning.calibration.observed import Run, observe
from ctxsweep.planning.calibration.overlay import overlay
from ctxsweep.planning.calibration.speeds import BadCalibration
from ctxsweep.store import RunFolder


def predictions_of(folder: RunFolder, results: Path) -> Predictions:
    """A run's predictions; why a calibration cannot be used is said in ``why_bounds``."""
    run = observe(folder.manifest.run_id, folder.records())
    try:
        path, calibration = _calibration(folder, run, results)
    except BadCalibration as error:
        return overlay(run, why_bounds=str(error))
    return overlay(run, calibration, file=str(path or ""))


def results_of(run: Path) -> Path:
    """The folder with the runs: ``<results>/<scenario>/<run_id>``, or that of a baseline."""
    above = run.resolve().parents
    committed = next((path.parent for path in above if path.name == "baselines"), None)
    return committed or above[min(1, len(above) - 1)]


def _calibration(
    folder: RunFolder, run: Run, results: Path
) -> tuple[Path | None, Calibration | None]:
    """The calibration of the run's machine, if there is one. Raises ``BadCalibration``."""
    environment = folder.manifest.environment
    if environment is None or run.ceilings is None:
        return None, None
    machine = machine_slug(environment)
    path = find(results, machine)
    if path is None:
        return None, None
    calibration = load(path)
    check(calibration, path, machine, run.ceilings)
    return path, calibration
