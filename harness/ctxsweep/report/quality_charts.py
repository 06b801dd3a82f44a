"""Charts of quality: loss against context and by position, and how often a task's answer is right.

Losses differ by +5 where a model breaks and by +0.01 where it holds: their axis is logarithmic on
both sides of zero and linear about it (symlog), so that both can be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import altair as alt

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.quality_summary import QualitySummary, TaskRate
from ctxsweep.analysis.summary import Summary
from ctxsweep.analysis.wording import nats, signed
from ctxsweep.records_quality import TaskName
from ctxsweep.report.layers import SHOWN, Curves, data_of, of_role, shown_param, tooltip
from ctxsweep.report.placing import HEIGHT, Row, Scale, placed, strip_height
from ctxsweep.report.quality_tables import exact_text
from ctxsweep.report.rows import failure_rows, series_names
from ctxsweep.report.units import SHARE, TOKENS, Unit

NATS = Unit("nats", ((1.0, ""),))
LINEAR_NATS = 0.02
"""Below this the axis is about linear; by position, of few targets each, what is allowed is."""
TICK_GAP = 17.0
AIR = 1.12
ASIDE = 0.004
"""Series at one context stand this share of the axis apart, so that intervals can be told."""
DARK_SHARE = 0.65
"""From this share on a count is written in the colour of the background."""
PANEL_WIDTH, ROW_HEIGHT, COLUMNS = 230, 26, 3


@dataclass(frozen=True)
class SymlogScale(Scale):
    """An axis on which ``sign(v)·log(1 + |v|/linear)`` is linear."""

    linear: float = LINEAR_NATS

    def value_at(self, share: float) -> float:
        low, high = _bend(self.low, self.linear), _bend(self.high, self.linear)
        return _unbend(low + (high - low) * share, self.linear)

    def share_of(self, value: float) -> float:
        low, high = _bend(self.low, self.linear), _bend(self.high, self.linear)
        return (_bend(value, self.linear) - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """Zero and round figures on both sides, as many as have room."""
        rounds = [f * 10.0**p for p in range(-2, 3) for f in (1, 3)]
        kept = [0.0]
        for value in (*rounds[::2], *rounds[1::2], *(-r for r in rounds[::2])):
            if not self.low <= value <= min(self.high, self.data_high):
                continue
            places = [self.share_of(tick) - self.share_of(value) for tick in kept]
            if min(map(abs, places)) * HEIGHT >= TICK_GAP:
                kept.append(value)
        return sorted(kept)

    def alt_scale(self) -> alt.Scale:
        domain = [self.low, self.high]
        return alt.Scale(type="symlog", constant=self.linear, domain=domain, nice=False)


def _bend(value: float, linear: float) -> float:
    return math.copysign(math.log1p(abs(value) / linear), value)


def _unbend(value: float, linear: float) -> float:
    return math.copysign(math.expm1(abs(value)) * linear, value)


def loss_scale(values: Iterable[float], linear: float, strip_rows: int) -> SymlogScale:
    """A scale that holds ``values`` and zero, and above them a strip for failures."""
    held = [0.0, *values]
    low, data_high = _bend(min(held), linear), _bend(max(held), linear)
    span = max(data_high - low, 1.0)
    low, data_high = low - 0.04 * span, data_high + 0.05 * span
    room = 1 - strip_height(strip_rows) / HEIGHT
    low, high, data_high = (
        _unbend(v, linear) for v in (low, low + (data_high - low) / room, data_high)
    )
    title = "Δ loss, nats"
    return SymlogScale(low, high, NATS, title, log=False, data_high=data_high, linear=linear)


def loss_against_context(summary: Summary) -> alt.LayerChart | None:
    """Paired differences by context, a curve per series, with intervals."""
    quality = summary.quality
    if quality is None:
        return None
    rows = [
        _point(cell.series, cell.context_tokens, cell.difference)
        | {"context": TOKENS.text(cell.context_tokens)}
        for cell in quality.cells
        if cell.difference is not None
    ]
    if not rows:
        return None
    contexts = sorted({cell.context_tokens for cell in quality.cells})
    low, high = contexts[0] / AIR, contexts[-1] * AIR
    x = Scale(low, high, TOKENS, "context, tokens", marks=tuple(map(float, contexts)))
    failures = [row for row in failure_rows(summary) if row["x"] in contexts]
    names = series_names(summary)
    drawn = _with_allowed(quality, rows, failures, LINEAR_NATS)
    curves = Curves(names, drawn.rows, ("series", "context", "Δ loss"), x, drawn.scale)
    _move_apart(drawn.rows, names, x, ASIDE, last=1)
    return curves.chart().add_params(shown_param(names))


def loss_by_position(summary: Summary) -> alt.LayerChart | None:
    """Differences to healthy losses by position in each series' longest context."""
    quality = summary.quality
    if quality is None or not quality.positions:
        return None
    rows = [
        _point(curve.series, start + curve.bucket_tokens / 2, difference)
        | {"position": f"{TOKENS.text(start)} to {TOKENS.text(start + curve.bucket_tokens)}"}
        for curve in quality.positions
        for start, difference in zip(curve.starts, curve.differences, strict=True)
    ]
    longest = max(curve.context_tokens for curve in quality.positions)
    x = Scale(0.0, longest * 1.01, TOKENS, "position in the longest context", log=False)
    names = series_names(summary)
    drawn = _with_allowed(quality, rows, [], quality.max_loss)
    tips = ("series", "position", "Δ loss")
    curves = Curves(names, drawn.rows, tips, x, drawn.scale, symbols=False)
    _move_apart(drawn.rows, names, x, ASIDE / 2, last=len(names) // 2)
    return curves.chart().add_params(shown_param(names))


@dataclass(frozen=True)
class _Drawn:
    rows: list[Row]
    scale: SymlogScale


def _with_allowed(
    quality: QualitySummary, rows: list[Row], failures: list[Row], linear: float
) -> _Drawn:
    """Rows with roles and their scale, and a rule at what is allowed."""
    extent = [row[key] for row in rows for key in ("y", "low", "high") if key in row]
    strips = len({row["line"] for row in failures})
    scale = loss_scale([*extent, quality.max_loss], linear, strips)
    label = f"allowed: {quality.max_loss:g} nats"
    rule = {"role": "allowed", "y": quality.max_loss, "label": label}
    return _Drawn([*placed(rows, failures, scale), rule], scale)


def _point(series: str, x: float, estimate: Estimate) -> Row:
    row: Row = {"series": series, "line": series, "x": x, "y": estimate.value}
    if estimate.low is not None and estimate.high is not None and estimate.low < estimate.high:
        row |= {"low": estimate.low, "high": estimate.high}
    return row | {"Δ loss": nats(estimate)}


def _move_apart(rows: list[Row], names: tuple[str, ...], x: Scale, step: float, last: int) -> None:
    """Move points, not names, sideways: each series by a step, the last by ``last`` of them."""
    step *= min(1.0, 6 / len(names))
    for row in rows:
        if row["role"] == "point":
            steps = names.index(row["series"]) - len(names) + 1 + last
            row["x"] = x.value_at(x.share_of(row["x"]) + steps * step)


def task_map(summary: Summary, task: TaskName) -> alt.FacetChart | None:
    """How often the answer was exact, by depth and context: a panel per series."""
    quality = summary.quality
    rates = [r for r in quality.tasks if r.task == task] if quality else []
    rows = [_cell_row(rate) for rate in rates if rate.depth is not None]
    if not rows:
        return None
    contexts = [TOKENS.text(n) for n in sorted({r.context_tokens for r in rates})]
    depths = [SHARE.text(d) for d in sorted({r.depth for r in rates if r.depth is not None})]
    panel = _panel(contexts, depths).properties(
        data=data_of(rows), width=PANEL_WIDTH, height=ROW_HEIGHT * len(depths)
    )
    names = series_names(summary)
    facet = alt.Facet("series:N", sort=list(names), title=None)
    shown = panel.facet(facet=facet, columns=COLUMNS).transform_filter(
        f"indexof({SHOWN}, datum.series) >= 0"
    )
    return shown.resolve_axis(x="independent").add_params(shown_param(names))


def _cell_row(rate: TaskRate) -> Row:
    assert rate.depth is not None
    return {
        "role": "cell",
        "series": rate.series,
        "context": TOKENS.text(rate.context_tokens),
        "depth": SHARE.text(rate.depth),
        "share": rate.share.value,
        "label": f"{rate.exact}/{rate.trials}",
        "exact": exact_text(rate),
        "log-probability": signed(rate.log_probability),
    }


def _panel(contexts: list[str], depths: list[str]) -> alt.LayerChart:
    cells = of_role("cell").encode(
        x=alt.X("context:O", sort=contexts, title="context", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("depth:O", sort=depths, title="depth"),
    )
    fill = alt.Color("share:Q", scale=alt.Scale(domain=[0, 1], range="heatmap"), legend=None)
    tips = ("series", "context", "depth", "exact", "log-probability")
    texts = cells.encode(text="label:N")
    return alt.layer(
        cells.mark_rect().encode(color=fill, tooltip=tooltip(tips)),
        texts.transform_filter(f"datum.share < {DARK_SHARE}").mark_text(fontSize=12),
        texts.transform_filter(f"datum.share >= {DARK_SHARE}").mark_text(
            fontSize=12, style="inverse"
        ),
    )
