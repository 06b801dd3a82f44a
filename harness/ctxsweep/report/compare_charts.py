"""The pictures of a comparison: both curves over one another, and every ratio with its interval.

All positions are settled here; colours come from the theme by the names of styles, so that one
definition serves light and dark. Outcomes differ in symbol as well as in colour.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from ctxsweep.analysis.comparison import Change, Comparison
from ctxsweep.report import theme
from ctxsweep.report.compare_words import STATUS_METRIC, side_texts, size
from ctxsweep.report.placing import Row, Scale
from ctxsweep.report.units import TOKENS, unit_of

Spec = dict[str, Any]

CURVES = ("itl_s", "prefill_s", "cache_used_bytes")
WIDTH, HEIGHT = 250, 190
AIR, SIDE_AIR = 1.25, 1.3
LABEL_EXTENT = 56
STRIP = 22
TICK_GAP = 26
KEY = (
    "Dashed grey, hollow: base. Solid, filled: new. Bands: 95% intervals. A ring marks what is "
    "SLOW or FAST, a cross what did not finish."
)


@dataclass(frozen=True)
class Panel:
    """One picture: both curves of a metric of one series; ``changed`` if a point is marked."""

    metric: str
    title: str
    words: str
    changed: bool
    spec: Spec


def config(mode: theme.Theme) -> dict[str, Any]:
    """The theme with the styles of a comparison."""
    held = theme.vega_config(mode, theme.STATIC_FONT)
    colours = {
        "base": mode.muted,
        "new": mode.series[0],
        "slow": mode.alarm,
        "fast": mode.badges["O(1)"],
        "ambg": mode.muted,
        "same": mode.muted,
        "band": mode.grid,
    }
    styles = {name: {"color": colour} for name, colour in colours.items()}
    # Of one extent, panels stand under one another.
    return held | {"style": held["style"] | styles, "axisY": {"minExtent": LABEL_EXTENT}}


def panels(comparison: Comparison) -> list[Panel]:
    """A panel per metric and series that has cells: the three that matter, and whatever else got
    worse or better."""
    found: dict[tuple[str, str, int], list[Change]] = defaultdict(list)
    for change in comparison.changes:
        if change.kind == "cell" and change.context_tokens and change.base and change.new:
            found[change.metric, change.series, change.batch_size].append(change)
    shown = [*CURVES, *(m for m in _changed_metrics(comparison) if m not in CURVES)]
    ended: dict[tuple[str, int], list[Change]] = defaultdict(list)
    for change in comparison.changes:
        if change.metric == STATUS_METRIC and change.context_tokens:
            ended[change.series, change.batch_size].append(change)
    return [
        _panel(metric, f"{series}{'' if batch == 1 else f' ×{batch}'}", held, ended[series, batch])
        for metric in shown
        for (name, series, batch), changes in found.items()
        if name == metric and (held := _positive(changes))
    ]


def _changed_metrics(comparison: Comparison) -> list[str]:
    changed = [c.metric for c in comparison.changes if c.outcome in ("SLOW", "FAST")]
    return list(dict.fromkeys(changed))


def _positive(changes: Sequence[Change]) -> list[Change]:
    """Those that a logarithmic axis can hold."""
    return [c for c in changes if c.base and c.new and min(c.base.value, c.new.value) > 0]


def _panel(metric: str, name: str, changes: Sequence[Change], lost: Sequence[Change]) -> Panel:
    held = sorted(changes, key=lambda change: change.context_tokens or 0)
    rows = [row for change in held for row in _points(change)]
    contexts = [c.context_tokens or 1 for c in (*held, *lost)]
    x = Scale(min(contexts) / SIDE_AIR, max(contexts) * SIDE_AIR, TOKENS, "context, tokens")
    y = _y_scale(rows, metric, strip=bool(lost))
    rows += [_lost(change, y) for change in lost]
    marked = [c for c in held if c.outcome in ("SLOW", "FAST")]
    told = ", ".join(f"{c.subject} {size(c.ratio)} {c.outcome}" for c in marked)
    return Panel(
        metric=metric,
        title=name,
        changed=bool(marked or lost),
        words=f"{metric} of {name} against context, base and new. "
        f"{told or 'No point is SLOW or FAST'}. The tables below have the figures.",
        spec=spec_of(_layers(x, y), rows, width=WIDTH, height=HEIGHT, title=name),
    )


def spec_of(layers: Sequence[alt.Chart], rows: list[Row], **properties: Any) -> Spec:
    """The definition of layers over the same rows.

    The rows are put into it, not into the chart, whose data altair copies at every step.
    """
    spec: Spec = alt.layer(*layers, data=alt.NamedData("rows")).to_dict(validate=False)
    return {"layer": spec["layer"], "data": {"values": rows}, **properties}


def _points(change: Change) -> list[Row]:
    rows = []
    for side, estimate in (("base", change.base), ("new", change.new)):
        assert estimate is not None
        row: Row = {"side": side, "x": change.context_tokens, "y": estimate.value, "role": "point"}
        if estimate.low is not None and estimate.high is not None and estimate.low > 0:
            row |= {"low": estimate.low, "high": estimate.high}
        rows.append(row)
    if change.outcome in ("SLOW", "FAST"):
        short = size(change.ratio).split(" ")[0]
        rows.append({**rows[-1], "role": change.outcome.lower(), "label": short})
    return rows


def _y_scale(rows: Sequence[Row], metric: str, strip: bool) -> Scale:
    """Logarithmic; at the top is room for labels, and above it for what did not finish."""
    values = [row[key] for row in rows for key in ("y", "low", "high") if key in row]
    low, high = min(values), max(values)
    if high / low < 2:
        low, high = low / 1.5, high * 1.5
    low, high = low / AIR, high * AIR
    room = 1 - (STRIP / HEIGHT if strip else 0)
    top = low * (high / low) ** (1 / room)
    unit = unit_of(metric)
    marks = () if unit.base == 2 else _marks(low, high, top)
    return Scale(low, top, unit, "", data_high=high, marks=marks)


def _marks(low: float, high: float, top: float) -> tuple[float, ...]:
    """Ticks that leave each other room, the roundest first."""
    marks: list[float] = []
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1.0,), (2.0, 5.0), (3.0, 7.0), (1.5, 4.0), (1.2, 2.5, 6.0, 8.0)):
        for tick in (factor * 10.0**decade for decade in decades for factor in factors):
            pixels = (abs(math.log(tick / other)) for other in marks)
            far = all(gap / math.log(top / low) * HEIGHT >= TICK_GAP for gap in pixels)
            if low <= tick <= high and far:
                marks.append(tick)
    return tuple(sorted(marks))


def _lost(change: Change, y: Scale) -> Row:
    base, new = side_texts(change)
    at = y.value_at(1 - STRIP / 2 / HEIGHT)
    role = "won" if change.outcome == "FAST" else "lost"
    return {"role": role, "x": change.context_tokens, "y": at, "label": f"{base} → {new}"}


def _layers(x: Scale, y: Scale) -> list[alt.Chart]:
    at = alt.Chart().encode(
        x=alt.X("x:Q", scale=x.alt_scale(), axis=x.alt_axis(6, grid=False)),
        y=alt.Y("y:Q", scale=y.alt_scale(), axis=y.alt_axis(6, grid=True)),
    )

    def of(role: str, side: str = "") -> alt.Chart:
        test = f"datum.role === '{role}'" + (f" && datum.side === '{side}'" if side else "")
        return at.transform_filter(test)

    layers = _curves(of)
    for role, place in (("slow", -16), ("fast", 18)):
        layers.append(of(role).mark_point(style=role, filled=False, size=230, strokeWidth=2.5))
        text = of(role).encode(text="label:N")
        layers.append(text.mark_text(style="halo", dy=place, fontSize=11))
        layers.append(text.mark_text(style=role, dy=place, fontSize=11, fontWeight="bold"))
    for role, style in (("lost", "slow"), ("won", "fast")):
        shape = theme.FAILURE_SYMBOL if role == "lost" else "circle"
        layers.append(of(role).mark_point(style=style, shape=shape, filled=True, size=90))
        text = of(role).encode(text="label:N")
        layers.append(text.mark_text(style=style, align="right", dx=-9, fontSize=11))
    return layers


def _curves(of: Callable[..., alt.Chart]) -> list[alt.Chart]:
    """Bands below, then lines, the base's first."""
    layers = []
    for side in ("base", "new"):
        banded = of("point", side).transform_filter("isValid(datum.low)")
        area = banded.mark_area(style=side, opacity=0.22)
        layers.append(area.encode(y=alt.Y("low:Q"), y2="high:Q"))
    for side, dash, size_of in (("base", [5, 4], 60), ("new", [1, 0], 30)):
        points = of("point", side)
        layers.append(points.mark_line(style=side, strokeWidth=2, strokeDash=dash))
        full = side == "new"
        layers.append(points.mark_point(style=side, filled=full, size=size_of, opacity=1))
    return layers
