"""Quality on the page and in the terminal: first of all, and with what limits it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Opened, opened
from markup import Elements
from playwright.sync_api import Browser
from rich.console import Console

from ctxsweep.analysis.summary import Summary
from ctxsweep.report.page import build_report, render_page
from ctxsweep.report.quality_tables import DYNAMIC_NOTE, TEXT_NOTE, quality_tables, times
from ctxsweep.report.quality_terminal import print_quality
from ctxsweep.report.sections import tables
from ctxsweep.report.terminal import print_summary

CHARTS = ("quality", "quality_positions", "quality_passkey", "quality_multi_key")


@pytest.fixture(scope="module")
def report(quality_summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(quality_summary, tmp_path_factory.mktemp("quality"))


def words_of(page: Path) -> str:
    return re.sub(r"\s+", " ", Elements(page.read_text(encoding="utf-8")).words)


def test_recommendation_and_table_come_first(report: Path, quality_summary: Summary) -> None:
    text = report.read_text(encoding="utf-8")
    heads = re.findall(r'<h2 id="([a-z-]+)"', text)
    assert heads[:4] == ["quality", "reach", "verdicts", "charts"]
    assert text.index('id="answer"') < text.index('id="quality"')
    assert quality_summary.quality is not None
    words = words_of(report)
    for advice in quality_summary.quality.advice:
        assert advice.sentence in words
        assert f"<strong>{advice.headline}</strong>" in text


def test_page_says_what_limits_the_figures(report: Path, quality_summary: Summary) -> None:
    words = words_of(report)
    assert "Scored: every cell prefills real text afresh" in words
    assert TEXT_NOTE in words and DYNAMIC_NOTE in words and "block bootstrap" in words
    quality = quality_summary.quality
    assert quality is not None
    static = quality.model_copy(
        update={"cells": tuple(c for c in quality.cells if c.rope_type != "dynamic")}
    )
    page = render_page(quality_summary.model_copy(update={"quality": static}), {})
    assert "Dynamic NTK was evaluated" not in page


def test_table_has_a_row_for_every_cell(quality_summary: Summary) -> None:
    table, reach = quality_tables(quality_summary)
    assert all(len(row) == len(t.heads) for t in tables(quality_summary) for row in t.rows)
    rows = {(row[0], row[1]): dict(zip(table.heads, row, strict=True)) for row in table.rows}
    assert len(rows) == 21
    assert rows["none", "8K"]["Δ loss, nats"] == "reference"
    linear = rows["linear", "16K"]
    assert linear["Δ loss, nats"].startswith("✕ +0.60") and linear["Perplexity"] == "1.83×"
    assert (linear["Passkey"], linear["Factor"]) == ("4 of 8", "2")
    assert linear["Harm at 2K"].startswith("+0.20")
    assert rows["yarn", "16K"]["Δ loss, nats"].startswith("✓ ")
    assert rows["yarn", "16K"]["Prefill"].startswith("1.02×\n1.0")
    held = {row[0]: row[1:] for row in reach.rows}
    assert held["none"] == ("8K", "breaks at 10K of 16K")
    assert held["linear"] == ("8K", "broken from the start of 16K")
    assert held["yarn"] == ("at least 16K", "no break in 16K")


def test_large_ratios_keep_three_digits(quality_summary: Summary) -> None:
    quality = quality_summary.quality
    cell = quality.cell("none", 16384) if quality else None
    assert cell is not None
    assert re.match(r"1\d\d× \(\d+ to \d+\)", times(cell.perplexity_ratio))


def test_a_run_without_quality_says_nothing_of_it(summary: Summary) -> None:
    page = render_page(summary, {})
    assert quality_tables(summary) == () and 'id="quality"' not in page
    out = io.StringIO()
    print_quality(summary, Console(file=out))
    assert out.getvalue() == ""


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_has_the_table_in_eighty_columns(quality_summary: Summary, width: int) -> None:
    out = io.StringIO()
    print_summary(quality_summary, None, Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("At 8K take none")
    row = next(line.split() for line in lines if re.match(r"linear +16K", line))
    assert row[2].startswith("+0.60") and row[3].startswith("±0.0") and row[6:8] == ["4/8", "4/8"]
    flowing = re.sub(r"\s+", " ", out.getvalue())
    assert "none: 8K within 0.1 nats; breaks at 10K of 16K" in flowing
    assert DYNAMIC_NOTE in flowing


def test_terminal_without_unicode(quality_summary: Summary) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    print_quality(quality_summary, Console(file=out, width=100))
    text = raw.getvalue().decode("ascii")
    assert "+-" in text and "d loss" in text and "?" not in text


@pytest.fixture(scope="module")
def desktop(browser: Browser, report: Path) -> Iterator[Opened]:
    result = opened(browser, report)
    yield result
    result.page.context.close()


@pytest.mark.browser
def test_charts_are_drawn_and_follow_the_picker(desktop: Opened) -> None:
    page = desktop.page
    for chart in CHARTS[:2]:
        assert len(desktop.series(chart)) == 7
    cells = page.locator("#chart-quality_passkey .mark-text.role-mark text")
    assert cells.count() == 84 and set(cells.all_text_contents()) == {"2/2", "0/2"}
    page.get_by_role("checkbox", name="linear").uncheck()
    page.wait_for_function("document.getElementById('count').value.startsWith('6 of 7')")
    page.wait_for_timeout(200)
    assert cells.count() == 72
    assert desktop.series("quality") == desktop.series("quality_positions")
    assert "linear" not in desktop.series("quality")
    page.get_by_role("button", name="All", exact=True).click()
    assert desktop.complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_does_not_scroll_sideways(
    browser: Browser,
    report: Path,
    scheme: str,
) -> None:
    phone = opened(browser, report, width=390, scheme=scheme)
    assert phone.scroll_width() <= 390 and phone.complaints == []
    for chart in CHARTS:
        box = phone.page.locator(f"#chart-{chart} svg.marks").bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert box["width"] > 0.7 * 390
    fills = phone.page.locator("#chart-quality_passkey .mark-text.role-mark text").evaluate_all(
        "texts => [...new Set(texts.map(text => text.getAttribute('fill')))]"
    )
    assert len(fills) == 2, "counts are dark on light cells and light on dark ones"
    phone.page.context.close()
