"""The trend page: what has shifted over the last nights, and every metric as a small chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert
from altair.utils.schemapi import debug_mode
from markupsafe import Markup

from ctxsweep.analysis.change_points import (
    MAX_P_VALUE,
    MIN_CHANGE,
    MIN_NIGHTS,
    ChangePoint,
    OtavaMissing,
    change_points,
)
from ctxsweep.analysis.history import Line, lines
from ctxsweep.report import theme
from ctxsweep.report.page import vegalite_version
from ctxsweep.report.rendering import render
from ctxsweep.report.trend_chart import (
    SHORT_COMMIT,
    change_text,
    chart,
    commit_text,
    moment,
    shown,
    verdict,
)
from ctxsweep.store import write_atomic

NIGHTS = 60
NAMED = 3
"""Metrics that a sentence names."""
MANY_NIGHTS = 16
"""From here on no shift says something: of 8 + 8 nights a step of 10% is found nearly always, of
3 + 3 nights hardly one of 20%."""


@dataclass(frozen=True)
class Trend:
    """What the page shows: every metric over the last nights with its change points."""

    scenario: str
    machine: str
    runs: tuple[str, ...]
    times: tuple[datetime, ...]
    lines: tuple[tuple[Line, tuple[ChangePoint, ...]], ...]
    not_looked_for: str = ""
    """Why there are no change points, where Otava is missing."""

    @property
    def shifted(self) -> list[tuple[Line, tuple[ChangePoint, ...]]]:
        """Metrics with change points; worse ones first, the largest first."""
        found = [(line, points) for line, points in self.lines if points]
        return sorted(found, key=lambda pair: _weight(pair[0], pair[1][-1]), reverse=True)

    @property
    def ended(self) -> list[Line]:
        """Metrics without a figure of the last night: what ended last first.

        A law that was not fitted this time is none: noise makes a curve's form come and go.
        """
        lines = (line for line, _ in self.lines if line.kind != "curve")
        found = [line for line in lines if not self.measured(line)]
        return sorted(found, key=lambda line: line.times[-1], reverse=True)

    def measured(self, line: Line) -> bool:
        """Whether the last night has a figure of it."""
        return line.run_ids[-1] == self.runs[-1]


def trend_of(frame: pl.DataFrame, nights: int = NIGHTS) -> Trend:
    """The last ``nights`` runs of a history that has one at least, and what shifted in them."""
    runs = frame.select("time", "run_id").unique("run_id").sort("time", "run_id").tail(nights)
    found, missing = [], ""
    for line in lines(frame, nights):
        points: tuple[ChangePoint, ...] = ()
        try:
            series = change_points(line.values, line.times, line.commits, exact=line.exact)
            points = tuple(series)
        except OtavaMissing as error:
            missing = str(error)
        found.append((line, points))
    newest = frame.sort("time").row(-1, named=True)
    return Trend(
        scenario=newest["scenario"],
        machine=newest["machine"],
        runs=tuple(runs["run_id"].to_list()),
        times=tuple(runs["time"].to_list()),
        lines=tuple(found),
        not_looked_for=missing,
    )


def sentence(trend: Trend) -> str:
    """``2 metrics shifted in the last 60 nights: ...``; the first line of page and terminal.

    After it what the page cannot know: metrics that ended, and shifts that few nights do not show.
    """
    said = [_shifts_in_words(trend), _ended_in_words(trend.ended), _caution(trend)]
    return " ".join(filter(None, said))


def _shifts_in_words(trend: Trend) -> str:
    count, shifted = len(trend.runs), trend.shifted
    if shifted:
        named = _named([f"{_name(line)} {_since(line, points[-1])}" for line, points in shifted])
        return f"{_counted(len(shifted))} shifted in the last {count} nights: {named}."
    if count == 1:
        return "The first night."
    if trend.not_looked_for:
        return ""
    metrics = _counted(len(trend.lines) - len(trend.ended))
    return f"No shift in {metrics} over the last {count} nights."


def _ended_in_words(ended: Sequence[Line]) -> str:
    if not ended:
        return ""
    named = _named([f"{_name(line)} ({_last_on(line)})" for line in ended])
    verb = "is" if len(ended) == 1 else "are"
    return f"{_counted(len(ended))} {verb} no longer measured: {named}."


def _caution(trend: Trend) -> str:
    count, least = len(trend.runs), 2 * MIN_NIGHTS
    if trend.not_looked_for:
        return f"Change points of measured times were not looked for: {trend.not_looked_for}."
    if count < least:
        return f"Measured times need {least} nights or more to show a shift."
    if count < MANY_NIGHTS:
        return "Few nights: only large shifts of measured times can be seen yet."
    return ""


def _named(names: Sequence[str]) -> str:
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])


def build_trend(frame: pl.DataFrame, out_dir: Path) -> Path:
    """Write ``trend.html`` into ``out_dir``; the page's path. ``frame``: a history with rows.

    Nothing is fetched, here or by the page. The same history gives the same bytes.
    """
    trend = trend_of(frame)
    out_dir.mkdir(parents=True, exist_ok=True)
    page = out_dir / "trend.html"
    write_atomic(page, render_trend(trend))
    return page


def render_trend(trend: Trend) -> str:
    """The page as text."""
    names = list(dict.fromkeys(line.series for line, _ in trend.lines))
    dates = [_date(time) for time in trend.times]
    cards = [
        {
            "id": f"metric-{index}",
            "series": line.series,
            "metric": line.metric,
            "title": _name(line),
            "latest": _latest(trend, line),
            "place": place,
            "spec": _spec(line, points, trend.runs, dates, names.index(line.series)),
        }
        for index, (place, line, points) in enumerate(_in_order(trend))
    ]
    configs = {mode.name: theme.vega_config(mode) for mode in (theme.LIGHT, theme.DARK)}
    specs = {card["id"]: card.pop("spec") for card in cards}
    return render(
        "trend.html.j2",
        trend=trend,
        sentence=sentence(trend),
        span=" to ".join(dict.fromkeys(map(moment, (trend.times[0], trend.times[-1])))),
        shifts=[_shift_row(line, p) for line, points in trend.shifted for p in points],
        ended=[card for card in cards if card["place"] == "ended"],
        shifted=[card for card in cards if card["place"] == "shifted"],
        groups=_groups([card for card in cards if card["place"] == "rest"], names),
        unshifted=_unshifted(trend),
        limits={"p": f"{MAX_P_VALUE:g}", "change": f"{MIN_CHANGE:.0%}", "nights": MIN_NIGHTS},
        light=theme.LIGHT,
        dark=theme.DARK,
        data=_as_script({"specs": specs, "configs": configs}),
        vega=Markup(vl_convert.javascript_bundle(vl_version=vegalite_version())),
    )


def _in_order(trend: Trend) -> list[tuple[str, Line, tuple[ChangePoint, ...]]]:
    """Every metric once, under the heading it stands under: ended, shifted or rest."""
    points_of = {id(line): points for line, points in trend.lines}
    ended = [("ended", line, points_of[id(line)]) for line in trend.ended]
    gone = {id(line) for line in trend.ended}
    shifted = [("shifted", line, p) for line, p in trend.shifted if id(line) not in gone]
    rest = [("rest", line, p) for line, p in trend.lines if not p and id(line) not in gone]
    return ended + shifted + rest


def _latest(trend: Trend, line: Line) -> str:
    """The last figure, with its night where that is not the last one."""
    written = shown(line).text(line.values[-1])
    return written if trend.measured(line) else f"{written}, {_last_on(line)}"


def _unshifted(trend: Trend) -> str:
    """What is said of a group without shifts."""
    if trend.not_looked_for:
        return ""
    return "no shift" if len(trend.runs) >= MANY_NIGHTS else "no shift seen yet"


def _groups(cards: list[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """A series each, metric after metric: contexts of one metric stand side by side."""
    metrics = list(dict.fromkeys(card["metric"] for card in cards))
    cards = sorted(cards, key=lambda card: metrics.index(card["metric"]))
    held = [{"name": n, "cards": [c for c in cards if c["series"] == n]} for n in names]
    return [group for group in held if group["cards"]]


def _spec(
    line: Line, points: Sequence[ChangePoint], runs: Sequence[str], dates: Sequence[str], place: int
) -> dict[str, Any]:
    with debug_mode(False):  # else altair holds every chart against its schema: 0.1 s a chart
        spec: dict[str, Any] = chart(line, points, runs, dates, place).to_dict()
    spec.pop("$schema")
    return spec | {"description": f"{_name(line)}, night by night"}


def _shift_row(line: Line, point: ChangePoint) -> dict[str, Any]:
    written = shown(line)
    return {
        "name": _name(line),
        "change": change_text(line, point),
        "word": verdict(line, point),
        "levels": f"{written.text(point.before)} → {written.text(point.after)}",
        "since": moment(point.time),
        "commit": commit_text(point.commit, line.dirty[point.index]),
        "last_good": commit_text(line.commits[point.index - 1], line.dirty[point.index - 1]),
    }


def _counted(count: int) -> str:
    return "1 metric" if count == 1 else f"{count} metrics"


def _name(line: Line) -> str:
    return line.subject if line.kind == "bench" else f"{line.subject}: {line.metric}"


def _since(line: Line, point: ChangePoint) -> str:
    commit = f" ({point.commit[:SHORT_COMMIT]})" if point.commit else ""
    return f"{change_text(line, point)} since {point.time:%Y-%m-%d}{commit}"


def _last_on(line: Line) -> str:
    return f"last on {line.times[-1]:%Y-%m-%d}"


def _date(time: datetime) -> str:
    return f"{time.day} {time:%b}"


def _weight(line: Line, point: ChangePoint) -> tuple[bool, float]:
    size = abs(point.relative) if point.relative is not None else float("inf")
    return verdict(line, point) == "worse", size


def _as_script(data: dict[str, Any]) -> Markup:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))
