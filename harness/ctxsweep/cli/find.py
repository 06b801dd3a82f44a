"""From what was typed to what is meant: a scenario, a device, a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ctxsweep.backends.base import InvalidSeries, Unsupported, resolve_backend
from ctxsweep.cli.complete import scenario_files
from ctxsweep.cli.errors import BadInput
from ctxsweep.cli.quality import check_quality
from ctxsweep.execute.frontier import with_positions
from ctxsweep.records import Series
from ctxsweep.scenario import Device, Scenario, load_scenario
from ctxsweep.scenario_messages import nearest
from ctxsweep.store import RunFolder, StoreError
from ctxsweep.store import run_folders as folders_of_scenario


def scenario(
    name: str,
    device: str,
    settings: Sequence[str] = (),
    *,
    contexts: str | None = None,
    series: str | None = None,
    seed: int | None = None,
) -> Scenario:
    """Load a scenario by name or path, checked by its engines and against its text too."""
    path = scenario_path(name)
    found = load_scenario(
        path,
        resolve_device(device),
        settings,
        contexts=contexts,
        series=series,
        seed=seed,
        find_problem=find_problem,
    )
    check_quality(found, str(path))
    return with_positions(found)


def scenario_path(name: str) -> Path:
    """The file of a scenario: a path that exists, or a name in a scenario folder."""
    if "\0" in name:
        raise BadInput("a scenario's name holds no NUL character")
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.is_file():
        return path
    files = scenario_files()
    if name not in files:
        hint = nearest(name, list(files))
        raise BadInput(f"no scenario is named '{name}'; {hint} A path ends in .yaml.")
    return files[name]


def find_problem(series: Series) -> tuple[str, str] | None:
    """Key and message if the series can never run on its engine."""
    outside = series.backend.partition(":")
    if outside[1] and not all(part.isidentifier() for part in (*outside[0].split("."), outside[2])):
        return "backend", f"'{series.backend}' is not module:Class of an adapter"
    try:
        adapter = resolve_backend(series.backend)
        if not hasattr(adapter, "check"):
            return "backend", f"'{series.backend}' is not an adapter: it has no check()"
        adapter.check(series)
    except InvalidSeries as error:
        return error.key, error.message
    except Unsupported as error:
        return "backend", str(error)
    return None


def resolve_device(wanted: str) -> Device:
    """``auto`` becomes what this machine has."""
    if wanted != "auto":
        return cast(Device, wanted)
    from ctxsweep.measure.environment import detect_device

    return cast(Device, detect_device())


def require_device(device: Device) -> None:
    """Raises ``BadInput`` if a GPU is asked for and none answers."""
    from ctxsweep.measure.environment import detect_device

    if device == "cuda" and detect_device() != "cuda":
        raise BadInput("--device cuda: no NVIDIA GPU answers here; use --device cpu, or --dry-run")


def run_folder(name: str | None, results: Path) -> Path:
    """A run's folder from a path, its id, a scenario's name (its latest run; ``smoke~1`` is the one
    before) or nothing (the latest of all)."""
    if name is None:
        runs = sorted(_all_runs(results), key=lambda path: path.name)
        if not runs:
            raise BadInput(f"no run lies under {results}/; make one: ctxsweep run smoke")
        return runs[-1]
    if (Path(name) / "manifest.json").is_file():
        return Path(name)
    plain, tilde, back = name.rpartition("~")
    if tilde and not Path(name).exists():
        return _earlier(plain, back, results)
    runs = list(folders_of_scenario(results, name)) if Path(name).name == name else []
    runs = runs or [path for path in _all_runs(results) if path.name == name]
    if not runs:
        known = sorted({path.parent.name for path in _all_runs(results)})
        hint = nearest(name, known) if known else "make one: ctxsweep run smoke"
        raise BadInput(f"'{name}' is neither a run's folder nor has it runs in {results}/; {hint}")
    return runs[-1]


def _earlier(name: str, back: str, results: Path) -> Path:
    runs = list(folders_of_scenario(results, name)) if Path(name).name == name else []
    if not back.isdecimal():
        raise BadInput(f"{name}~{back}: after ~ comes a number, as in {name or 'smoke'}~1")
    if int(back) >= len(runs):
        raise BadInput(f"{name}~{back}: {name} has {len(runs)} runs in {results}/")
    return runs[-1 - int(back)]


def latest_quality(results: Path) -> Path | None:
    """The latest run that measured quality."""
    runs = sorted(_all_runs(results), key=lambda path: path.name, reverse=True)
    return next((path for path in runs if _has_quality(path)), None)


def _has_quality(path: Path) -> bool:
    try:
        return any(record.quality is not None for record in RunFolder.open(path).records())
    except StoreError:  # another's run, or one of a later version
        return False


def run_folders(names: Sequence[str], results: Path) -> tuple[Path, ...]:
    """The folders named, or all under ``results`` but committed ones, of other machines perhaps."""
    if names:
        return tuple(run_folder(name, results) for name in names)
    runs = tuple(sorted(_all_runs(results)))
    if not runs:
        raise BadInput(f"no run lies under {results}/; make one: ctxsweep run smoke")
    return runs


def _all_runs(results: Path) -> list[Path]:
    """``<scenario>/<run_id>``; what is committed lies deeper, in ``baselines/``, and is not new."""
    return [path.parent for path in results.glob("*/*/manifest.json")]
