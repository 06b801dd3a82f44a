"""A published table beside a run: one page, an image of both, and the same in the terminal."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import vl_convert
from rich.console import Console
from rich.table import Table as RichTable

from ctxsweep.analysis.published import Published
from ctxsweep.analysis.replay import method_of, perplexity, sentences
from ctxsweep.analysis.summary import Summary
from ctxsweep.report import theme
from ctxsweep.report.page import PNG_SCALE, vegalite_version
from ctxsweep.report.printer import Printer
from ctxsweep.report.rendering import render
from ctxsweep.report.replay_panels import measured_panel, methods, published_panel
from ctxsweep.report.table import Table
from ctxsweep.report.units import TOKENS


@dataclass(frozen=True)
class _Picture:
    """A panel in both modes, as addresses that hold the image itself."""

    title: str
    light: str
    dark: str


def build_replay(published: Published, summary: Summary | None, out_dir: Path) -> Path:
    """Write ``replay-<table>.html`` and ``plots/replay-<table>.svg|png``; the page's path.

    Without a run, or with one that measured no quality, the page holds the table alone and says
    so. The same input gives the same bytes; nothing is fetched, here or by the page.
    """
    panels = _panels(published, summary)
    plots = out_dir / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    svg = _svg(alt.hconcat(*panels, spacing=40), theme.LIGHT)
    name = f"replay-{published.name}"
    (plots / f"{name}.svg").write_text(svg, encoding="utf-8")
    (plots / f"{name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=PNG_SCALE))
    page = out_dir / f"{name}.html"
    text = render(
        "replay.html.j2",
        published=published,
        sentences=sentences(published, summary),
        pictures=[_picture(panel) for panel in panels],
        tables=_tables(published, summary),
        light=theme.LIGHT,
        dark=theme.DARK,
    )
    page.write_text(text, encoding="utf-8")
    return page


def print_replay(
    published: Published, summary: Summary | None, console: Console | None = None
) -> None:
    """Print both tables, their source, and what may be compared."""
    console = console or Console()
    say = Printer(console)
    for table in _tables(published, summary):
        say.line(table.title, style="bold")
        drawn = RichTable(box=None, pad_edge=False)
        for i, head in enumerate(table.heads):
            drawn.add_column(say.text(head), justify="left" if i < 2 else "right")
        for row in table.rows:
            drawn.add_row(*map(say.text, row))
        console.print(drawn)
        for note in table.notes:
            say.line(note, style="dim")
        say.line("")
    for sentence in sentences(published, summary):
        say.line(sentence)


def _panels(published: Published, summary: Summary | None) -> list[alt.LayerChart]:
    colours = methods(published, summary)
    measured = None if summary is None else measured_panel(summary, colours)
    return [published_panel(published, colours), *([] if measured is None else [measured])]


def _svg(chart: alt.TopLevelMixin, mode: theme.Theme) -> str:
    config = theme.vega_config(mode, theme.STATIC_FONT)
    return vl_convert.vegalite_to_svg(
        chart.to_dict(), vl_version=vegalite_version(), config=config, allowed_base_urls=[]
    )


def _picture(panel: alt.LayerChart) -> _Picture:
    light, dark = (
        "data:image/svg+xml;base64," + b64encode(_svg(panel, mode).encode()).decode()
        for mode in (theme.LIGHT, theme.DARK)
    )
    return _Picture(str(panel.title), light, dark)


def _tables(published: Published, summary: Summary | None) -> list[Table]:
    rows = [
        (series.name, series.method, *(figure.text for figure in series.perplexity))
        for series in published.series
    ]
    heads = ("Series", "Method", *map(TOKENS.text, published.contexts))
    notes = (f"{published.source}. {published.table}. Measured: {published.measured}.",)
    tables = [Table("published", f"Published: {published.title}", heads, rows, notes)]
    if summary is not None and summary.quality is not None:
        tables.append(_measured_table(summary))
    return tables


def _measured_table(summary: Summary) -> Table:
    quality = summary.quality
    assert quality is not None
    contexts = sorted({cell.context_tokens for cell in quality.cells})
    rows = []
    for name in dict.fromkeys(cell.series for cell in quality.cells):
        cells = [quality.cell(name, context) for context in contexts]
        values = [None if cell is None else perplexity(cell) for cell in cells]
        texts = ["–" if value is None else f"{value:.2f}" for value in values]
        rows.append((name, method_of(summary, name), *texts))
    note = (
        f"exp of the mean loss on the last {quality.target_tokens} tokens of {quality.text.name}, "
        "which may have been in the training data."
    )
    heads = ("Series", "Method", *map(TOKENS.text, contexts))
    return Table("measured", f"Measured: {summary.scenario}", heads, rows, (note,))
