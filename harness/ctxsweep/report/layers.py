"""One way to draw curves: lines with intervals, names at their ends, failures as crosses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from ctxsweep.report import theme
from ctxsweep.report.placing import HEIGHT, Row, Scale

SHOWN = "shown"
CONTAINER = "(containerSize()[0] || 900)"
"""Width of the chart's place in the page; an image has none, and is wide."""
WIDE = f"{CONTAINER} >= 600"
"""Whether there is room for names beside the lines; a narrow page has the legend alone."""


def data_of(rows: list[Row]) -> alt.InlineData:
    """The rows of a chart, which its layers share."""
    return alt.InlineData(values=rows, name="rows")


def shown_param(names: Sequence[str]) -> alt.Parameter:
    """The series to draw, as a signal that the page's picker sets on every chart at once."""
    return alt.param(name=SHOWN, value=list(names))


def of_role(role: str) -> alt.Chart:
    """A layer of the rows of one role, and of the series that are picked."""
    return alt.Chart().transform_filter(
        f"datum.role === '{role}' && (!datum.series || indexof({SHOWN}, datum.series) >= 0)"
    )


def legend(names: Sequence[str]) -> alt.Legend:
    """A legend at the bottom, in as many columns as fit."""
    column = 40 + 7 * max(len(name) for name in names)
    columns = alt.ExprRef(f"max(2, floor(({CONTAINER} - 70) / {column}))")
    return alt.Legend(orient="bottom", title=None, columns=columns, offset=14)


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
    """Rows with roles (``placing``) to draw. ``names`` are all series in order."""

    names: tuple[str, ...]
    rows: list[Row]
    tips: tuple[str, ...]
    x: Scale
    y: Scale
    symbols: bool = True

    def chart(self) -> alt.LayerChart:
        """All layers over one another, those without rows left out."""
        roles = {row["role"] for row in self.rows}
        # The lines are first: the layer that listens to the legend must be the one that makes it.
        layers = [self._lines()]
        layers += [self._intervals()] if any("low" in row for row in self.rows) else []
        layers += [self._points(), self._end_symbols()]
        layers += self._names("end", align="left", dx=25)
        layers += self._names("above", dy=-13) if "above" in roles else []
        layers += self._names("below", dy=14) if "below" in roles else []
        if "failure" in roles:
            layers += [*self._rule("strip", dy=-8, strokeDash=[2, 4]), self._crosses()]
            layers += self._names("failed", align="left", dx=10)
        if "ceiling" in roles:
            layers += self._rule("ceiling", dy=10)
        if "allowed" in roles:
            layers += self._rule("allowed", dy=-8, strokeDash=[6, 3])
        chart = alt.layer(*layers, data=data_of(self.rows))
        return chart.properties(width="container", height=HEIGHT)

    def _at(self, role: str) -> alt.Chart:
        return of_role(role).encode(
            x=alt.X("x:Q", scale=self.x.alt_scale(), axis=self.x.alt_axis(12, grid=False)),
            y=alt.Y("y:Q", scale=self.y.alt_scale(), axis=self.y.alt_axis(8, grid=True)),
            detail="line:N",
            opacity=alt.condition(self._clicked(), alt.value(1), alt.value(0.12)),
        )

    def _coloured(self, role: str) -> alt.Chart:
        color = alt.Color("series:N", scale=self._domain(), legend=legend(self.names))
        return self._at(role).encode(color=color)

    def _domain(self, **extra: Any) -> alt.Scale:
        return alt.Scale(domain=list(self.names), **extra)

    def _shape(self) -> alt.Shape:
        symbols = [theme.symbol(i) for i in range(len(self.names))]
        return alt.Shape("series:N", scale=self._domain(range=symbols), legend=legend(self.names))

    def _clicked(self) -> alt.Parameter:
        return alt.selection_point(name="clicked", fields=["series"], bind="legend")

    def _lines(self) -> alt.Chart:
        lines = self._coloured("point").mark_line(strokeWidth=2).encode(order="x:Q")
        lines = dashed(lines, "series", self.names)
        # A name of its own: altair would number it, anew at every call.
        return lines.add_params(self._clicked()).properties(name="lines")

    def _points(self) -> alt.Chart:
        size = 70 if self.symbols else 12
        points = self._coloured("point").mark_point(filled=True, size=size)
        return points.encode(shape=self._shape(), tooltip=tooltip(self.tips))

    def _intervals(self) -> alt.Chart:
        rules = self._coloured("point").mark_rule(strokeWidth=4, strokeOpacity=0.35)
        held = rules.transform_filter("isValid(datum.low)")
        return held.encode(y=alt.Y("low:Q"), y2="high:Q", tooltip=tooltip(self.tips))

    def _end_symbols(self) -> alt.Chart:
        symbols = self._coloured("end").mark_point(filled=True, size=55, xOffset=16)
        return symbols.encode(shape=self._shape()).transform_filter(WIDE)

    def _names(self, role: str, **place: Any) -> list[alt.Chart]:
        """Names in the colour of text, to be read; the symbol beside them says whose they are."""
        text = self._at(role).encode(text="label:N").transform_filter(WIDE)
        halo = text.mark_text(style="halo", fontSize=12, **place)
        return [halo, text.mark_text(fontSize=12, **place)]

    def _crosses(self) -> alt.Chart:
        crosses = self._coloured("failure").mark_point(
            shape=theme.FAILURE_SYMBOL, filled=True, size=90
        )
        return crosses.encode(tooltip=tooltip(("series", "context", "status", "reason")))

    def _rule(self, role: str, dy: int, **style: Any) -> list[alt.Chart]:
        row = of_role(role).encode(y=alt.Y("y:Q", scale=self.y.alt_scale()))
        text = row.encode(x=alt.value(0), text="label:N")
        label = text.mark_text(align="left", dy=dy, dx=2, style="muted", fontSize=11)
        return [row.mark_rule(**style), label]
