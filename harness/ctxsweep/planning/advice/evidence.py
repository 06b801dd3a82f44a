"""What a figure rests on: measured here, else calibrated here, else the least that physics allows.

Times of a run are those of its machine and count only for that; bytes are exact anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.metrics import METRICS
from ctxsweep.analysis.predicted import PredictedMetric
from ctxsweep.analysis.summary import CellSummary, Summary
from ctxsweep.analysis.wording import context_label
from ctxsweep.planning.advice.candidates import Candidate
from ctxsweep.planning.advice.decision import Figure
from ctxsweep.planning.calibration.calibration import Calibration
from ctxsweep.planning.calibration.speeds import BadCalibration
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import Device
from ctxsweep.planning.roofline import predict
from ctxsweep.records import Series

T = TypeVar("T")
UNSAID = 0.10
"""Relative half-width of a measured time that has no interval of its own: few samples."""


@dataclass(frozen=True)
class Grounds:
    """What an answer can rest on.

    ``runs`` count for times: they are of the device that is planned for. ``quality_runs`` count for
    losses, wherever they ran; ``here`` are those of this machine, for the rules. ``engines`` names
    those that accept a candidate at a context. ``notes`` say what was left out, and why.
    """

    device: Device
    engines: Callable[[Candidate, int], tuple[str, ...]]
    runs: tuple[Summary, ...] = ()
    quality_runs: tuple[Summary, ...] = ()
    here: tuple[Summary, ...] = ()
    calibration: Calibration | None = None
    engine_count: int = 8
    notes: tuple[str, ...] = ()
    known: dict[Hashable, Any] = field(default_factory=dict, compare=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, worked out once a key: a search asks for the same again."""
        if key not in self.known:
            self.known[key] = make()
        found: T = self.known[key]
        return found

    def engines_of(self, candidate: Candidate, context_tokens: int) -> tuple[str, ...]:
        """Engines that accept the candidate at a context."""
        key = "engines", candidate.name, context_tokens
        return self.once(key, lambda: self.engines(candidate, context_tokens))


@dataclass(frozen=True)
class Times:
    """Prefill of the whole context and one decode step, of the batch; s."""

    prefill: Figure
    decode: Figure


def times(
    candidate: Candidate, deployment: Deployment, context_tokens: int, grounds: Grounds
) -> Times:
    """The best-founded figures that there are. Raises ``BadDeployment``."""
    phases = {"prefill": "prefill_s", "decode": "itl_s"}
    found: dict[str, Figure] = {}
    for phase, metric in phases.items():
        figure = _measured(candidate, deployment, context_tokens, grounds, metric)
        figure = figure or _calibrated(candidate, deployment, context_tokens, grounds, phase)
        if figure is not None:
            found[phase] = figure
    if len(found) < len(phases):
        predicted = predict(candidate.config, deployment, grounds.device, context_tokens)
        for phase in phases.keys() - found.keys():
            bound = predicted.prefill if phase == "prefill" else predicted.decode
            found[phase] = Figure(
                value=bound.seconds,
                low=bound.seconds,
                basis="bound",
                source=f"least time by {bound.limited_by} of {grounds.device.name}",
            )
    return Times(found["prefill"], found["decode"])


def measured_precisions(candidate: Candidate, grounds: Grounds) -> list[tuple[str, str]]:
    """Types of weights and cache that this candidate was measured with, as found."""
    series = [one for run in grounds.runs for one in run.series if is_of(one, candidate)]
    return list(dict.fromkeys((one.dtype, one.kv_dtype) for one in series))


def is_of(series: Series, candidate: Candidate) -> bool:
    """Whether a series measured this candidate: itself, or its model as it is."""
    if candidate.series is not None:
        same = candidate.series.model_copy(update={"options": series.options})
        return series == same
    plain = series.window is None and series.sinks is None and series.rope is None
    return plain and series.model == candidate.name


def _measured(
    candidate: Candidate,
    deployment: Deployment,
    context_tokens: int,
    grounds: Grounds,
    metric: str,
) -> Figure | None:
    """The fastest of the engines that measured it, at the context or between two contexts."""
    if deployment.tensor_parallel > 1:
        return None
    found = []
    for run in grounds.runs:
        for series in run.series:
            types = (series.dtype, series.kv_dtype)
            if not is_of(series, candidate) or types != _types(deployment):
                continue
            cells = [
                cell
                for cell in run.cells
                if (cell.series, cell.batch_size) == (series.name, deployment.batch_size)
                and metric in cell.metrics
            ]
            figure = _at(cells, metric, context_tokens, run, series)
            found += [figure] if figure else []
    return min(found, key=lambda figure: figure.value, default=None)


def _types(deployment: Deployment) -> tuple[str, str]:
    return deployment.weight_dtype, deployment.kv_dtype


def _at(
    cells: list[CellSummary], metric: str, context_tokens: int, run: Summary, series: Series
) -> Figure | None:
    """A figure of the curve at a context; beyond what was measured there is none."""
    at = {cell.context_tokens: cell.metrics[metric] for cell in cells}
    where = f"{run.scenario} {run.run_id}, {series.name} on {series.backend}"
    if context_tokens in at:
        return _figure(at[context_tokens], where, _drift(run, metric))
    for low, high in pairwise(sorted(at)):
        if low < context_tokens < high:
            share = math.log(context_tokens / low) / math.log(high / low)
            between = f", between {context_label(low)} and {context_label(high)}"
            return _figure(_between(at[low], at[high], share), where + between, _drift(run, metric))
    return None


def _between(low: Estimate, high: Estimate, share: float) -> Estimate:
    """On the straight line in log-log; as wide as the wider neighbour."""

    def mixed(a: float | None, b: float | None) -> float | None:
        return (
            None
            if a is None or b is None
            else math.exp((1 - share) * math.log(a) + share * math.log(b))
        )

    value = mixed(low.value, high.value)
    assert value is not None
    return Estimate(
        value=value, low=mixed(low.low, high.low), high=mixed(low.high, high.high), n=low.n
    )


def measured_figure(cell: CellSummary, metric: str, run: Summary) -> Figure:
    """A metric of a cell with its interval; what is exact has none."""
    if METRICS[metric].exact:
        value = cell.metrics[metric].value
        return Figure(value=value, low=value, high=value, basis="measured", source=run.run_id)
    return _figure(cell.metrics[metric], run.run_id, _drift(run, metric))


def _figure(estimate: Estimate, source: str, drift: float) -> Figure:
    """Measured: its own interval, widened by how far the run's sentinel moved meanwhile."""
    half = UNSAID
    if estimate.low is not None and estimate.high is not None and estimate.low > 0:
        half = math.log(estimate.high / estimate.low) / 2
    factor = math.exp(math.hypot(half, drift))
    value = estimate.value
    return Figure(
        value=value, low=value / factor, high=value * factor, basis="measured", source=source
    )


def _drift(run: Summary, metric: str) -> float:
    """Half the way, in logarithms, between the lowest and the highest of a sentinel's levels."""
    spreads = [math.log1p(d.relative_spread) / 2 for d in run.drift if d.metric == metric]
    return max(spreads, default=0.0)


def _calibrated(
    candidate: Candidate,
    deployment: Deployment,
    context_tokens: int,
    grounds: Grounds,
    phase: str,
) -> Figure | None:
    """A fitted time with the error of its held-out cells; None beyond what was measured, where
    nothing is known of the error."""
    backend = candidate.series.backend if candidate.series else "native"
    model, config = grounds.calibration, candidate.config
    if model is None or model.beyond(config, deployment, context_tokens, backend):
        return None
    metric: PredictedMetric = "prefill_s" if phase == "prefill" else "itl_s"
    group = model.group(config, deployment, backend)
    errors = group.held_out.get(metric) if group else None
    try:
        value = model.predict(metric, config, deployment, context_tokens, backend)
    except BadCalibration:  # no ceiling for this type
        return None
    if value is None or errors is None:
        return None
    return Figure(
        value=value,
        low=value / (1 + errors.p90),
        high=value * (1 + errors.p90),
        basis="calibrated",
        source=f"fitted to {', '.join(model.runs)}, ±{errors.p90:.0%} on 9 of 10 unseen cells",
    )
