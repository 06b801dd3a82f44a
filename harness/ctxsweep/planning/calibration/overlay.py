"""Predictions beside what a run measured, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator

from ctxsweep.analysis.predicted import (
    PREDICTED,
    Basis,
    CalibrationUsed,
    PredictedCell,
    PredictedMetric,
    Predictions,
)
from ctxsweep.planning.calibration.calibration import Calibration
from ctxsweep.planning.calibration.observed import Observed, Run
from ctxsweep.planning.devices import Device, this_machine
from ctxsweep.planning.footprint import footprint
from ctxsweep.planning.roofline import decode_bound, prefill_bound


def overlay(
    run: Run, calibration: Calibration | None = None, *, file: str = "", why_bounds: str = ""
) -> Predictions:
    """Every measured figure of a run that can be predicted.

    Times come from the calibration where it knows the code path, else they are bounds at the run's
    own ceilings; weights and cache come from the formula. ``file`` is where the calibration lies,
    ``why_bounds`` says why there is none.
    """
    device = None if run.ceilings is None else this_machine(run.ceilings, memory_bytes=1 << 40)
    cells = [found for cell in run.cells for found in _of_cell(cell, calibration, device)]
    missing = dict(run.missing)
    timed = {cell.series for cell in cells if cell.metric in ("itl_s", "prefill_s")}
    for cell in run.cells:
        if cell.series not in timed:
            missing.setdefault(cell.series, run.problem or _why_untimed(cell))
    return Predictions(
        run_id=run.run_id,
        calibration=_used(calibration, file),
        why_bounds="" if calibration else why_bounds,
        cells=tuple(cells),
        missing=missing,
    )


def _why_untimed(cell: Observed) -> str:
    if not cell.here:
        return "another process does its work, at ceilings that are not known"
    return "no time of it was measured"


def _of_cell(
    cell: Observed, calibration: Calibration | None, device: Device | None
) -> Iterator[PredictedCell]:
    for metric in PREDICTED:
        measured = cell.values.get(metric)
        if measured is None:
            continue
        found = _predicted(metric, cell, calibration, device)
        if found is not None and found[1] > 0:
            yield PredictedCell(
                series=cell.series,
                context_tokens=cell.context_tokens,
                batch_size=cell.deployment.batch_size,
                metric=metric,
                basis=found[0],
                predicted=found[1],
                measured=measured,
                beyond=_beyond(metric, cell, calibration) if found[0] == "calibration" else (),
            )


def _beyond(
    metric: PredictedMetric, cell: Observed, calibration: Calibration | None
) -> tuple[str, ...]:
    if calibration is None:
        return ()
    return calibration.beyond(
        cell.config, cell.deployment, cell.context_tokens, cell.backend, metric
    )


def _predicted(
    metric: PredictedMetric,
    cell: Observed,
    calibration: Calibration | None,
    device: Device | None,
) -> tuple[Basis, float] | None:
    """What the prediction rests on, and its value."""
    config, deployment, context = cell.config, cell.deployment, cell.context_tokens
    if metric == "held_bytes":
        held = footprint(config, deployment, context)
        return "formula", held.weights_bytes + held.cache_bytes
    if calibration is not None:
        value = calibration.predict(metric, config, deployment, context, cell.backend)
        if value is not None:
            return "calibration", value
    if device is None or not cell.here or metric == "process_peak_bytes":
        return None
    if deployment.activation_dtype not in device.flops_per_s:
        return None
    bound = decode_bound if metric == "itl_s" else prefill_bound
    return "bound", bound(config, deployment, device, context).seconds


def _used(calibration: Calibration | None, file: str) -> CalibrationUsed | None:
    if calibration is None:
        return None
    return CalibrationUsed(
        file=file,
        made_at=calibration.made_at,
        runs=calibration.runs,
        held_out=calibration.held_out,
    )
