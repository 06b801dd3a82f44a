"""Two kinds of architecture beside each other in what was measured on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ctxsweep.analysis.metrics import METRICS
from ctxsweep.analysis.summary import CellSummary, Summary
from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.planning.advice.candidates import Candidate, UnknownCandidate, of_series
from ctxsweep.planning.advice.decision import Evidence, Figure
from ctxsweep.planning.advice.evidence import measured_figure

WORDS = {"itl_s": "a decode step", "prefill_s": "prefill", "cache_used_bytes": "cache or state"}
Kind = Callable[[Candidate], bool]


def beside(
    runs: Sequence[Summary], one: Kind, other: Kind, metric: str, context_tokens: int
) -> Iterator[Evidence]:
    """The best of ``one`` beside the best of ``other`` at the context nearest to that asked for.

    For, if the first is lower by more than their intervals and the machine's drift. Caches narrower
    than the computation are left out. From the latest run that has both.
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
    return f"{run.scenario} {run.run_id}"


def _value(figure: Figure, metric: str) -> str:
    return quantity(figure.value, METRICS[metric].unit)
