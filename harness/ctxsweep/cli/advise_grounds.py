"""What an answer of ``ctxsweep advise`` rests on: runs, a calibration, engines, a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ctxsweep.analysis.summary import Summary
from ctxsweep.backends.base import BACKENDS, InvalidSeries, Unsupported, resolve_backend
from ctxsweep.baselines import SUMMARY, baselines
from ctxsweep.cli import find
from ctxsweep.cli.errors import BadInput
from ctxsweep.cli.planned import device_of
from ctxsweep.machine import machine_slug
from ctxsweep.measure.environment import detect_device, physical_cores, read_environment
from ctxsweep.planning.advice.candidates import Candidate
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.gpu_names import is_gpu
from ctxsweep.planning.advice.needs import THIS_MACHINE, Needs
from ctxsweep.planning.calibration import file as calibration_file
from ctxsweep.planning.calibration.calibration import Calibration
from ctxsweep.planning.calibration.speeds import BadCalibration
from ctxsweep.planning.devices import Device, this_machine
from ctxsweep.records import Ceilings, Series
from ctxsweep.store import RunFolder, StoreError

# A server takes whatever it is told is there, so that its consent says nothing.
ASKED = tuple(name for name in BACKENDS if name != "server")
HERE = "this machine"
CHUNKS = (512, "whole")
ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True)
class Found:
    """The grounds, and the runs that were named."""

    grounds: Grounds
    given: tuple[Summary, ...]


def find_grounds(needs: Needs, names: Sequence[str], results: Path) -> Found:
    """Evidence from the runs named and from those of this machine. Raises ``BadInput``."""
    given = tuple(_summary(find.run_folder(name, results)) for name in names)
    machine = machine_slug(read_environment(detect_device(), physical_cores()))
    here = [run for run in _found(results) if _machine(run) == machine]
    here.sort(key=lambda run: run.started_at, reverse=True)
    known = {run.run_id: run for run in (*given, *here)}  # named before found, latest first
    calibration, notes = None, ()
    if needs.device.lower() == THIS_MACHINE:
        planned = _measured_device(given or here, machine, results)
        device = planned.device
        counting = [run for run in known.values() if planned.is_of(run)]
        if planned.machine == machine:
            calibration, notes = _calibration(results, machine, planned.ceilings)
    else:
        device = device_of(needs.device, None, None, results)
        counting = [run for run in known.values() if _is_on(run, device)]
    grounds = Grounds(
        device=device,
        engines=engines,
        runs=tuple(counting),
        quality_runs=tuple(run for run in known.values() if run.quality is not None),
        here=tuple(known.values()),
        calibration=calibration,
        engine_count=len(ASKED),
        notes=(*notes, *_of_others(given, counting, device)),
    )
    return Found(grounds, given)


def _of_others(
    given: Sequence[Summary], counting: Sequence[Summary], device: Device
) -> tuple[str, ...]:
    """Runs that were named, but are of another device or number of threads."""
    counted = {run.run_id for run in counting}
    return tuple(
        f"{run.scenario} {run.run_id} is of another device{_threads(run)}: its times do not "
        f"count for {device.name}"
        for run in given
        if run.run_id not in counted
    )


def engines(candidate: Candidate, context_tokens: int) -> tuple[str, ...]:
    """The engines whose check accepts the candidate's model, whole or in chunks, in bfloat16.

    Beyond the reach of its rotary positions: that accept it stretched by YaRN.
    """
    model = candidate.series.model if candidate.series is not None else candidate.name
    fields: dict[str, object] = {"name": "asked", "model": model, "dtype": "bfloat16"}
    if candidate.series is not None:
        laid_over = candidate.series.model_dump(include={"window", "sinks", "rope"})
        fields |= {key: value for key, value in laid_over.items() if value is not None}
    fields |= _stretched(candidate, context_tokens)
    return tuple(
        name
        for name in ASKED
        if any(_accepts({**fields, "backend": name, "prefill_chunk": c}) for c in CHUNKS)
    )


def _stretched(candidate: Candidate, context_tokens: int) -> dict[str, object]:
    attention, reach = candidate.config.attention, candidate.reach
    if attention is None or attention.position != "rope" or attention.rope is not None:
        return {}
    if reach is None or context_tokens <= reach:
        return {}
    factor = context_tokens / reach
    return {"rope": {"rope_type": "yarn", "factor": factor, ORIGINAL: reach}}


def _accepts(fields: dict[str, object]) -> bool:
    try:
        series = Series.model_validate(fields)
        resolve_backend(series.backend).check(series)
    except (InvalidSeries, Unsupported, ValidationError):
        return False
    return True


def _found(results: Path) -> list[Summary]:
    """Baselines, and of every scenario the latest run; those that cannot be read are left out."""
    latest: dict[str, Path] = {}
    for manifest in sorted(results.glob("*/*/manifest.json")):
        latest[manifest.parents[1].name] = manifest.parent
    found = []
    for path in (*baselines(results), *latest.values()):
        try:
            found.append(_summary(path))
        except (StoreError, BadInput):  # another's file, or one of a later version
            continue
    return found


def _summary(path: Path) -> Summary:
    """A run's summary: the one that lies there where it is of this version, else derived."""
    folder = RunFolder.open(path)
    try:
        text = (path / SUMMARY).read_text(encoding="utf-8")
        there = Summary.model_validate_json(text)
    except (OSError, ValueError):
        there = None
    if there is not None and there.run_id == folder.manifest.run_id:
        return there
    from ctxsweep.cli.sweep import derive

    return derive(folder)


def _machine(run: Summary) -> str | None:
    return machine_slug(run.environment) if run.environment is not None else None


def _threads(run: Summary) -> str:
    environment = run.environment
    if environment is None or environment.device != "cpu":
        return ""
    return f" or not of as many threads ({environment.threads})"


def _is_on(run: Summary, device: Device) -> bool:
    """Whether a run was on such a GPU."""
    gpu = run.environment.gpu if run.environment is not None else None
    return gpu is not None and is_gpu(device, gpu)


@dataclass(frozen=True)
class _Planned:
    """A machine that is planned for by its measured ceilings."""

    device: Device
    machine: str | None
    ceilings: Ceilings

    def is_of(self, run: Summary) -> bool:
        """Whether a run is of this machine, with as many threads."""
        threads = {ceilings.threads for ceilings in run.ceilings.values()}
        if not threads and run.environment is not None:
            threads = {run.environment.threads}
        return _machine(run) == self.machine and threads == {self.ceilings.threads}


def _measured_device(runs: Sequence[Summary], machine: str, results: Path) -> _Planned:
    """The machine of the run with most threads, of these the latest, by its ceilings; this one,
    measured now, if none has any."""
    for run in sorted(runs, key=lambda run: (_most_threads(run), run.started_at), reverse=True):
        if run.ceilings and run.environment is not None and run.environment.device == "cpu":
            most = max(run.ceilings.values(), key=lambda c: c.read_bytes_per_s)
            found = this_machine(most, run.environment.memory_bytes)
            slug = _machine(run)
            name = HERE if slug == machine else f"the {slug} of {run.scenario}"
            source = f"{found.source} ({run.scenario} {run.run_id})"
            named = found.model_copy(update={"name": name, "source": source})
            return _Planned(named, slug, most)
    measured = device_of(THIS_MACHINE, None, None, results)
    ceilings = Ceilings(
        device=detect_device(),
        threads=physical_cores(),
        matmul_flops_per_s=measured.flops_per_s,
        read_bytes_per_s=measured.read_bytes_per_s,
    )
    return _Planned(measured.model_copy(update={"name": HERE}), machine, ceilings)


def _most_threads(run: Summary) -> int:
    return max((ceilings.threads for ceilings in run.ceilings.values()), default=0)


def _calibration(
    results: Path, machine: str, ceilings: Ceilings
) -> tuple[Calibration | None, tuple[str, ...]]:
    """The calibration of this machine and its threads; one that cannot be used is left out, and
    said."""
    path = calibration_file.find(results, machine)
    if path is None:
        return None, ()
    try:
        found = calibration_file.load(path)
        calibration_file.check(found, path, machine, ceilings)
    except BadCalibration as error:
        return None, (str(error),)
    return found, ()
