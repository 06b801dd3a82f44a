"""Every ratio with its interval, a picture per metric: what changed line by line, what did not as
one line. The shaded band is the threshold, under which nobody is told.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import altair as alt

from ctxsweep.analysis.comparison import Change, Comparison, Outcome
from ctxsweep.report.compare_charts import Spec, spec_of
from ctxsweep.report.compare_words import counted, ordered, side_texts, size
from ctxsweep.report.placing import Row

WIDTH, ROW, LABELS = 460, 22, 240
MOST_LETTERS = 30
LEAST = 1.1
"""The axis reaches at least 10% to both sides."""
RISES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 9.0, 29.0, 99.0, 999.0)
FALLS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.99, 0.999)
TICK_GAP = 46
MOST_OPEN = 16
"""AMBG lines of a metric that are drawn each; the page's table has them all."""
SHARES = (
    "datum.value == 1 ? '0%' : datum.value >= 10 ? format(datum.value, ',d') + '×' : "
    "format(datum.value - 1, '+,.3~%')"
)
SYMBOLS: dict[Outcome, str] = {
    "SLOW": "triangle-right",
    "FAST": "triangle-left",
    "AMBG": "diamond",
    "SAME": "circle",
}
KEY = (
    "To the right is worse. Triangles: SLOW points right, FAST left; hollow diamond: AMBG; dot: "
    "SAME. Lines: 95% intervals; thick: many lines as one, from the least to the largest change. "
    "Shaded: the threshold."
)


@dataclass(frozen=True)
class Forest:
    """The picture of one metric."""

    metric: str
    words: str
    spec: Spec


def forests(comparison: Comparison) -> list[Forest]:
    """A picture per metric that has ratios, those with a regression first."""
    groups: dict[str, list[Change]] = defaultdict(list)
    for change in ordered(comparison.changes):
        groups[change.metric].append(change)
    with_ratio = (name for name, held in groups.items() if any(c.ratio for c in held))
    return [_forest(name, groups[name]) for name in with_ratio]


def _forest(metric: str, changes: Sequence[Change]) -> Forest:
    lines = [change for change in changes if change.outcome in ("SLOW", "FAST")]
    same = [change for change in changes if change.outcome == "SAME"]
    open_ = [change for change in changes if change.outcome == "AMBG"]
    open_.sort(key=lambda change: -_factor(change.ratio.value) if change.ratio else 0.0)
    lines += open_[:MOST_OPEN]
    summed = [held for held in (open_[MOST_OPEN:], same) if held]
    reach = _reach(changes)
    rows = [row for i, change in enumerate(lines) for row in _rows(change, i, reach)]
    rows += [row for i, held in enumerate(summed) for row in _summed(held, len(lines) + i)]
    rows.append({"role": "even", "x": 1.0})
    count = len(lines) + len(summed)
    parts = [f"{change.subject} {size(change.ratio)} {change.outcome}" for change in lines[:10]]
    parts += [f"{len(lines) - 10} more"] if len(lines) > 10 else []
    parts += [f"{counted(len(held), 'line')} {held[0].outcome}" for held in summed]
    return Forest(
        metric=metric,
        words=f"Ratios of {metric}: {', '.join(parts)}. The tables below have the figures.",
        spec=spec_of(
            _layers({row.get("outcome") for row in rows}, count, reach),
            rows,
            width=WIDTH,
            height=count * ROW,
            title={"text": metric, "fontSize": 14},
        ),
    )


def _reach(changes: Sequence[Change]) -> float:
    """How far the axis reaches, as a factor: to every ratio, and to intervals not far beyond."""
    ratios = [c.ratio for c in changes if c.ratio is not None]
    factors = [_factor(r.value) for r in ratios]
    most = max([LEAST, *factors, *(1 + 1.5 * c.threshold for c in changes)])
    edges = [_factor(edge) for r in ratios for edge in (r.low, r.high) if edge is not None]
    return min(max([most, *edges]), most**2) ** 1.08


def _factor(ratio: float) -> float:
    if ratio <= 0 or not math.isfinite(ratio):
        return 1.0
    return max(ratio, 1 / ratio)


def _rows(change: Change, place: int, reach: float) -> list[Row]:
    at: Row = {"place": place, "outcome": change.outcome}
    rows: list[Row] = [{**at, "role": "name", "label": _short(change.subject)}]
    if change.ratio is None or change.ratio.value <= 0:
        base, new = side_texts(change)
        return [*rows, {**at, "role": "word", "label": f"{base} → {new}"}]
    ratio = change.ratio
    band = 1 + change.threshold
    rows.append({**at, "role": "band", "low": 1 / band, "high": band})
    rows.append({**at, "role": "point", "x": ratio.value})
    rows.append({**at, "role": "figure", "label": size(ratio)})
    if ratio.low is not None and ratio.high is not None:
        low, high = max(ratio.low, 1 / reach), min(ratio.high, reach)
        rows.append({**at, "role": "interval", "low": low, "high": high})
        rows += [{**at, "role": "cut", "x": reach, "label": ">"}] if ratio.high > reach else []
        rows += [{**at, "role": "cut", "x": 1 / reach, "label": "<"}] if ratio.low < low else []
    return rows


def _short(name: str) -> str:
    """A long name by its end, which is what tells two benchmarks apart."""
    return name if len(name) <= MOST_LETTERS else f"…{name[1 - MOST_LETTERS :]}"


def _summed(held: Sequence[Change], place: int) -> list[Row]:
    """Many lines of one outcome as one: from the least to the largest, the middle one marked."""
    at: Row = {"place": place, "outcome": held[0].outcome}
    more = f"{len(held)} more" if held[0].outcome == "AMBG" else counted(len(held), "line")
    rows: list[Row] = [{**at, "role": "name", "label": more}]
    values = sorted(c.ratio.value for c in held if c.ratio is not None and c.ratio.value > 0)
    if not values:
        words = {" → ".join(side_texts(change)) for change in held}
        label = words.pop() if len(words) == 1 else "no change"
        return [*rows, {**at, "role": "word", "label": label}]
    band = 1 + max(change.threshold for change in held)
    span = [_share(value) for value in (values[0], values[-1])]
    text = span[0] if span[0] == span[1] else f"{span[0]} to {span[1]}"
    return [
        *rows,
        {**at, "role": "band", "low": 1 / band, "high": band},
        {**at, "role": "span", "low": values[0], "high": values[-1]},
        {**at, "role": "point", "x": values[len(values) // 2]},
        {**at, "role": "figure", "label": text},
    ]


def _share(ratio: float) -> str:
    change = round((ratio - 1) * 100, 1)
    return "0%" if change == 0 else f"{change:+.1f}%".replace("-", "−")


def _layers(outcomes: Collection[str | None], count: int, reach: float) -> list[alt.Chart]:
    edge = count - 0.5
    rows_of = alt.Scale(domain=[edge, -0.5], nice=False, zero=False, padding=0)
    y = alt.Y("place:Q", scale=rows_of, axis=None)
    x = alt.Scale(type="log", domain=[1 / reach, reach], nice=False, clamp=True)
    base = alt.Chart().encode(y=y)
    axis = alt.Axis(values=_ticks(reach), labelExpr=SHARES, title=None, grid=True)
    across = alt.X("x:Q", scale=x, axis=axis)
    from_to = {"x": alt.X("low:Q", scale=x, axis=axis), "x2": "high:Q"}

    def of(role: str, outcome: str = "") -> alt.Chart:
        test = f"datum.role === '{role}'"
        return base.transform_filter(test + (f" && datum.outcome === '{outcome}'" * bool(outcome)))

    even = alt.Chart().transform_filter("datum.role === 'even'")
    layers: list[alt.Chart] = [
        of("band").mark_bar(style="band", size=ROW).encode(**from_to),
        even.mark_rule(style="muted").encode(x=across),
        of("span").mark_bar(style="same", size=7, opacity=0.5, cornerRadius=3).encode(**from_to),
    ]
    for outcome, symbol in ((o, symbol) for o, symbol in SYMBOLS.items() if o in outcomes):
        style = outcome.lower()
        rules = of("interval", outcome).mark_rule(style=style, strokeWidth=2)
        layers.append(rules.encode(**from_to))
        filled = outcome != "AMBG"
        points = of("point", outcome).encode(x=across)
        layers.append(points.mark_point(style="inverse", shape=symbol, filled=True, opacity=1))
        layers.append(
            points.mark_point(style=style, shape=symbol, filled=filled, size=80, opacity=1)
        )
        words = of("word", outcome).encode(x=alt.value(WIDTH / 2), text="label:N")
        layers.append(words.mark_text(style=style, align="left", dx=10, fontWeight="bold"))
    cut = of("cut").encode(x=across, text="label:N")
    layers.append(cut.mark_text(style="muted", fontSize=15, fontWeight="bold"))
    return [*layers, *_columns(of("name"), of("figure"))]


def _columns(name: alt.Chart, figure: alt.Chart) -> list[alt.Chart]:
    """Names to the left of the plot and figures to its right."""
    names = name.encode(x=alt.value(-LABELS), text="label:N")
    outcomes = name.encode(x=alt.value(-10), text="outcome:N")
    figures = figure.encode(x=alt.value(WIDTH + 12), text="label:N")
    return [
        names.mark_text(align="left", fontSize=12, limit=LABELS - 50),
        outcomes.mark_text(align="right", fontSize=11, fontWeight="bold"),
        figures.mark_text(align="left", fontSize=12),
    ]


def _ticks(reach: float) -> list[float]:
    """No change and round shares to both sides, the outermost first, where labels have room."""
    scale = WIDTH / 2 / math.log(reach)
    ticks = [1.0]
    for side in ([1 + rise for rise in RISES], [1 - fall for fall in FALLS]):
        for tick in reversed(side):
            at = math.log(tick) * scale
            if abs(at) <= WIDTH / 2 and all(
                abs(at - math.log(other) * scale) >= TICK_GAP for other in ticks
            ):
                ticks.append(tick)
    return sorted(ticks)
