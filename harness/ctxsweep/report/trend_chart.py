"""One small chart per metric of a history: every night with its interval, and where it shifted."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import altair as alt

from ctxsweep.analysis.change_points import ChangePoint
from ctxsweep.analysis.history import Line
from ctxsweep.analysis.metrics import METRICS
from ctxsweep.report.layers import tooltip
from ctxsweep.report.units import SECONDS, TOKENS, Unit, unit_of

Row = dict[str, Any]

HEIGHT = 130
LABEL_WIDTH = 62
"""The same for all, so that the nights of all charts stand under one another."""
LEAST_SPAN = 0.10
"""Of a measured metric's size, on the y axis: noise of 1% must not look like mountains."""
SHORT_COMMIT = 10
TIPS = ("night", "value", "interval", "commit", "run")
KILO = 1024.0


@dataclass(frozen=True)
class Shown:
    """How a metric is written: its figures times ``factor`` in ``unit``, and what stands behind."""

    unit: Unit
    factor: float = 1.0
    per: str = ""

    def text(self, value: float) -> str:
        """``2.1 ms``, ``266 µs per 1K tokens``."""
        return f"{self.unit.text(value * self.factor)}{self.per}"


def shown(line: Line) -> Shown:
    """The unit of a metric, of a curve's parameter per 1K tokens."""
    metric, _, parameter = line.metric.partition(".")
    if parameter == "crossover":
        return Shown(TOKENS, per=" tokens")
    unit = SECONDS if line.kind == "bench" else unit_of(metric)
    if parameter == "slope":
        return Shown(unit, KILO, " per 1K tokens")
    if parameter == "bend":
        return Shown(unit, KILO**2, " per (1K tokens)²")
    return Shown(unit)


def verdict(line: Line, point: ChangePoint) -> str:
    """``worse`` or ``better``; nothing for a crossover, whose moving is neither."""
    if line.metric.endswith(".crossover"):
        return ""
    metric = METRICS.get(line.metric.split(".")[0])
    higher = metric is not None and metric.better == "higher"
    return "worse" if (point.after < point.before) == higher else "better"


def change_text(line: Line, point: ChangePoint) -> str:
    """``+10.2%``; the two levels where a share says nothing (from zero, or over it)."""
    if point.relative is None:
        written = shown(line)
        return f"{written.text(point.before)} → {written.text(point.after)}"
    sign = "+" if point.relative > 0 else "−"
    share = abs(point.relative)
    return f"{sign}{share:.1%}" if share >= 0.0005 else f"{sign}{share:.1g}"


def commit_text(commit: str | None, dirty: bool | None) -> str:
    """The commit, shortened, and whether the tree had changes."""
    if commit is None:
        return "not known"
    return commit[:SHORT_COMMIT] + (" with uncommitted changes" if dirty else "")


def chart(
    line: Line, points: Sequence[ChangePoint], runs: Sequence[str], dates: Sequence[str], place: int
) -> alt.LayerChart:
    """The chart of a metric. ``runs`` and ``dates`` [nights]: all nights of the page, so that all
    its charts have the same x axis; ``place``: of the series among all, for its colour."""
    written = shown(line)
    rows = _rows(line, runs, written)
    x = alt.X(
        "x:Q", scale=alt.Scale(domain=[-0.5, len(runs) - 0.5], nice=False), axis=_x_axis(dates)
    )
    y = _y(rows, written.unit, 0.0 if line.exact else LEAST_SPAN)
    base = alt.Chart(alt.InlineData(values=rows)).encode(x=x)
    colour = alt.Color(
        "place:O", scale=alt.Scale(domain=list(range(9)), range="category"), legend=None
    )
    rows_of_place = base.transform_calculate(place=str(place % 9)).encode(color=colour)
    intervals = rows_of_place.mark_rule(strokeWidth=3, strokeOpacity=0.3, clip=True)
    shifts = [layer for point in points for layer in _shift(line, point, runs, written)]
    dots = rows_of_place.mark_point(filled=True, size=26, opacity=1, clip=True)
    # All of a night's column answers to the pointer: dots stand too close to be aimed at.
    columns = base.transform_calculate(left="datum.x - 0.5", right="datum.x + 0.5")
    targets = columns.mark_rect(opacity=0, clip=True).encode(
        x="left:Q", x2="right:Q", tooltip=tooltip(TIPS)
    )
    held = intervals.transform_filter("isValid(datum.low)")
    layers = [
        held.encode(y=alt.Y("low:Q"), y2="high:Q"),
        dots.encode(y=y),
        targets,
        *shifts,
    ]
    return alt.layer(*layers).properties(width="container", height=HEIGHT)


def _rows(line: Line, runs: Sequence[str], written: Shown) -> list[Row]:
    place = {run: index for index, run in enumerate(runs)}
    rows = []
    for index, run in enumerate(line.run_ids):
        value, low, high = line.values[index], line.lows[index], line.highs[index]
        row: Row = {
            "x": place[run],
            "y": value * written.factor,
            "night": moment(line.times[index]),
            "value": written.text(value),
            "interval": "none",
            "commit": commit_text(line.commits[index], line.dirty[index]),
            "run": run,
        }
        if low is not None and high is not None and math.isfinite(low + high):
            row |= {"low": low * written.factor, "high": high * written.factor}
            row["interval"] = f"{written.text(low)} to {written.text(high)}"
        rows.append(row)
    return rows


def moment(time: datetime) -> str:
    """``2025-03-01 02:00 UTC``."""
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _y(rows: list[Row], unit: Unit, least_span: float) -> alt.Y:
    low, high = _domain(rows, least_span)
    axis = alt.Axis(
        title=None,
        values=_ticks(low, high, unit, rows),
        labelExpr=unit.label_expr(),
        domain=False,
        tickSize=0,
        minExtent=LABEL_WIDTH,
        maxExtent=LABEL_WIDTH,
    )
    return alt.Y("y:Q", scale=alt.Scale(domain=[low, high], nice=False, zero=False), axis=axis)


def _domain(rows: list[Row], least_span: float) -> tuple[float, float]:
    """Room for all values, for intervals as far as they are no longer than the values' range."""
    values = [row["y"] for row in rows]
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    span = max(high - low, least_span * size) or LEAST_SPAN * size or 1.0
    wide_low = max(low - span, min(row.get("low", low) for row in rows))
    wide_high = min(high + span, max(row.get("high", high) for row in rows))
    extra = max(0.0, span - (wide_high - wide_low)) / 2
    return wide_low - extra - 0.08 * span, wide_high + extra + 0.22 * span


def _ticks(low: float, high: float, unit: Unit, rows: list[Row]) -> list[float]:
    """Two to four round figures in the unit's step; one or two values as they are."""
    values = {row["y"] for row in rows}
    if len(values) <= 2:
        return sorted(values)
    size = max((s for s, _ in unit.steps if s <= max(abs(low), abs(high))), default=1.0)
    rough = (high - low) / size / 4
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * f for f in (1, 2, 5, 10) if scale * f >= rough * 0.9999)
    first = math.ceil(low / size / step)
    last = math.floor(high / size / step)
    return [i * step * size for i in range(first, last + 1)]


def _x_axis(dates: Sequence[str]) -> alt.Axis:
    """The dates of four nights at most."""
    last = len(dates) - 1
    places = sorted({round(last * i / 3) for i in range(4)})
    return alt.Axis(
        title=None,
        values=places,
        labelExpr=f"{json.dumps(list(dates))}[datum.value]",
        labelFlush=True,
        labelOverlap="greedy",
        grid=False,
        domain=False,
        tickSize=3,
    )


def _shift(line: Line, point: ChangePoint, runs: Sequence[str], written: Shown) -> list[alt.Chart]:
    """A rule before the first night of the new level, and its size."""
    place = list(runs).index(line.run_ids[point.index])
    row = {
        "at": place - 0.5,
        "size": change_text(line, point),
        "since": moment(point.time),
        "commit": commit_text(point.commit, None),
        "levels": f"{written.text(point.before)} → {written.text(point.after)}",
    }
    style = "alarm" if verdict(line, point) == "worse" else "muted"
    layer = alt.Chart(alt.InlineData(values=[row])).encode(x="at:Q")
    tips = tooltip(("size", "since", "commit", "levels"))
    to_the_left = place > 0.7 * len(runs)
    text = layer.mark_text(
        style=style,
        align="right" if to_the_left else "left",
        dx=-4 if to_the_left else 4,
        fontSize=12,
        fontWeight="bold",
        baseline="top",
    )
    return [
        layer.mark_rule(style=style, strokeWidth=2, strokeDash=[5, 3]).encode(tooltip=tips),
        text.encode(y=alt.value(1), text="size:N", tooltip=tips),
    ]
