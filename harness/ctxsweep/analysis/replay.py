"""A published table beside a run of one's own: what the two have in common, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import exp
from typing import Literal

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.published import Published
from ctxsweep.analysis.quality_summary import QualityCell
from ctxsweep.analysis.summary import Summary
from ctxsweep.analysis.wording import context_label, listed

SAME = 0.01
"""Published perplexities closer than this share have no order: they come without intervals."""
UNSTRETCHED = "none"

Agreement = Literal["same", "opposite", "open"]


@dataclass(frozen=True)
class Pair:
    """Two methods that both tables hold: whether they come in the same order.

    ``lower`` has the lower published perplexity; "open" where the run's intervals overlap, each
    against the reference: a paired comparison, as the advice makes it, may still tell them apart.
    """

    lower: str
    higher: str
    agreement: Agreement


def method_of(summary: Summary, series: str) -> str:
    """How a series stretches its positions, in the words of ``rope_type``; or ``none``.

    What was applied counts before what was asked for: a model's own files may stretch it.
    """
    cells = summary.quality.cells if summary.quality else ()
    applied = [c.rope_type for c in cells if c.series == series and c.rope_type is not None]
    if applied:
        return applied[0]
    rope = next((s.rope for s in summary.series if s.name == series), None)
    return UNSTRETCHED if rope is None else rope.rope_type


def perplexity(cell: QualityCell) -> float | None:
    """exp of the mean loss on the targets."""
    return None if cell.loss is None else exp(cell.loss)


def published_context(published: Published) -> int:
    """The longest context for which all models of the table were made."""
    window = min(series.window for series in published.series)
    return max(n for n in published.contexts if n <= window)


def measured_context(summary: Summary, methods: set[str]) -> int | None:
    """The longest context at which every one of ``methods`` that the run has was measured."""
    cells = summary.quality.cells if summary.quality else ()
    held: dict[str, set[int]] = {}
    for cell in cells:
        if cell.difference is not None:
            held.setdefault(method_of(summary, cell.series), set()).add(cell.context_tokens)
    shared = [contexts for method, contexts in held.items() if method in methods]
    return max(set.intersection(*shared), default=None) if shared else None


def pairs(published: Published, summary: Summary) -> tuple[Pair, ...]:
    """All pairs of methods that the table orders and the run has measured.

    Of several series of a method the table's best and the run's first count.
    """
    at = published.contexts.index(published_context(published))
    theirs: dict[str, float] = {}
    for series in published.series:
        figure = series.perplexity[at]
        if not figure.at_least:
            theirs[series.method] = min(figure.value, theirs.get(series.method, figure.value))
    context = measured_context(summary, set(theirs))
    if summary.quality is None or context is None:
        return ()
    ours: dict[str, Estimate] = {}
    for cell in summary.quality.cells:
        if cell.context_tokens == context and cell.difference is not None:
            ours.setdefault(method_of(summary, cell.series), cell.difference)
    found = []
    for one, other in combinations([method for method in theirs if method in ours], 2):
        lower, higher = sorted((one, other), key=lambda method: theirs[method])
        if theirs[higher] / theirs[lower] - 1 >= SAME:
            found.append(Pair(lower, higher, _agreement(ours[lower], ours[higher])))
    return tuple(found)


def _agreement(lower: Estimate, higher: Estimate) -> Agreement:
    if None in (lower.low, lower.high, higher.low, higher.high):
        return "open"
    assert lower.low is not None and lower.high is not None
    assert higher.low is not None and higher.high is not None
    if lower.high < higher.low:
        return "same"
    return "opposite" if lower.low > higher.high else "open"


def sentences(published: Published, summary: Summary | None) -> list[str]:
    """What may be compared, and what the comparison shows."""
    allowed = (
        "What may be compared is the order of the methods and the shape of the curves, not the "
        f"values: another model and another text. The published models were {published.models}; "
        "this tool trains nothing, so a run shows what stretching alone does."
    )
    if summary is None:
        return [allowed, "No run was given: name one to see it beside the table."]
    if summary.quality is None:
        return [allowed, f"The run of {summary.scenario} measured no quality: nothing to compare."]
    found = pairs(published, summary)
    if not found:
        methods = listed(sorted({series.method for series in published.series}))
        return [allowed, f"The run does not hold two methods that the table orders ({methods})."]
    theirs = _context(published_context(published), published.trained_tokens)
    measured = measured_context(summary, {series.method for series in published.series})
    ours = _context(measured or 0, summary.quality.trained_tokens)
    start = f"Published at {theirs}, measured at {ours}: "
    return [allowed, start + "; ".join(map(_in_words, found)) + "."]


def _context(tokens: int, trained: int | None) -> str:
    """``8K (2 times the trained context)``."""
    times = "" if trained is None else f" ({tokens / trained:.3g} times the trained context)"
    return context_label(tokens) + times


def _in_words(pair: Pair) -> str:
    said = {
        "same": "so here",
        "opposite": "here the other way round",
        "open": "here the separate intervals overlap",
    }
    return f"{pair.lower} has a lower perplexity than {pair.higher}, {said[pair.agreement]}"
