"""What a figure rests on: measured here, else calibrated here, else the least that physics allows.

Times of a run are those of its machine and count only for that; bytes are exact anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, TypeVar

from ctxsweep.analysis.predicted import COVERED, Errors, PredictedMetric
from ctxsweep.analysis.summary import Summary
from ctxsweep.planning.advice.candidates import Candidate
from ctxsweep.planning.advice.decision import Figure
from ctxsweep.planning.advice.measured_times import PHASES, Phase, measured_times
from ctxsweep.planning.advice.measured_times import is_of as is_of
from ctxsweep.planning.calibration.calibration import Calibration
from ctxsweep.planning.calibration.speeds import BadCalibration
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import Device
from ctxsweep.planning.roofline import predict

T = TypeVar("T")
LEAST_COVERAGE = 0.5
"""Fewer held-out cells than cover this say too little of how far another may lie off."""


@dataclass(frozen=True)
class Grounds:
    """What an answer can rest on.

    ``runs`` count for times: they are of the device that is planned for, with as many threads, in
    the order in which they count. ``quality_runs`` count for losses, wherever they ran; ``here``
    are those that the rules are held against, of this machine or named. ``engines`` names
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
    found = measured_times(candidate, deployment, context_tokens, grounds.runs)
    for phase in PHASES.keys() - found.keys():
        figure = _calibrated(candidate, deployment, context_tokens, grounds, phase)
        if figure is not None:
            found[phase] = figure
    if len(found) < len(PHASES):
        predicted = predict(candidate.config, deployment, grounds.device, context_tokens)
        for phase in PHASES.keys() - found.keys():
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


def _calibrated(
    candidate: Candidate,
    deployment: Deployment,
    context_tokens: int,
    grounds: Grounds,
    phase: Phase,
) -> Figure | None:
    """A fitted time with the error of what was held out; None beyond what was measured, where
    nothing is known of the error."""
    backend = candidate.series.backend if candidate.series else "native"
    model, config = grounds.calibration, candidate.config
    metric: PredictedMetric = "prefill_s" if phase == "prefill" else "itl_s"
    if model is None or model.beyond(config, deployment, context_tokens, backend, metric):
        return None
    group = model.group(config, deployment, backend)
    errors = group.held_out.get(metric) if group else None
    try:
        value = model.predict(metric, config, deployment, context_tokens, backend)
    except BadCalibration:  # no ceiling for this type
        return None
    if value is None or errors is None or errors.coverage < LEAST_COVERAGE:
        return None
    widened = _widening(errors)
    said = f", their {errors.coverage:.0%} widened to 95%" if widened > 1 else ""
    return Figure(
        value=value,
        low=value * min(1.0, errors.low) ** widened,
        high=value * max(1.0, errors.high) ** widened,
        basis="calibrated",
        source=f"fitted to {', '.join(model.runs)}; measured over predicted {errors.low:.2f} to "
        f"{errors.high:.2f} on {errors.cells} cells held out{said}",
    )


def _widening(errors: Errors) -> float:
    """Power of the ratios that makes 95% of what few cells cover, as if errors were log-normal."""
    normal = NormalDist()
    wanted = normal.inv_cdf((1 + COVERED) / 2)
    return max(1.0, wanted / normal.inv_cdf((1 + errors.coverage) / 2))
