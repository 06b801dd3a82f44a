"""What the memory is made of: one small panel per series, all on the same axes."""

from __future__ import annotations

from typing import Any

import altair as alt

from ctxsweep.analysis.summary import Summary
from ctxsweep.report import theme
from ctxsweep.report.layers import (
    SHOWN,
    dashed,
    data_of,
    legend,
    of_role,
    shown_param,
    tooltip,
)
from ctxsweep.report.placing import Scale, context_scale
from ctxsweep.report.rows import failure_rows, metric_rows, series_names
from ctxsweep.report.units import BYTES

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
        {**row, "part": part, "role": "point"}
        for metric, part in PARTS.items()
        for row in metric_rows(summary, metric)
        if row["y"] > 0 and not (metric == "cache_reserved_bytes" and _all_used(summary))
    ]
    if not rows:
        return None
    values = [row["y"] for row in rows]
    y = Scale(min(values) / 2, max(values) * 4, BYTES, "", data_high=max(values) * 1.5)
    x = context_scale(cell.context_tokens for cell in summary.cells)
    parts = [part for part in PARTS.values() if any(row["part"] == part for row in rows)]
    crosses = [{**row, "role": "failure", "y": y.value_at(0.93)} for row in failure_rows(summary)]
    names = series_names(summary)
    facet = alt.Facet("series:N", sort=list(names), title=None)
    panels = _panel(parts, x, y).properties(data=data_of(rows + crosses))
    # Filtered before the panels are made, so that a series that is not picked has none.
    shown = panels.facet(facet=facet, columns=COLUMNS).transform_filter(
        f"indexof({SHOWN}, datum.series) >= 0"
    )
    return shown.add_params(shown_param(names))


def _panel(parts: list[str], x: Scale, y: Scale) -> alt.LayerChart:
    position: dict[str, Any] = {
        "x": alt.X("x:Q", scale=x.alt_scale(), axis=x.alt_axis(4, grid=False)),
        "y": alt.Y("y:Q", scale=y.alt_scale(), axis=y.alt_axis(5, grid=True)),
        "detail": "line:N",
    }
    colour = alt.Color("part:O", scale=alt.Scale(domain=parts), legend=legend(parts))
    held = of_role("point").encode(
        **position, color=colour, tooltip=tooltip(("series", "part", "context", "value"))
    )
    crosses = of_role("failure").mark_point(
        shape=theme.FAILURE_SYMBOL, filled=True, size=60, style="alarm", opacity=1
    )
    layers = alt.layer(
        dashed(held.mark_line(strokeWidth=2), "part", parts),
        held.mark_point(filled=True, size=22, opacity=1),
        crosses.encode(**position, tooltip=tooltip(("series", "context", "status", "reason"))),
    )
    return layers.properties(width=PANEL_WIDTH, height=PANEL_HEIGHT)


def _all_used(summary: Summary) -> bool:
    """Whether nothing was reserved beyond what was used, in any cell; then one line says both."""
    pairs = [
        (cell.metrics["cache_reserved_bytes"].value, cell.metrics["cache_used_bytes"].value)
        for cell in summary.cells
        if {"cache_reserved_bytes", "cache_used_bytes"} <= cell.metrics.keys()
    ]
    return all(reserved == used for reserved, used in pairs)
