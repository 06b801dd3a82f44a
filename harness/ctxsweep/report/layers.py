"""One way to draw curves: lines with intervals, names at their ends, failures in a strip above.

Every position that must not overlap is settled here in pixels of a fixed height, so that the page
and the images show the same whatever the width.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from ctxsweep.report import theme
from ctxsweep.report.units import TOKENS, Unit, linear_ticks, log_ticks, spread

Row = dict[str, Any]

HEIGHT = 340
LABEL_GAP = 14
STRIP_ROW = 16
NARROW = 470
SHOWN = "shown"


@dataclass(frozen=True)
class Scale:
    """An axis: its domain in data units and how pixels map to it.

    Above ``data_high`` there is no data, hence no tick: that is the strip of failures.
    """

    low: float
    high: float
    unit: Unit
    title: str
    log: bool = True
    data_high: float = math.inf

    def value_at(self, share: float) -> float:
        """The value at this share of the axis, 0 at its low end and 1 at its high end."""
        if self.log:
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share

    def share_of(self, value: float) -> float:
        """The inverse of ``value_at``."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """Round figures for the labels of the axis."""
        high = min(self.high, self.data_high)
        if self.log:
            return log_ticks(self.low, high, self.unit.base, most)
        return linear_ticks(high, self.unit.base, most)

    def alt_scale(self) -> alt.Scale:
        domain = [self.low, self.high]
        if self.log:
            return alt.Scale(type="log", base=self.unit.base, domain=domain, nice=False)
        return alt.Scale(type="linear", domain=domain, nice=False)

    def alt_axis(self, most: int, grid: bool) -> alt.Axis:
        return alt.Axis(
            title=self.title,
            values=self.ticks(most),
            labelExpr=self.unit.label_expr(),
            labelOverlap="parity",
            grid=grid,
            domain=not grid,
            titleAnchor="end" if grid else "middle",
            titleAngle=0 if grid else alt.Undefined,
            titleAlign="left" if grid else alt.Undefined,
            titleX=0 if grid else alt.Undefined,
            titleY=-10 if grid else alt.Undefined,
        )


def y_scale(
    values: Iterable[float], unit: Unit, title: str, *, log: bool, strip_rows: int, top: float = 0.0
) -> Scale:
    """A scale that holds ``values`` and, above them, a strip of ``strip_rows`` for failures."""
    held = list(values)
    room = 1 - strip_height(strip_rows) / HEIGHT
    if not log:
        high = max([*held, top]) or 1.0
        return Scale(0.0, high * 1.04 / room, unit, title, log=False, data_high=high * 1.04)
    low, high = min(held), max([*held, top])
    if high / low < 2:
        low, high = low / 1.5, high * 1.5
    low, high = low / 1.2, high * 1.2
    return Scale(low, low * (high / low) ** (1 / room), unit, title, data_high=high)


def context_scale(contexts: Iterable[int]) -> Scale:
    """The context axis: log2, with a little air on both sides."""
    held = list(contexts)
    return Scale(min(held) / 1.12, max(held) * 1.12, TOKENS, "context, tokens")


def strip_height(rows: int) -> float:
    """Pixels that the strip of failures takes."""
    return (rows + 1) * STRIP_ROW if rows else 0.0


def shown_param(names: Sequence[str]) -> alt.Parameter:
    """The series to draw, as a signal that the page's picker sets on every chart at once."""
    return alt.param(name=SHOWN, value=list(names))


def only_shown(chart: alt.Chart) -> alt.Chart:
    """Keep the rows of the series that are picked."""
    return chart.transform_filter(f"indexof({SHOWN}, datum.series) >= 0")


def dashed(chart: alt.Chart, field: str, values: Sequence[str]) -> alt.Chart:
    """A dash pattern per value; without a scale, else a legend draws its symbols dashed."""
    patterns = json.dumps([theme.dash(i) for i in range(len(values))])
    pattern = f"{patterns}[indexof({json.dumps(list(values))}, datum.{field})]"
    dash = alt.StrokeDash("dash:N", scale=None, legend=None)
    return chart.transform_calculate(dash=pattern).encode(strokeDash=dash)


def tooltip(fields: Iterable[str]) -> list[alt.Tooltip]:
    """Tooltip of fields that already hold text; a field's name is its caption."""
    return [alt.Tooltip(f"{field}:N") for field in fields]


@dataclass(frozen=True)
class Curves:
    """Rows to draw. Each has ``series``, ``line``, ``x``, ``y`` and the texts of its tooltip.

    A failure's row has ``x`` and ``status`` but no ``y``. ``names`` are all series in order.
    """

    names: tuple[str, ...]
    points: list[Row]
    failures: list[Row]
    tips: tuple[str, ...]
    x: Scale
    y: Scale
    symbols: bool = True
    ceiling: bool = False

    def chart(self) -> alt.LayerChart:
        """All layers over one another."""
        layers = [self._intervals()] if any("low" in row for row in self.points) else []
        layers += [self._lines(), self._points(), *self._names()]
        if self.failures:
            layers += [self._strip_rule(), self._failures()]
        if self.ceiling:
            layers.append(self._ceiling())
        return alt.layer(*layers).properties(width="container", height=HEIGHT)

    def _base(self, rows: list[Row]) -> alt.Chart:
        return self._placed(rows).encode(
            color=alt.Color("series:N", scale=self._domain(), legend=self._legend()),
            opacity=alt.condition(self._clicked(), alt.value(1), alt.value(0.12)),
        )

    def _placed(self, rows: list[Row]) -> alt.Chart:
        return only_shown(alt.Chart(alt.Data(values=rows))).encode(
            x=alt.X("x:Q", scale=self.x.alt_scale(), axis=self.x.alt_axis(12, grid=False)),
            y=alt.Y("y:Q", scale=self.y.alt_scale(), axis=self.y.alt_axis(8, grid=True)),
            detail="line:N",
        )

    def _domain(self, **extra: Any) -> alt.Scale:
        return alt.Scale(domain=list(self.names), **extra)

    def _legend(self) -> alt.Legend:
        column = 44 + 7 * max(len(name) for name in self.names)
        columns = alt.ExprRef(f"max(2, floor(width / {column}))")
        return alt.Legend(orient="bottom", title=None, columns=columns, offset=14)

    def _clicked(self) -> alt.Parameter:
        return alt.selection_point(name="clicked", fields=["series"], bind="legend")

    def _lines(self) -> alt.Chart:
        base = self._base(self.points).mark_line(strokeWidth=2, clip=True)
        lines = dashed(base.encode(order="x:Q"), "series", self.names)
        return lines.add_params(self._clicked()).properties(name="lines")

    def _points(self) -> alt.Chart:
        symbols = [theme.symbol(i) for i in range(len(self.names))]
        size = 70 if self.symbols else 12
        shape = alt.Shape("series:N", scale=self._domain(range=symbols), legend=self._legend())
        return (
            self._base(self.points)
            .mark_point(filled=True, size=size)
            .encode(shape=shape, tooltip=tooltip(self.tips))
        )

    def _intervals(self) -> alt.Chart:
        rows = [row for row in self.points if "low" in row]
        rules = self._base(rows).mark_rule(strokeWidth=4, strokeOpacity=0.35)
        return rules.encode(y=alt.Y("low:Q"), y2="high:Q", tooltip=tooltip(self.tips))

    def _names(self) -> list[alt.Chart]:
        """The name of each line: beside its end at the right edge, above or below elsewhere."""
        edge = max(row["x"] for row in self.points + self.failures)
        ends = self._ends()
        charts = []
        for side, dy in (("above", -13), ("below", 14)):
            rows = [row for row in ends if row["x"] < edge and self._free_side(row) == side]
            charts.append(self._placed(rows).mark_text(style="halo", fontSize=12, dy=dy))
            charts.append(self._base(rows).mark_text(fontSize=12, dy=dy))
        rows = [row for row in ends if row["x"] == edge]
        charts.append(self._base(rows).mark_text(align="left", dx=9, fontSize=12))
        return [_wide(chart.encode(text="label:N")) for chart in charts if chart.data.values]

    def _free_side(self, end: Row) -> str:
        """Where the next point at the same place is further away."""
        at = [r["y"] for r in self.points if r["x"] == end["x"] and r["line"] != end["line"]]
        shares = [self.y.share_of(y) - self.y.share_of(end["y"]) for y in at]
        above = min((share for share in shares if share >= 0), default=1.0)
        below = min((-share for share in shares if share <= 0), default=1.0)
        return "above" if above >= below else "below"

    def _ends(self) -> list[Row]:
        """Where each line ends, moved apart so that the names can be read."""
        last: dict[str, Row] = {}
        for row in self.points:
            if row["line"] not in last or row["x"] > last[row["line"]]["x"]:
                last[row["line"]] = row
        at: dict[float, list[Row]] = defaultdict(list)
        for row in last.values():
            at[row["x"]].append(row)
        rows = []
        top = HEIGHT - strip_height(self._strip_rows()) - LABEL_GAP / 2
        for ends in at.values():
            pixels = [self.y.share_of(row["y"]) * HEIGHT for row in ends]
            for row, pixel in zip(ends, spread(pixels, LABEL_GAP, 0, top), strict=True):
                rows.append(_label(row, row["line"], self.y.value_at(pixel / HEIGHT)))
        return rows

    def _strip_rows(self) -> int:
        return len({row["line"] for row in self.failures})

    def _failures(self) -> alt.Chart:
        """A cross where a cell did not finish, one row per line, its name at the right."""
        level = {line: i for i, line in enumerate(dict.fromkeys(r["line"] for r in self.failures))}
        rows, names = [], {}
        for row in self.failures:
            y = self.y.value_at(1 - (level[row["line"]] * STRIP_ROW + 8) / HEIGHT)
            rows.append({**row, "y": y})
            names[row["line"]] = _label(row, f"{row['line']}: {row['status']}", y)
        crosses = (
            self._base(rows)
            .mark_point(shape=theme.FAILURE_SYMBOL, filled=True, size=90)
            .encode(tooltip=tooltip(("series", "context", "status", "reason")))
        )
        text = self._base(list(names.values())).mark_text(align="left", dx=9, fontSize=12)
        return alt.layer(
            crosses, text.encode(text="label:N").transform_filter(f"width >= {NARROW}")
        )

    def _strip_rule(self) -> alt.Chart:
        y = self.y.value_at(1 - strip_height(self._strip_rows()) / HEIGHT)
        data = alt.Chart(alt.Data(values=[{"y": y, "label": "did not finish ↑"}]))
        position = alt.Y("y:Q", scale=self.y.alt_scale())
        rule = data.mark_rule(strokeDash=[2, 4]).encode(y=position)
        text = data.mark_text(align="left", dy=-8, dx=2, style="muted", fontSize=11)
        return alt.layer(rule, text.encode(y=position, x=alt.value(0), text="label:N"))

    def _ceiling(self) -> alt.Chart:
        data = alt.Chart(alt.Data(values=[{"y": 1.0, "label": "measured ceiling of this machine"}]))
        position = alt.Y("y:Q", scale=self.y.alt_scale())
        rule = data.mark_rule(strokeWidth=1.5).encode(y=position)
        text = data.mark_text(align="left", dy=10, dx=2, style="muted", fontSize=11)
        return alt.layer(rule, text.encode(y=position, x=alt.value(0), text="label:N"))


def _wide(chart: alt.Chart) -> alt.Chart:
    """Only where the width leaves room for names; the legend serves a narrow page alone."""
    return chart.transform_filter(f"width >= {NARROW}")


def _label(row: Row, text: str, y: float) -> Row:
    return {"series": row["series"], "line": row["line"], "x": row["x"], "y": y, "label": text}
