"""How far each series goes, as a bar with what ended it; one chart per quantity.

The name and the finding stand as text over the bar, so that nothing has to be read from a colour
and nothing is cut off on a narrow page.
"""

from __future__ import annotations

import altair as alt

from ctxsweep.analysis.frontier_summary import FrontierLine, Quantity
from ctxsweep.analysis.summary import Summary
from ctxsweep.report import theme
from ctxsweep.report.frontier import (
    REASONS,
    at_text,
    detail_of,
    finding,
    line_names,
    tries_text,
)
from ctxsweep.report.layers import data_of, legend, of_role, shown_param, tooltip
from ctxsweep.report.placing import Row, Scale
from ctxsweep.report.rows import series_names
from ctxsweep.report.units import TOKENS, Unit

SEQUENCES = Unit("sequences", ((1.0, ""),), base=2)
AXES: dict[Quantity, tuple[Unit, str]] = {
    "context_tokens": (TOKENS, "context, tokens"),
    "batch_size": (SEQUENCES, "batch, sequences"),
}
OPEN = "all that was tried runs"
UNKNOWN = "a try gave no answer"
# In the order of the theme's colours for parts.
ENDS = (UNKNOWN, REASONS["memory"], OPEN, REASONS["prefill"], REASONS["decode"])
ROW_HEIGHT = 46
TEXT_RISE = 15
TIPS = ("series", "held", "finding", "tries", "detail")
ARROW = "M-.6,-.8L.9,0L-.6,.8Z"


def frontier_chart(summary: Summary, quantity: Quantity) -> alt.LayerChart | None:
    """A bar up to what runs, a gap up to what does not, an arrow where nothing ended it."""
    found = summary.frontier
    lines = [line for line in found.lines if line.quantity == quantity] if found else []
    if found is None or not lines:
        return None
    names = line_names(found, quantity)
    unit, title = AXES[quantity]
    low = min(line.step for line in lines) / 1.5
    x = Scale(low, max(line.up_to for line in lines) * 1.2, unit, title)
    rows = [row for line in lines for row in _rows(line, names[line.series, line.at], low)]
    layers = _layers(x, list(names.values()), {row["end"] for row in rows})
    chart = alt.layer(*layers, data=data_of(rows))
    chart = chart.properties(width="container", height=alt.Step(ROW_HEIGHT))
    return chart.add_params(shown_param(series_names(summary)))


def _rows(line: FrontierLine, name: str, low: float) -> list[Row]:
    """The bar with its text, and where it ends: ``reached``, ``limit``, ``open`` or ``failed``."""
    reason = line.stopped_by
    reached = line.passes.value if line.passes else low
    row: Row = {
        "series": line.series,
        "line": name,
        "x": reached,
        "end": UNKNOWN if line.silent else REASONS[reason] if line.fails and reason else OPEN,
        "label": f"{name}: {finding(line)}",
        "held": at_text(line),
        "finding": finding(line),
        "tries": tries_text(line),
        "detail": detail_of(line) or "–",
    }
    rows = [{**row, "role": "bar", "start": low}]
    if line.silent:
        return [*rows, {**row, "role": "failed", "x": line.silent.value}]
    if line.fails is None:
        at_end = "cap" if reason else "open"
        return [*rows, {**row, "role": at_end}] if line.passes else rows
    failed = {**row, "x": line.fails.value}
    return [*rows, {**row, "role": "limit", "start": line.fails.value}, {**failed, "role": "cap"}]


def _layers(x: Scale, names: list[str], ends: set[str]) -> list[alt.Chart]:
    shown = [end for end in ENDS if end in ends]
    colour = alt.Color("end:O", scale=alt.Scale(domain=list(ENDS)), legend=_legend(shown))

    def at(role: str) -> alt.Chart:
        return of_role(role).encode(
            x=alt.X("x:Q", scale=x.alt_scale(), axis=x.alt_axis(8, grid=False)),
            y=alt.Y("line:N", sort=names, axis=None),
            tooltip=tooltip(TIPS),
        )

    bars = at("bar").encode(x2="start:Q", color=colour)
    limits = at("limit").encode(x2="start:Q", color=colour)
    crosses = at("failed").mark_point(
        shape=theme.FAILURE_SYMBOL, filled=True, size=90, style="alarm", opacity=1
    )
    text = at("bar").encode(x=alt.value(0), text="label:N")
    place = {"align": "left", "dx": 2, "dy": -TEXT_RISE, "fontSize": 12}
    return [
        bars.mark_rule(strokeWidth=9),
        limits.mark_rule(strokeWidth=2, strokeDash=[2, 2]),
        at("cap")
        .encode(color=colour)
        .mark_tick(thickness=2, size=16, orient="vertical", opacity=1),
        at("open").encode(color=colour).mark_point(shape=ARROW, filled=True, size=260, opacity=1),
        crosses,
        text.mark_text(**place),
    ]


def _legend(shown: list[str]) -> alt.Legend:
    made = legend(shown)
    made["values"] = shown
    return made
