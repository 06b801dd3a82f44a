"""From a summary to the rows of the charts: plain figures, and texts for the tooltips."""

from __future__ import annotations

from ctxsweep.analysis.summary import CellSummary, Estimate, GrowthPoint, Summary
from ctxsweep.records import Status
from ctxsweep.report.placing import Row
from ctxsweep.report.units import BYTES, PLAIN, SHARE, TOKENS, Unit, unit_of

STATUS_TEXT: dict[Status, str] = {
    Status.OK: "ok",
    Status.UNSUPPORTED: "unsupported",
    Status.OOM: "out of memory",
    Status.TIMEOUT: "timed out",
    Status.OVER_BUDGET: "over budget",
    Status.ERROR: "error",
}
POINT_TIPS = ("series", "context", "value", "interval", "samples", "stopped by", "contended")
MOST_GROWTH_POINTS = 80


def series_names(summary: Summary) -> tuple[str, ...]:
    """All series, in the order of the scenario; the place decides colour, symbol and dash."""
    return tuple(series.name for series in summary.series)


def line_names(summary: Summary) -> dict[tuple[str, int, str], str]:
    """A name per curve: the series, and batch size or procedure where there are several."""
    batches = {cell.batch_size for cell in summary.cells}
    procedures: dict[str, set[str]] = {}
    for cell in summary.cells:
        procedures.setdefault(cell.series, set()).add(cell.procedure)
    names: dict[tuple[str, int, str], str] = {}
    for cell in summary.cells:
        name = cell.series
        if len(batches) > 1:
            name += f" ×{cell.batch_size}"
        if len(procedures[cell.series]) > 1:
            name += f" {cell.procedure}"
        names[cell.series, cell.batch_size, cell.procedure] = name
    return names


def metric_rows(summary: Summary, metric: str) -> list[Row]:
    """A row per cell in which the metric was measured."""
    lines = line_names(summary)
    unit = unit_of(metric)
    rows = []
    for cell in _in_order(summary):
        estimate = cell.metrics.get(metric)
        if estimate is None:
            continue
        row: Row = {
            "series": cell.series,
            "line": lines[cell.series, cell.batch_size, cell.procedure],
            "x": cell.context_tokens,
            "y": estimate.value,
            "context": TOKENS.text(cell.context_tokens),
            "value": unit.text(estimate.value),
            "interval": interval_text(estimate, unit),
            "samples": str(estimate.n),
            "stopped by": cell.stopped_by or "–",
            "contended": SHARE.text(cell.contended_share or 0.0),
        }
        if estimate.low is not None and estimate.high is not None and estimate.n > 1:
            row |= {"low": estimate.low, "high": estimate.high}
        rows.append(row)
    return rows


def failure_rows(summary: Summary) -> list[Row]:
    """A row per cell that did not finish."""
    lines = line_names(summary)
    return [
        {
            "series": cell.series,
            "line": lines[cell.series, cell.batch_size, cell.procedure],
            "x": cell.context_tokens,
            "context": TOKENS.text(cell.context_tokens),
            "status": STATUS_TEXT[cell.status],
            "reason": cell.detail or "no reason was stored",
        }
        for cell in failed_cells(summary)
    ]


def failed_cells(summary: Summary) -> list[CellSummary]:
    """The cells whose status is not ok, by series and context."""
    return [cell for cell in _in_order(summary) if cell.status is not Status.OK]


def _in_order(summary: Summary) -> list[CellSummary]:
    """Cells by series and context; a run measures them in random order."""
    place = {name: i for i, name in enumerate(series_names(summary))}
    return sorted(summary.cells, key=lambda c: (place[c.series], c.batch_size, c.context_tokens))


def growth_rows(summary: Summary, phase: str) -> list[Row]:
    """Bytes held by position in ``prefill``; in ``decode``, bytes added by tokens decoded."""
    rows = []
    for name in series_names(summary):
        held = summary.growth.get(name, ())
        points = [p for p in held if p.phase == phase]
        if not points:
            continue
        first = None
        if phase == "decode":
            first = next((p for p in reversed(held) if p.phase == "prefill"), points[0])
            points = [first, *(p for p in points if p.position > first.position)]
        for point in _thin(points):
            x = point.position - (first.position if first else 0)
            y = point.cache_used_bytes - (first.cache_used_bytes if first else 0)
            process = point.process_bytes
            rows.append(
                {
                    "series": name,
                    "line": name,
                    "x": x,
                    "y": y,
                    "tokens": PLAIN.text(x),
                    "bytes": BYTES.text(y),
                    "held in all": BYTES.text(point.cache_used_bytes),
                    "process": "not read" if process is None else BYTES.text(process),
                }
            )
    return rows


def _thin(points: list[GrowthPoint]) -> list[GrowthPoint]:
    """Every k-th point and the last, so that the page stays small."""
    step = max(1, -(-len(points) // MOST_GROWTH_POINTS))
    kept = points[::step]
    return kept if (len(points) - 1) % step == 0 else [*kept, points[-1]]


def interval_text(estimate: Estimate, unit: Unit) -> str:
    """``low to high``, or that there is but one sample."""
    if estimate.low is None or estimate.high is None:
        return "one sample, no interval"
    return f"{unit.text(estimate.low)} to {unit.text(estimate.high)}"
