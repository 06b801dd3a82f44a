"""Series that run one model with one set of weights, beside each other at the longest context."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ctxsweep.analysis.summary import CellSummary, Summary
from ctxsweep.report.rows import interval_text
from ctxsweep.report.units import BYTES, SECONDS, TOKENS, Unit

HEADS = (
    "Series",
    "Same model as",
    "At",
    "Prefill",
    "× best",
    "Per token",
    "× best",
    "Cache or state",
)
TIMES = ("prefill_s", "itl_s")


def same_model_rows(summary: Summary) -> list[tuple[str, ...]]:
    """A row for every series that shares its model's weights, fastest prefill first.

    Each group is shown at the longest context at which two or more of its series have figures, for
    the smallest batch; who has none there has dashes.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for check in summary.numerics:
        groups[check.reference].append(check.series)
    return [row for name, names in groups.items() for row in _rows(summary, name, names)]


def _rows(summary: Summary, reference: str, names: list[str]) -> Iterator[tuple[str, ...]]:
    batch = min(cell.batch_size for cell in summary.cells)
    cells = {
        (cell.series, cell.context_tokens): cell
        for cell in summary.cells
        if cell.batch_size == batch and cell.series in names and cell.metrics
    }
    contexts = sorted({context for _, context in cells}, reverse=True)
    shared = [n for n in contexts if sum((name, n) in cells for name in names) > 1]
    if not shared:
        return
    at = shared[0]
    found = {name: cells.get((name, at)) for name in names}
    best = {metric: _best(found, metric) for metric in TIMES}
    for name in sorted(names, key=lambda name: _value(found[name], "prefill_s") or float("inf")):
        cell = found[name]
        texts = [text for metric in TIMES for text in _beside(cell, metric, best[metric])]
        held = _text(_value(cell, "cache_used_bytes"), BYTES)
        yield (name, reference, TOKENS.text(at), *texts, held)


def _value(cell: CellSummary | None, metric: str) -> float | None:
    estimate = cell.metrics.get(metric) if cell else None
    return None if estimate is None else estimate.value


def _best(found: dict[str, CellSummary | None], metric: str) -> float:
    values = [value for cell in found.values() if (value := _value(cell, metric)) is not None]
    return min(values, default=0.0)


def _beside(cell: CellSummary | None, metric: str, best: float) -> tuple[str, str]:
    """The time with its interval, and how many times the best it is."""
    estimate = cell.metrics.get(metric) if cell else None
    if estimate is None:
        return "–", "–"
    text = f"{SECONDS.text(estimate.value)} ({interval_text(estimate, SECONDS)})"
    return text, f"{estimate.value / best:.2f}×" if best else "–"


def _text(value: float | None, unit: Unit) -> str:
    return "–" if value is None else unit.text(value)
