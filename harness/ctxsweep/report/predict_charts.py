"""The charts of a prediction: bounds against context, and what fills the memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import altair as alt

from ctxsweep.planning.answers import Predicted, PredictedCell
from ctxsweep.report.layers import Curves, data_of, legend, of_role, shown_param, tooltip
from ctxsweep.report.placing import HEIGHT, Row, Scale, context_scale, placed, y_scale
from ctxsweep.report.predict_words import LIMITS, QUANTITIES, Quantity, device_name
from ctxsweep.report.units import BYTES, SECONDS, TOKENS, linear_ticks

CHARTS = ("memory", "decode", "prefill")
PARTS = {
    "weights_bytes": "weights",
    "activations_bytes": "activations (estimate)",
    "cache_bytes": "cache or state",
}
TIPS = ("series", "context", "batch", "value", "limited by")
PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 245, 150, 3
SHOWN_OF_MEMORY = 1.6
"""How far above the device's memory the axis goes: what is beyond does not fit anyhow."""
AIR = 1.3
"""Room above and below the curves, for the names at their ends."""

Chart = alt.TopLevelMixin


def charts(found: Predicted) -> dict[str, tuple[str, str, Chart]]:
    """Title, note and chart by name, those that there is something to draw for."""
    built = {
        "memory": (
            "What the memory holds",
            "On each device, stacked; the lines are the device's memory, and what is left of it "
            "after what is kept back.",
            memory(found),
        ),
        "decode": (
            QUANTITIES["decode_s"],
            "A bound, log-log: real engines take longer.",
            against_context(found, "decode_s", "time per token"),
        ),
        "prefill": (
            QUANTITIES["prefill_s"],
            "A bound, log-log: real engines take longer.",
            against_context(found, "prefill_s", "time"),
        ),
    }
    titled = {}
    for name, (title, note, chart) in built.items():
        if chart is not None:
            held = alt.TitleParams(title, subtitle=note)
            chart = chart.properties(title=held, description=f"{title}. {note}")  # type: ignore[attr-defined]
            titled[name] = (title, note, chart)
    return titled


def against_context(found: Predicted, quantity: Quantity, title: str) -> alt.LayerChart | None:
    """One quantity against context, a curve per model and batch; what does not fit above."""
    rows = [_point(found, cell, quantity) for cell in found.cells if cell.fits]
    if not rows:
        return None
    failures = [_failure(found, cell) for cell in found.cells if not cell.fits]
    y = y_scale(
        [row["y"] * air for row in rows for air in (1 / AIR, AIR)],
        SECONDS,
        title,
        log=True,
        strip_rows=len({row["line"] for row in failures}),
    )
    drawn = [
        {**row, "label": "does not fit ↑"} if row["role"] == "strip" else row
        for row in placed(rows, failures, y)
    ]
    names = _names(found)
    curves = Curves(names, drawn, TIPS, context_scale(found.contexts), y)
    return curves.chart().add_params(shown_param(names))


def memory(found: Predicted) -> Chart | None:
    """Weights, activations and cache over one another, a panel per model and batch."""
    rows = [row for cell in found.cells for row in _stack(found, cell)]
    if not rows:
        return None
    lines = list(dict.fromkeys(row["line"] for row in rows))
    alone = len(lines) == 1
    y = _memory_scale(found, "" if not alone else "bytes")
    ruled = [row for line in lines for row in _rules(found, line, alone)]
    draw = partial(_panel, x=context_scale(found.contexts), y=y)
    names = _names(found)
    if alone:
        panel = draw(most=(12, 8)).properties(width="container", height=HEIGHT)
        return panel.properties(data=data_of([*rows, *ruled])).add_params(shown_param(names))
    panel = draw(most=(4, 5)).properties(width=PANEL_WIDTH, height=PANEL_HEIGHT)
    facet = alt.Facet("line:N", sort=lines, title=None)
    shown = panel.properties(data=data_of([*rows, *ruled])).facet(facet=facet, columns=COLUMNS)
    return shown.add_params(shown_param(names))


def _panel(x: Scale, y: Scale, most: tuple[int, int]) -> alt.LayerChart:
    parts = [PARTS[key] for key in ("weights_bytes", "cache_bytes", "activations_bytes")]
    at_x = alt.X("x:Q", scale=x.alt_scale(), axis=x.alt_axis(most[0], grid=False))
    at_y = alt.Y("low:Q", scale=y.alt_scale(), axis=y.alt_axis(most[1], grid=True))
    colour = alt.Color("part:O", scale=alt.Scale(domain=parts), legend=legend(parts))
    areas = (
        of_role("part")
        .mark_area(opacity=0.85, clip=True)
        .encode(x=at_x, y=at_y, y2="high:Q", color=colour, detail="part:N")
    )
    targets = (
        of_role("part")
        .mark_rule(strokeWidth=14, opacity=0, clip=True)
        .encode(
            x=at_x,
            y=at_y,
            y2="high:Q",
            tooltip=tooltip(("series", "context", "part", "value", "total")),
        )
    )
    alone = of_role("part").transform_filter("datum.alone")
    bars = alone.mark_rule(strokeWidth=14, opacity=0.85, clip=True).encode(
        x=at_x, y=at_y, y2="high:Q", color=colour
    )
    lines = of_role("limit").encode(y=alt.Y("low:Q", scale=y.alt_scale()))
    names = lines.encode(x=alt.value(4), text="label:N")
    return alt.layer(
        areas,
        bars,
        lines.mark_rule(strokeWidth=1.5).encode(strokeDash=alt.StrokeDash("dash:N", scale=None)),
        names.mark_text(align="left", dy=-9, style="halo", fontSize=11),
        names.mark_text(align="left", dy=-9, fontSize=11),
        targets,
    )


def _memory_scale(found: Predicted, title: str) -> Scale:
    held = found.device.memory_bytes
    most = max(cell.total_bytes for cell in found.cells)
    high = min(max(most, held), held * SHOWN_OF_MEMORY) * 1.06
    return Scale(0.0, high, BYTES, title, log=False, marks=tuple(linear_ticks(high, 2)))


def _rules(found: Predicted, line: str, named: bool) -> list[Row]:
    held = found.device.memory_bytes
    free = held - found.reserve_bytes
    return [
        {
            "role": "limit",
            "line": line,
            "low": value,
            "label": f"{name}: {BYTES.text(value)}" if named else "",
            "dash": dash,
        }
        for name, value, dash in (
            (f"memory of {device_name(found)}", held, [1, 0]),
            ("free for the model", free, [6, 3]),
        )
    ]


def _stack(found: Predicted, cell: PredictedCell) -> list[Row]:
    rows, low = [], 0
    for key, part in PARTS.items():
        value = getattr(cell, key)
        if key == "cache_bytes":
            value += cell.prefill_cache_bytes
        rows.append(
            {
                **_common(found, cell),
                "role": "part",
                "alone": len(found.cells_of(cell.model, cell.batch_size)) == 1,
                "part": part,
                "low": low,
                "high": low + value,
                "value": BYTES.text(value),
                "total": BYTES.text(cell.total_bytes),
            }
        )
        low += value
    return rows


def _point(found: Predicted, cell: PredictedCell, quantity: Quantity) -> Row:
    decode = quantity == "decode_s"
    seconds = cell.decode_s if decode else cell.prefill_s
    limit = cell.decode_limited_by if decode else cell.prefill_limited_by
    return {
        **_common(found, cell),
        "y": seconds,
        "value": SECONDS.text(seconds),
        "limited by": LIMITS[limit],
    }


def _failure(found: Predicted, cell: PredictedCell) -> Row:
    return {
        **_common(found, cell),
        "status": "does not fit",
        "reason": f"takes {BYTES.text(cell.total_bytes)} of "
        f"{BYTES.text(found.device.memory_bytes - found.reserve_bytes)}",
    }


def _common(found: Predicted, cell: PredictedCell) -> dict[str, Any]:
    several = len(found.batch_sizes) > 1
    return {
        "series": cell.model,
        "line": f"{cell.model} ×{cell.batch_size}" if several else cell.model,
        "x": cell.context_tokens,
        "context": TOKENS.text(cell.context_tokens),
        "batch": str(cell.batch_size),
    }


def _names(found: Predicted) -> tuple[str, ...]:
    return tuple(model.name for model in found.models)
