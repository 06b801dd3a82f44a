"""Times that a run measured, at a context or between two of its contexts.

One series of one run answers for prefill and decode together: the fastest of several would be the
luckiest, and of two engines a request has only one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.metrics import METRICS
from ctxsweep.analysis.summary import CellSummary, Summary
from ctxsweep.analysis.wording import context_label
from ctxsweep.planning.advice.candidates import Candidate
from ctxsweep.planning.advice.decision import Figure
from ctxsweep.planning.deployment import Deployment
from ctxsweep.records import Series

Phase = Literal["prefill", "decode"]
PHASES: dict[Phase, str] = {"prefill": "prefill_s", "decode": "itl_s"}
POWERS: dict[Phase, int] = {"prefill": 1, "decode": 0}
"""Least power of the context that a time grows with, the most being one higher: a step costs the
same or more with every token held, each token of a prefill the same or more than the one before."""
NEIGHBOURS = 2.0
"""Most that two measured contexts lie apart, as a factor, for a time between them to be told."""
UNSAID = 0.10
"""Relative half-width taken for a time that has no interval of its own, of too few samples."""


def measured_times(
    candidate: Candidate,
    deployment: Deployment,
    context_tokens: int,
    runs: Sequence[Summary],
) -> dict[Phase, Figure]:
    """Times of the first series that measured both phases there, else of the first with one.

    ``runs`` come in the order in which they count.
    """
    if deployment.tensor_parallel > 1:
        return {}
    some: dict[Phase, Figure] = {}
    for run, series in _series(candidate, deployment, runs):
        found = {
            phase: figure
            for phase in PHASES
            if (figure := _at(run, series, deployment.batch_size, phase, context_tokens))
        }
        if len(found) == len(PHASES):
            return found
        some = some or found
    return some


def is_of(series: Series, candidate: Candidate) -> bool:
    """Whether a series measured this candidate: itself, or its model as it is."""
    if candidate.series is not None:
        same = candidate.series.model_copy(update={"options": series.options})
        return series == same
    plain = series.window is None and series.sinks is None and series.rope is None
    return plain and series.model == candidate.name


def _series(
    candidate: Candidate, deployment: Deployment, runs: Sequence[Summary]
) -> Iterator[tuple[Summary, Series]]:
    for run in runs:
        for series in run.series:
            types = (series.dtype, series.kv_dtype)
            if is_of(series, candidate) and types == (
                deployment.weight_dtype,
                deployment.kv_dtype,
            ):
                yield run, series


def _at(
    run: Summary, series: Series, batch_size: int, phase: Phase, context_tokens: int
) -> Figure | None:
    """A time at a context; None beyond what was measured, and between contexts far apart."""
    metric = PHASES[phase]
    at = {
        cell.context_tokens: cell.metrics[metric]
        for cell in run.cells
        if (cell.series, cell.batch_size) == (series.name, batch_size) and metric in cell.metrics
    }
    where = f"{run.scenario} {run.run_id}, {series.name} on {series.backend}"
    drift = _drift(run, metric)
    if context_tokens in at:
        return _figure(at[context_tokens], where, drift)
    for low, high in pairwise(sorted(at)):
        if low < context_tokens < high <= NEIGHBOURS * low:
            return _between(at, (low, high), context_tokens, phase, where, drift)
    return None


def _between(
    at: Mapping[int, Estimate],
    neighbours: tuple[int, int],
    context_tokens: int,
    phase: Phase,
    where: str,
    drift: float,
) -> Figure:
    """On the straight line in log-log, within what any growth between ``POWERS`` allows.

    The interval is that range, widened by the wider interval of both neighbours.
    """
    near, far = (_figure(at[n], where, drift) for n in neighbours)
    up, down = (context_tokens / n for n in neighbours)
    least, most = POWERS[phase], POWERS[phase] + 1
    share = math.log(up) / math.log(up / down)
    value = near.value ** (1 - share) * far.value**share
    low = max(near.value * up**least, far.value * down**most)
    high = min(near.value * up**most, far.value * down**least)
    widest = max(_widened(near), _widened(far))
    labels = " and ".join(context_label(n) for n in neighbours)
    return Figure(
        value=value,
        low=min(low, value) / widest,
        high=max(high, value) * widest,
        basis="between",
        source=f"{where}, between {labels}",
    )


def _widened(figure: Figure) -> float:
    assert figure.high is not None
    return figure.high / figure.value


def measured_figure(cell: CellSummary, metric: str, run: Summary) -> Figure:
    """A metric of a cell with its interval; what is exact has none."""
    if METRICS[metric].exact:
        value = cell.metrics[metric].value
        return Figure(value=value, low=value, high=value, basis="measured", source=run.run_id)
    return _figure(cell.metrics[metric], run.run_id, _drift(run, metric))


def _figure(estimate: Estimate, source: str, drift: float) -> Figure:
    """Measured: its own interval, widened by how far the run's sentinel moved meanwhile."""
    if estimate.low is not None and estimate.high is not None and estimate.low > 0:
        half = math.log(estimate.high / estimate.low) / 2
    else:
        half, source = math.log1p(UNSAID), f"{source}, too few samples for an interval: ±10% taken"
    factor = math.exp(math.hypot(half, drift))
    value = estimate.value
    return Figure(
        value=value, low=value / factor, high=value * factor, basis="measured", source=source
    )


def _drift(run: Summary, metric: str) -> float:
    """Half the way, in logarithms, between the lowest and the highest of a sentinel's levels."""
    spreads = [math.log1p(d.relative_spread) / 2 for d in run.drift if d.metric == metric]
    return max(spreads, default=0.0)
