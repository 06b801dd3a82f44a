"""``calibration.yaml``: written, found and read, and checked to be of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ctxsweep.planning.calibration.calibration import (
    CALIBRATION_VERSION,
    Calibration,
)
from ctxsweep.planning.calibration.speeds import BadCalibration
from ctxsweep.records import Ceilings
from ctxsweep.store import write_atomic

FILE = "calibration.yaml"


def own_file(results: Path, machine: str) -> Path:
    """Where ``ctxsweep calibrate`` puts the calibration of a machine."""
    return results / "calibration" / f"{machine}.yaml"


def find(results: Path, machine: str) -> Path | None:
    """The calibration of a machine: its own, else the one committed beside its baselines."""
    places = own_file(results, machine), results / "baselines" / machine / FILE
    return next((path for path in places if path.is_file()), None)


def save(calibration: Calibration, path: Path) -> None:
    """Write the file as a whole, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = _rounded(calibration.model_dump(mode="json", exclude_none=True))
    head = "# Written by `ctxsweep calibrate`; docs/planning.md says what the figures mean.\n"
    write_atomic(path, head + yaml.safe_dump(body, sort_keys=False, allow_unicode=True))


def _rounded(value: Any) -> Any:
    """Six digits of every fraction: more are of no use to a reader."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def load(path: Path) -> Calibration:
    """Raises ``BadCalibration`` if the file is not there, not whole, or of another version."""
    again = "make it anew: ctxsweep calibrate"
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadCalibration(f"{path}: there is no such file; {again}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0]
        raise BadCalibration(f"{path}: not YAML ({line}); {again}") from None
    if not isinstance(body, dict):
        raise BadCalibration(f"{path}: not a calibration; {again}")
    version = body.get("schema_version")
    if version != CALIBRATION_VERSION:
        raise BadCalibration(
            f"{path}: schema_version is {version}, this ctxsweep reads {CALIBRATION_VERSION}; "
            f"{again}"
        )
    try:
        return Calibration.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadCalibration(f"{path}: {key}: {first['msg']}; {again}") from None


def check(calibration: Calibration, path: Path, machine: str, ceilings: Ceilings) -> None:
    """Raise ``BadCalibration`` if it is of another machine, device or number of threads."""
    if calibration.machine != machine:
        raise BadCalibration(
            f"{path}: was made on {calibration.machine}, this is {machine}; "
            "make one here: ctxsweep calibrate"
        )
    had, has = calibration.ceilings, ceilings
    if (had.device, had.threads) != (has.device, has.threads):
        raise BadCalibration(
            f"{path}: is of {had.device} with {had.threads} threads, this is {has.device} with "
            f"{has.threads}; calibrate with a run of that kind: ctxsweep calibrate RUN"
        )
