"""Predictions over what was measured: a panel per series, since nine pairs in one are a tangle."""

from __future__ import annotations

from functools import partial
from typing import Any

import altair as alt

from ctxsweep.analysis.predicted import PredictedMetric, Predictions
from ctxsweep.analysis.summary import Summary
from ctxsweep.report.charts import CHARTS, ChartEntry
from ctxsweep.report.layers import SHOWN, dashed, data_of, legend, of_role, shown_param, tooltip
from ctxsweep.report.parts import COLUMNS, PANEL_HEIGHT, PANEL_WIDTH
from ctxsweep.report.placing import Row, Scale, context_scale
from ctxsweep.report.rows import metric_rows, series_names
from ctxsweep.report.units import TOKENS, Unit, unit_of

MEASURED = "measured"
WORDS = {"bound": "bound", "formula": "predicted", "calibration": "predicted"}
BOUND = "Dashed: the least time that the ceilings of this run allow; nothing can be faster."
FITTED = "Dashed: predicted from this machine's own speeds, as ctxsweep calibrate fitted them."
PROCESS = "Dashed: weights and cache by the formula, on what calibrate found the process to hold."
TITLES: dict[PredictedMetric, tuple[str, str]] = {
    "itl_s": ("predicted_decode", "Time per generated token: predicted beside measured"),
    "prefill_s": ("predicted_prefill", "Time to read the context: predicted beside measured"),
    "process_peak_bytes": ("predicted_process", "Peak of the process: predicted beside measured"),
}
BEFORE = "memory"
"""The chart of CHARTS that these stand before."""


def names() -> tuple[str, ...]:
    """The names of all charts of this module."""
    return tuple(name for name, _ in TITLES.values())


def entries(predictions: Predictions | None) -> tuple[ChartEntry, ...]:
    """All charts of a report, with these among them if there is anything predicted."""
    if predictions is None:
        return CHARTS
    added = (
        ChartEntry(
            name,
            title,
            _note(predictions, metric),
            partial(beside, predictions=predictions, metric=metric),
        )
        for metric, (name, title) in TITLES.items()
    )
    place = next(i for i, entry in enumerate(CHARTS) if entry.name == BEFORE)
    return (*CHARTS[:place], *added, *CHARTS[place:])


def _note(predictions: Predictions, metric: PredictedMetric) -> str:
    if predictions.calibration is None:
        return BOUND
    return PROCESS if metric == "process_peak_bytes" else FITTED


def beside(
    summary: Summary, predictions: Predictions, metric: PredictedMetric
) -> alt.FacetChart | None:
    """One metric against context, a panel per series that was predicted."""
    said = _predicted_rows(predictions, metric)
    known = {row["series"] for row in said}
    rows = [row for row in metric_rows(summary, metric) if row["series"] in known and row["y"] > 0]
    rows = [{**row, "role": "point", "part": MEASURED} for row in rows] + said
    if not said:
        return None
    parts = [part for part in (MEASURED, "predicted", "bound") if _has(rows, part)]
    values = [row["y"] for row in rows]
    low, high = min(values), max(values)
    y = Scale(low / 1.5, high * 1.5, unit_of(metric), "", log=high / low > 4)
    if not y.log:
        y = Scale(0.0, high * 1.15, unit_of(metric), "", log=False)
    x = context_scale(cell.context_tokens for cell in summary.cells)
    order = series_names(summary)
    facet = alt.Facet("series:N", sort=list(order), title=None)
    panels = _panel(parts, x, y).properties(data=data_of(rows))
    shown = panels.facet(facet=facet, columns=COLUMNS).transform_filter(
        f"indexof({SHOWN}, datum.series) >= 0"
    )
    return shown.add_params(shown_param(order))


def _predicted_rows(predictions: Predictions, metric: PredictedMetric) -> list[Row]:
    unit = unit_of(metric)
    return [
        {
            "series": cell.series,
            "line": f"{cell.series} ×{cell.batch_size} {cell.basis}",
            "part": WORDS[cell.basis],
            "role": "point",
            "x": cell.context_tokens,
            "y": cell.predicted,
            "context": TOKENS.text(cell.context_tokens),
            "value": _beside(cell.predicted, cell.measured, unit)
            + (", extrapolated" if cell.beyond else ""),
        }
        for cell in predictions.of(metric)
    ]


def _beside(predicted: float, measured: float, unit: Unit) -> str:
    return f"{unit.text(predicted)}, measured {unit.text(measured)}"


def _has(rows: list[Row], part: str) -> bool:
    return any(row["part"] == part for row in rows)


def _panel(parts: list[str], x: Scale, y: Scale) -> alt.LayerChart:
    position: dict[str, Any] = {
        "x": alt.X("x:Q", scale=x.alt_scale(), axis=x.alt_axis(4, grid=False)),
        "y": alt.Y("y:Q", scale=y.alt_scale(), axis=y.alt_axis(5, grid=True)),
        "detail": "line:N",
    }
    colour = alt.Color("part:O", scale=alt.Scale(domain=parts), legend=legend(parts))
    tips = tooltip(("series", "part", "context", "value"))
    all_rows = of_role("point").encode(**position, color=colour, tooltip=tips)
    predicted = all_rows.transform_filter(f"datum.part !== '{MEASURED}'")
    measured = all_rows.transform_filter(f"datum.part === '{MEASURED}'")
    layers = alt.layer(
        dashed(predicted.mark_line(strokeWidth=2), "part", parts),
        measured.mark_point(filled=True, size=40, opacity=1),
        predicted.mark_point(filled=True, size=12, opacity=1),
    )
    return layers.properties(width=PANEL_WIDTH, height=PANEL_HEIGHT)
