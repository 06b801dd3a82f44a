"""What the memory is made of: one small panel per series, all on the same axes."""

from __future__ import annotations

import altair as alt

from ctxsweep.analysis.summary import Summary
from ctxsweep.report import theme
from ctxsweep.report.layers import (
    Row,
    Scale,
    context_scale,
    dashed,
    only_shown,
    shown_param,
    tooltip,
)
from ctxsweep.report.rows import STATUS_TEXT, failed_cells, metric_rows, series_names
from ctxsweep.report.units import BYTES, TOKENS

PARTS: dict[str, str] = {
    "weights_bytes": "weights",
    "cache_used_bytes": "cache or state",
    "cache_reserved_bytes": "reserved for it",
    "activations_peak_bytes": "activations, peak",
    "process_peak_bytes": "whole process, peak",
}
PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 230, 130, 3


def memory_parts(summary: Summary) -> alt.FacetChart | None:
    """Parts of the memory against context, a panel per series; failures as crosses on top."""
    rows = [
        {**row, "part": part}
        for metric, part in PARTS.items()
        for row in metric_rows(summary, metric)
        if row["y"] > 0 and not (metric == "cache_reserved_bytes" and _all_used(summary))
    ]
    if not rows:
        return None
    values = [row["y"] for row in rows]
    y = Scale(min(values) / 2, max(values) * 4, BYTES, "")
    x = context_scale(cell.context_tokens for cell in summary.cells)
    names = series_names(summary)
    panels = _panel(rows + _failures(summary, y), x, y).facet(
        facet=alt.Facet("series:N", sort=list(names), title=None), columns=COLUMNS
    )
    return only_shown(panels).add_params(shown_param(names))


def _panel(rows: list[Row], x: Scale, y: Scale) -> alt.LayerChart:
    base = alt.Chart().encode(
        x=alt.X("x:Q", scale=x.alt_scale(), axis=x.alt_axis(4, grid=False)),
        y=alt.Y("y:Q", scale=y.alt_scale(), axis=y.alt_axis(5, grid=True)),
        detail="line:N",
    )
    held = [part for part in PARTS.values() if any(row.get("part") == part for row in rows)]
    columns = alt.ExprRef("containerSize()[0] > 0 && containerSize()[0] < 470 ? 2 : 5")
    legend = alt.Legend(orient="bottom", title=None, columns=columns)
    domain = alt.Scale(domain=held)
    parts = base.transform_filter("isValid(datum.part)").encode(
        color=alt.Color("part:O", scale=domain, legend=legend),
        tooltip=tooltip(("series", "part", "context", "value", "interval")),
    )
    lines = dashed(parts.mark_line(strokeWidth=2), "part", held)
    crosses = (
        base.transform_filter("isValid(datum.status)")
        .mark_point(shape=theme.FAILURE_SYMBOL, filled=True, size=60, style="alarm", opacity=1)
        .encode(tooltip=tooltip(("series", "context", "status", "reason")))
    )
    layers = alt.layer(lines, parts.mark_point(filled=True, size=22, opacity=1), crosses)
    return layers.properties(width=PANEL_WIDTH, height=PANEL_HEIGHT, data=alt.Data(values=rows))


def _all_used(summary: Summary) -> bool:
    """Whether nothing was reserved beyond what was used, in any cell; then one line says both."""
    pairs = [
        (cell.metrics["cache_reserved_bytes"].value, cell.metrics["cache_used_bytes"].value)
        for cell in summary.cells
        if {"cache_reserved_bytes", "cache_used_bytes"} <= cell.metrics.keys()
    ]
    return all(reserved == used for reserved, used in pairs)


def _failures(summary: Summary, y: Scale) -> list[Row]:
    return [
        {
            "series": cell.series,
            "line": cell.series,
            "x": cell.context_tokens,
            "y": y.value_at(0.93),
            "context": TOKENS.text(cell.context_tokens),
            "status": STATUS_TEXT[cell.status],
            "reason": cell.detail or "no reason was stored",
        }
        for cell in failed_cells(summary)
    ]
