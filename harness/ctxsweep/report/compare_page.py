"""A comparison as one page that needs no network, and its pictures as SVG and PNG beside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import vl_convert

from ctxsweep.analysis.comparison import Change, Comparison, Side
from ctxsweep.report import compare_charts, compare_forest, theme
from ctxsweep.report.compare_charts import Spec, config
from ctxsweep.report.compare_words import (
    ORDER,
    OUTCOMES,
    SHORT_COMMIT,
    counts,
    headline,
    method_line,
    metric_name,
    of_outcome,
    remark,
    sides,
    size,
)
from ctxsweep.report.page import PNG_SCALE, vegalite_version
from ctxsweep.report.rendering import render
from ctxsweep.store import write_atomic

PLOT_COLUMNS = 3
MOST_PANELS = 12
"""Of more, those without a change start folded."""
FOREST_PLOT = "compare-ratios"


@dataclass(frozen=True)
class _Picture:
    """A chart in both modes, as addresses that hold the image itself."""

    group: str
    words: str
    width: int
    light: str
    dark: str
    folded: bool


@dataclass(frozen=True)
class _Line:
    """A row of the page's table."""

    change: Change
    metric: str
    size: str
    sides: str
    remark: str


def build_comparison(comparison: Comparison, out_dir: Path) -> Path:
    """Write ``compare.html`` and ``plots/compare-*.svg|png`` into ``out_dir``; the page's path.

    The same comparison gives the same bytes; nothing is fetched, here or by the page.
    """
    panels = compare_charts.panels(comparison)
    forests = compare_forest.forests(comparison)
    _write_plots(panels, forests, out_dir / "plots")
    page = out_dir / "compare.html"
    write_atomic(page, _page(comparison, panels, forests))
    return page


def _page(
    comparison: Comparison,
    panels: Sequence[compare_charts.Panel],
    forests: Sequence[compare_forest.Forest],
) -> str:
    few = len(panels) <= MOST_PANELS
    curves = [
        _picture(panel.metric, panel.words, panel.spec, folded=not (few or panel.changed))
        for panel in panels
    ]
    return render(
        "compare.html.j2",
        comparison=comparison,
        headline=headline(comparison),
        counts=counts(comparison),
        outcomes=[(outcome, OUTCOMES[outcome]) for outcome in ORDER],
        changed=[_line(change) for change in of_outcome(comparison, "SLOW", "FAST")],
        others=[
            (outcome, [_line(change) for change in of_outcome(comparison, outcome)])
            for outcome in ("AMBG", "SAME")
        ],
        left_out=sum(entry.count for entry in comparison.not_compared),
        sides=[_side("Base", comparison.base), _side("New", comparison.new)],
        method=method_line(comparison),
        curves={name: [p for p in curves if p.group == name] for name in _groups(curves)},
        curves_key=compare_charts.KEY,
        forests=[_picture(forest.metric, forest.words, forest.spec) for forest in forests],
        forests_key=compare_forest.KEY,
        light=theme.LIGHT,
        dark=theme.DARK,
    )


def _write_plots(
    panels: Sequence[compare_charts.Panel],
    forests: Sequence[compare_forest.Forest],
    folder: Path,
) -> None:
    """A picture per metric and one of all ratios; those of an earlier comparison are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("svg", "png"):
        for old in folder.glob(f"compare-*.{kind}"):
            old.unlink()
    specs: dict[str, Spec] = {}
    for metric in dict.fromkeys(panel.metric for panel in panels):
        held = [panel.spec for panel in panels if panel.metric == metric]
        title = {"text": metric, "subtitle": compare_charts.KEY}
        specs[f"compare-{metric}"] = {"concat": held, "columns": PLOT_COLUMNS, "title": title}
    if forests:
        title = {"text": "New over base", "subtitle": compare_forest.KEY}
        held = [forest.spec for forest in forests]
        specs[FOREST_PLOT] = {"vconcat": held, "title": title}
    for name, spec in specs.items():
        svg = _svg(spec, theme.LIGHT)
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        (folder / f"{name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=PNG_SCALE))


def _svg(spec: Spec, mode: theme.Theme) -> str:
    return vl_convert.vegalite_to_svg(
        spec, vl_version=vegalite_version(), config=config(mode), allowed_base_urls=[]
    )


def _picture(group: str, words: str, spec: Spec, folded: bool = False) -> _Picture:
    drawn = [_svg(spec, mode) for mode in (theme.LIGHT, theme.DARK)]
    width = round(float(drawn[0].partition('width="')[2].partition('"')[0]))
    light, dark = ("data:image/svg+xml;base64," + b64encode(svg.encode()).decode() for svg in drawn)
    return _Picture(group, words, width, light, dark, folded)


def _groups(pictures: Sequence[_Picture]) -> list[str]:
    return list(dict.fromkeys(picture.group for picture in pictures))


def _line(change: Change) -> _Line:
    return _Line(change, metric_name(change), size(change.ratio), sides(change), remark(change))


def _side(role: str, side: Side) -> tuple[str, ...]:
    """A row of the table of the two sides."""
    commit = side.commit[:SHORT_COMMIT] if side.commit else "not known"
    changed = " with uncommitted changes" if side.dirty else ""
    runs = ", ".join(side.run_ids) or "–"
    return (role, side.label, runs, commit + changed, side.started_at or "–", side.machine or "–")
