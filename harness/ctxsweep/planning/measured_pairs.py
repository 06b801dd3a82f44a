"""Two kinds of architecture beside each other in what was measured on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.metrics import METRICS
from ctxsweep.analysis.summary import CellSummary, Summary
from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.planning.candidates import Candidate, UnknownCandidate, of_series
from ctxsweep.planning.decision import Evidence

WORDS = {"itl_s": "a decode step", "prefill_s": "prefill", "cache_used_bytes": "cache or state"}
Kind = Callable[[Candidate], bool]


def beside(
    runs: Sequence[Summary], one: Kind, other: Kind, metric: str, context_tokens: int
) -> Iterator[Evidence]:
    """The best of ``one`` beside the best of ``other`` at the context nearest to that asked for.

    For, if the first is lower by more than their intervals. From the latest run that has both.
    """
    for run in sorted(runs, key=lambda run: run.run_id, reverse=True):
        kinds = _kinds(run)
        found = _nearest(run, kinds, one, other, metric, context_tokens)
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
    sides = [[c for c in cells if kind(kinds[c.series])] for kind in (one, other)]
    common = {c.context_tokens for c in sides[0]} & {c.context_tokens for c in sides[1]}
    if not common:
        return None
    at = min(common, key=lambda n: abs(n.bit_length() - context_tokens.bit_length()) * 1e9 - n)
    first, second = (
        min((c for c in side if c.context_tokens == at), key=lambda c: c.metrics[metric].value)
        for side in sides
    )
    return first, second


def _evidence(run: Summary, first: CellSummary, second: CellSummary, metric: str) -> Evidence:
    a, b = first.metrics[metric], second.metrics[metric]
    return Evidence(
        says="for" if _high(a) < _low(b) else "against" if _low(a) > _high(b) else "neither",
        text=f"measured at {context_label(first.context_tokens)}: {WORDS[metric]} of "
        f"{first.series} {_value(a, metric)}, of {second.series} {_value(b, metric)}",
        source=_of(run),
    )


def _of(run: Summary) -> str:
    return f"{run.scenario} {run.run_id}"


def _value(estimate: Estimate, metric: str) -> str:
    return quantity(estimate.value, METRICS[metric].unit)


def _low(estimate: Estimate) -> float:
    return estimate.value if estimate.low is None else estimate.low


def _high(estimate: Estimate) -> float:
    return estimate.value if estimate.high is None else estimate.high
