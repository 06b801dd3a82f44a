"""Two kinds of architecture beside each other in what runs measured, and on which machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from ctxsweep.analysis.metrics import METRICS
from ctxsweep.analysis.summary import CellSummary, Summary
from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.machine import machine_slug
from ctxsweep.planning.advice.candidates import Candidate, UnknownCandidate, of_series
from ctxsweep.planning.advice.decision import Evidence, Figure
from ctxsweep.planning.advice.measured_times import measured_figure

ALIKE = 2.0
WORDS = {"itl_s": "a decode step", "prefill_s": "prefill", "cache_used_bytes": "cache or state"}
Kind = Callable[[Candidate], bool]


def beside(
    runs: Sequence[Summary], one: Kind, other: Kind, metric: str, context_tokens: int
) -> Iterator[Evidence]:
    """The best of ``one`` beside the best of ``other`` at the context nearest to that asked for.

    Like with like: of one engine and one type, of parameters within a factor ``ALIKE``, caches as
    wide as the computation. For, if the first is lower by more than their intervals and the
    machine's drift. From the latest run that has both.
    """
    for run in sorted(runs, key=lambda run: run.started_at, reverse=True):
        found = _nearest(run, _kinds(run), one, other, metric, context_tokens)
        if found is not None:
            yield _evidence(run, *found, metric)
            return


def stretched(runs: Sequence[Summary]) -> Iterator[Evidence]:
    """What runs said of stretched RoPE, at the longest context of each."""
    for run in runs:
        if run.quality is None or not any(s.rope is not None for s in run.series):
            continue
        advice = max(run.quality.advice, key=lambda a: a.context_tokens, default=None)
        if advice is not None:
            says = "for" if advice.series is not None else "against"
            yield Evidence(says=says, text=_short(advice.headline), source=_of(run))


def _short(headline: str) -> str:
    return f"measured: {headline[0].lower()}{headline[1:]}".rstrip(":;. ")


def _kinds(run: Summary) -> dict[str, Candidate]:
    found = {}
    for series in run.series:
        if series.kv_dtype != "auto":
            continue
        try:
            found[series.name] = of_series(series)
        except UnknownCandidate:  # a model that is gone
            continue
    return found


def _nearest(
    run: Summary,
    kinds: dict[str, Candidate],
    one: Kind,
    other: Kind,
    metric: str,
    context_tokens: int,
) -> tuple[CellSummary, CellSummary] | None:
    cells = [
        c for c in run.cells if c.batch_size == 1 and metric in c.metrics and c.series in kinds
    ]
    firsts, seconds = ([c for c in cells if kind(kinds[c.series])] for kind in (one, other))
    pairs = [
        (a, b)
        for a in firsts
        for b in seconds
        if a.context_tokens == b.context_tokens and _alike(kinds[a.series], kinds[b.series])
    ]
    if not pairs:
        return None
    common = {a.context_tokens for a, _ in pairs}
    at = min(common, key=lambda n: (abs(math.log2(n / context_tokens)), -n))
    there = [pair for pair in pairs if pair[0].context_tokens == at]
    return min(there, key=lambda pair: (_of_cell(pair[0], metric), _of_cell(pair[1], metric)))


def _alike(first: Candidate, second: Candidate) -> bool:
    """Whether both differ in their architecture alone."""
    assert first.series is not None and second.series is not None
    sizes = first.parameters, second.parameters
    return (first.series.backend, first.series.dtype) == (
        second.series.backend,
        second.series.dtype,
    ) and max(sizes) <= ALIKE * min(sizes)


def _of_cell(cell: CellSummary, metric: str) -> float:
    return cell.metrics[metric].value


def _evidence(run: Summary, first: CellSummary, second: CellSummary, metric: str) -> Evidence:
    a, b = (measured_figure(cell, metric, run) for cell in (first, second))
    assert a.low is not None and b.low is not None
    assert a.high is not None and b.high is not None
    return Evidence(
        says="for" if a.high < b.low else "against" if a.low > b.high else "neither",
        text=f"measured at {context_label(first.context_tokens)}: {WORDS[metric]} of "
        f"{first.series} {_value(a, metric)}, of {second.series} {_value(b, metric)}"
        f"{_crossing(run, first.series, second.series, metric)}",
        source=_of(run),
    )


def _crossing(run: Summary, first: str, second: str, metric: str) -> str:
    """Where the two cost the same, if the run found that; their order holds throughout if not."""
    for one in run.crossovers:
        if one.metric == metric and {one.first, one.second} == {first, second}:
            at = one.context_tokens
            return f"; they cross at {context_label(at.value)}" if at else "; no crossing in range"
    return ""


def _of(run: Summary) -> str:
    """``long_ctx 20260101T000000Z-123456 on 2-core-amd-epyc``."""
    on = f" on {machine_slug(run.environment)}" if run.environment is not None else ""
    return f"{run.scenario} {run.run_id}{on}"


def _value(figure: Figure, metric: str) -> str:
    return quantity(figure.value, METRICS[metric].unit)
