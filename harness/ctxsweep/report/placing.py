"""Where everything stands: scales, names that do not overlap, failures in a strip at the top.

Positions are settled here in pixels of a fixed height, so that the page and the images show the
same whatever the width.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import altair as alt

from ctxsweep.report.units import TOKENS, Unit, linear_ticks, log_ticks, spread

Row = dict[str, Any]
"""A row to draw. ``role`` says what it is: ``point``; ``end``, ``above``, ``below`` (a line's name
beside, above or below its end); ``failure`` and its name ``failed``; the rules ``strip``,
``ceiling`` and ``allowed``."""

HEIGHT = 340
LABEL_GAP = 14
STRIP_ROW = 16


@dataclass(frozen=True)
class Scale:
    """An axis: its domain in data units and how pixels map to it.

    Above ``data_high`` there is no data, hence no tick: that is the strip of failures. ``marks``
    are ticks that are wished for in place of round figures.
    """

    low: float
    high: float
    unit: Unit
    title: str
    log: bool = True
    data_high: float = math.inf
    marks: tuple[float, ...] = ()

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
        if self.marks:
            return list(self.marks)
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


def placed(points: list[Row], failures: list[Row], y: Scale, *, ceiling: bool = False) -> list[Row]:
    """All rows of a chart with their roles.

    ``points`` have ``series``, ``line``, ``x`` and ``y``; ``failures`` have ``status`` and no
    ``y``. Both keep what else they hold, for tooltips.
    """
    rows = [{**row, "role": "point"} for row in points] + _names(points, failures, y)
    if failures:
        level = y.value_at(1 - strip_height(_lines(failures)) / HEIGHT)
        rows += _failures(failures, y)
        rows.append({"role": "strip", "y": level, "label": "did not finish ↑"})
    if ceiling:
        rows.append({"role": "ceiling", "y": 1.0, "label": "measured ceiling of this machine"})
    return rows


def _lines(rows: list[Row]) -> int:
    return len({row["line"] for row in rows})


def _names(points: list[Row], failures: list[Row], y: Scale) -> list[Row]:
    """Where each line ends, moved apart so that the names can be read."""
    last: dict[str, Row] = {}
    for row in points:
        if row["line"] not in last or row["x"] > last[row["line"]]["x"]:
            last[row["line"]] = row
    ends_at: dict[float, list[Row]] = defaultdict(list)
    for row in last.values():
        ends_at[row["x"]].append(row)
    edge = max(row["x"] for row in points + failures)
    top = HEIGHT - strip_height(_lines(failures)) - LABEL_GAP / 2
    rows = []
    for x, ends in ends_at.items():
        pixels = spread([y.share_of(end["y"]) * HEIGHT for end in ends], LABEL_GAP, 0, top)
        for end, pixel in zip(ends, pixels, strict=True):
            role = "end" if x == edge else _free_side(end, points, y)
            rows.append(_name(end, role, end["line"], y.value_at(pixel / HEIGHT)))
    return rows


def _free_side(end: Row, points: list[Row], y: Scale) -> str:
    """Where the next point at the same place is further away."""
    at = [row["y"] for row in points if row["x"] == end["x"] and row["line"] != end["line"]]
    shares = [y.share_of(other) - y.share_of(end["y"]) for other in at]
    above = min((share for share in shares if share >= 0), default=1.0)
    below = min((-share for share in shares if share <= 0), default=1.0)
    return "above" if above >= below else "below"


def _failures(failures: list[Row], y: Scale) -> list[Row]:
    """A cross where a cell did not finish, one level per line, its name at the last of them."""
    level = {line: i for i, line in enumerate(dict.fromkeys(row["line"] for row in failures))}
    rows = []
    names: dict[str, Row] = {}
    for row in failures:
        at = y.value_at(1 - (level[row["line"]] * STRIP_ROW + 8) / HEIGHT)
        rows.append({**row, "role": "failure", "y": at})
        names[row["line"]] = _name(row, "failed", f"{row['line']}: {row['status']}", at)
    return [*rows, *names.values()]


def _name(row: Row, role: str, text: str, y: float) -> Row:
    at = {key: row[key] for key in ("series", "line", "x")}
    return {**at, "role": role, "y": y, "label": text}
