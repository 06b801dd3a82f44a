"""Perplexity against context, published and measured: two panels with axes of their own.

A method has one colour in both. Lower bounds stand at the top, as the source has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from ctxsweep.analysis.published import Published
from ctxsweep.analysis.replay import method_of, perplexity
from ctxsweep.analysis.summary import Summary
from ctxsweep.report.layers import dashed
from ctxsweep.report.placing import LABEL_GAP, Row, Scale
from ctxsweep.report.units import PLAIN, TOKENS, spread

WIDTH, HEIGHT = 330, 280
AIR = 1.08
BOUND_ROW = 22


def methods(published: Published, summary: Summary | None) -> list[str]:
    """All methods, those of the run first and in its order: their places decide the colours."""
    measured = [method_of(summary, s.name) for s in summary.series] if summary else []
    return list(dict.fromkeys([*measured, *(series.method for series in published.series)]))


def published_panel(published: Published, colours: Sequence[str]) -> alt.LayerChart:
    """The table's figures."""
    rows = [
        {
            "series": series.name,
            "method": series.method,
            "x": context,
            "y": figure.value,
            "text": figure.text,
            "role": "bound" if figure.at_least else "point",
        }
        for series in published.series
        for context, figure in zip(published.contexts, series.perplexity, strict=True)
    ]
    return _panel(rows, colours, f"Published: {published.title}")


def measured_panel(summary: Summary, colours: Sequence[str]) -> alt.LayerChart | None:
    """The run's perplexities; None if it measured none."""
    cells = summary.quality.cells if summary.quality else ()
    rows = [
        {
            "series": cell.series,
            "method": method_of(summary, cell.series),
            "x": cell.context_tokens,
            "y": value,
            "text": f"{value:.2f}",
            "role": "point",
        }
        for cell in cells
        if (value := perplexity(cell)) is not None
    ]
    return _panel(rows, colours, f"Measured: {summary.scenario}") if rows else None


def _panel(rows: list[Row], colours: Sequence[str], title: str) -> alt.LayerChart:
    bounded = list(dict.fromkeys(row["series"] for row in rows if row["role"] == "bound"))
    x, y = _scales(rows, len(bounded))
    names = list(dict.fromkeys(row["series"] for row in rows))
    drawn = [_at_the_top(row, bounded, y) if row["role"] == "bound" else row for row in rows]
    base = alt.Chart().encode(
        x=alt.X("x:Q", scale=x.alt_scale(), axis=x.alt_axis(6, grid=False)),
        y=alt.Y("y:Q", scale=y.alt_scale(), axis=y.alt_axis(8, grid=True)),
        detail="series:N",
    )
    color = alt.Color("method:N", scale=alt.Scale(domain=list(colours)), legend=None)
    held, bounds, ends = (
        base.transform_filter(f"datum.role === '{role}'") for role in ("point", "bound", "name")
    )
    layers = alt.layer(
        dashed(held.mark_line(strokeWidth=2), "series", names).encode(color=color),
        held.mark_point(filled=True, size=55, opacity=1).encode(color=color),
        bounds.mark_text(fontSize=12).encode(text="text:N"),
        ends.mark_point(filled=True, size=55, opacity=1, xOffset=28).encode(color=color),
        ends.mark_text(align="left", dx=36, fontSize=12).encode(text="label:N"),
        data=alt.InlineData(values=[*drawn, *_names(drawn, y)]),
    )
    return layers.properties(width=WIDTH, height=HEIGHT, title=title)


def _scales(rows: list[Row], bounded: int) -> tuple[Scale, Scale]:
    """Perplexity is logarithmic; above it is a row for every series with lower bounds."""
    contexts = tuple(sorted({float(row["x"]) for row in rows}))
    values = [row["y"] for row in rows if row["role"] == "point"]
    low, high = min(values) / AIR, max(values) * AIR
    high = max(high, low * 1.5)
    room = 1 - bounded * BOUND_ROW / HEIGHT
    top = low * (high / low) ** (1 / room)
    y = Scale(low, top, PLAIN, "perplexity", data_high=high, marks=_marks(low, high))
    edge = (contexts[-1] - contexts[0]) * 0.05 or contexts[0] * 0.05
    ends = contexts[0] - edge, contexts[-1] + edge
    x = Scale(*ends, TOKENS, "context, tokens", log=False, marks=contexts)
    return x, y


def _marks(low: float, high: float) -> tuple[float, ...]:
    """Ticks for less than a decade; above, the scale finds its own."""
    if high / low > 5:
        return ()
    step = next((s for s in (0.1, 0.25, 0.5, 1.0, 2.5, 5.0) if (high - low) / s <= 8), 10.0)
    first, last = int(low / step) + 1, int(high / step)
    return tuple(step * i for i in range(first, last + 1))


def _at_the_top(row: Row, bounded: list[str], y: Scale) -> Row:
    level = bounded.index(row["series"]) + 0.5
    return {**row, "y": y.value_at(1 - level * BOUND_ROW / HEIGHT)}


def _names(rows: list[Row], y: Scale) -> list[Row]:
    """A name beside the last point of every line, moved apart so that all can be read."""
    last: dict[str, Row] = {}
    for row in rows:
        if row["series"] not in last or row["x"] >= last[row["series"]]["x"]:
            last[row["series"]] = row
    ends = list(last.values())
    edge = max(row["x"] for row in rows)
    pixels = spread([y.share_of(row["y"]) * HEIGHT for row in ends], LABEL_GAP, 0, HEIGHT)
    return [
        {**row, "x": edge, "y": y.value_at(pixel / HEIGHT), "role": "name", "label": row["series"]}
        for row, pixel in zip(ends, pixels, strict=True)
    ]
