"""The report: one page that needs no network, and every chart as SVG and PNG beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from ctxsweep.analysis.predicted import Predictions
from ctxsweep.analysis.summary import Summary
from ctxsweep.report import predicted_charts, theme
from ctxsweep.report.charts import CHARTS
from ctxsweep.report.frontier import frontier_answer
from ctxsweep.report.quality_notes import missing_reference
from ctxsweep.report.rendering import render
from ctxsweep.report.rows import failed_cells, series_names
from ctxsweep.report.sections import tables
from ctxsweep.report.units import SECONDS
from ctxsweep.report.verdicts import COLUMNS, answer, verdict_rows

Spec = dict[str, Any]

STATIC_WIDTH = 860
PNG_SCALE = 2.0


def build_report(summary: Summary, out_dir: Path, predictions: Predictions | None = None) -> Path:
    """Write ``report.html`` and ``plots/<chart>.svg|png`` into ``out_dir``; the page's path.

    With ``predictions`` they stand beside what was measured. Nothing is fetched, here or by the
    page. The same summary gives the same bytes.
    """
    specs = chart_specs(summary, predictions)
    write_plots(specs, out_dir / "plots")
    page = out_dir / "report.html"
    page.write_text(render_page(summary, specs, predictions), encoding="utf-8")
    return page


def chart_specs(summary: Summary, predictions: Predictions | None = None) -> dict[str, Spec]:
    """The Vega-Lite definition of every chart that the run has figures for, by name."""
    charts = ((entry.name, entry.chart(summary)) for entry in predicted_charts.entries(predictions))
    return {name: chart.to_dict() for name, chart in charts if chart is not None}


def write_plots(specs: dict[str, Spec], folder: Path) -> list[Path]:
    """Draw every chart as SVG and PNG, on white; remove those of an earlier report."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*(entry.name for entry in CHARTS), *predicted_charts.names()):
        for kind in ("svg", "png"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    written = []
    config = theme.vega_config(theme.LIGHT, theme.STATIC_FONT)
    for name, spec in specs.items():
        fixed = spec | {"width": STATIC_WIDTH} if spec.get("width") == "container" else spec
        svg = vl_convert.vegalite_to_svg(
            fixed, vl_version=vegalite_version(), config=config, allowed_base_urls=[]
        )
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        png = vl_convert.svg_to_png(svg, scale=PNG_SCALE)
        (folder / f"{name}.png").write_bytes(png)
        written += [folder / f"{name}.svg", folder / f"{name}.png"]
    return written


def render_page(
    summary: Summary, specs: dict[str, Spec], predictions: Predictions | None = None
) -> str:
    """The page as text."""
    rows = verdict_rows(summary)
    missing = missing_reference(summary.quality) if summary.quality else ""
    reach = frontier_answer(summary.frontier) if summary.frontier else ""
    return render(
        "report.html.j2",
        summary=summary,
        answer=" ".join(filter(None, (missing, reach, answer(summary)))),
        columns=COLUMNS,
        verdicts=rows,
        compared=any(row.numerics for row in rows),
        charts=[e for e in predicted_charts.entries(predictions) if e.name in specs],
        series=_swatches(summary),
        tables=tables(summary, predictions),
        failed=len(failed_cells(summary)),
        elapsed=SECONDS.text(summary.elapsed_s),
        light=theme.LIGHT,
        dark=theme.DARK,
        data=_as_script(_page_data(summary, specs)),
        vega=Markup(vl_convert.javascript_bundle(vl_version=vegalite_version())),
    )


def vegalite_version() -> str:
    """The version that altair writes, in vl-convert's spelling."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def _swatches(summary: Summary) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "place": i % len(theme.LIGHT.series),
            "symbol": theme.symbol(i),
            "dash": " ".join(str(length) for length in theme.dash(i)),
        }
        for i, name in enumerate(series_names(summary))
    ]


def _page_data(summary: Summary, specs: dict[str, Spec]) -> dict[str, Any]:
    # The page's own headings carry the titles.
    untitled = {
        name: {key: value for key, value in spec.items() if key not in ("title", "$schema")}
        for name, spec in specs.items()
    }
    configs = {mode.name: theme.vega_config(mode) for mode in (theme.LIGHT, theme.DARK)}
    return {"specs": untitled, "configs": configs, "series": list(series_names(summary))}


def _as_script(data: dict[str, Any]) -> Markup:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))
