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

from ctxsweep.analysis.quality_summary import QualityCell, QualitySummary
from ctxsweep.analysis.summary import Summary
from ctxsweep.analysis.wording import times
from ctxsweep.report.page import build_report, render_page
from ctxsweep.report.quality_notes import (
    DYNAMIC_NOTE,
    MACHINE_NOTE,
    PASSAGE_NOTE,
    TEXT_NOTE,
    breaks_text,
    effective_text,
)
from ctxsweep.report.quality_tables import quality_tables
from ctxsweep.report.quality_terminal import print_quality
from ctxsweep.report.sections import tables
from ctxsweep.report.terminal import print_summary

CHARTS = ("quality", "quality_positions", "quality_passkey", "quality_multi_key")


@pytest.fixture(scope="module")
def report(quality_summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(quality_summary, tmp_path_factory.mktemp("quality"))


def words_of(page: str) -> str:
    return flat(Elements(page).words)


def quality_in(summary: Summary) -> QualitySummary:
    assert summary.quality is not None
    return summary.quality


def changed(summary: Summary, **fields: object) -> Summary:
    quality = quality_in(summary).model_copy(update=fields)
    return summary.model_copy(update={"quality": quality})


def with_cells(summary: Summary, series: str, **fields: object) -> Summary:
    cells = tuple(
        cell.model_copy(update=fields) if cell.series == series else cell
        for cell in quality_in(summary).cells
    )
    return changed(summary, cells=cells)


def printed(summary: Summary, width: int = 80) -> str:
    out = io.StringIO()
    print_quality(summary, Console(file=out, width=width))
    return out.getvalue()


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_recommendation_and_table_come_first(report: Path, quality_summary: Summary) -> None:
    text = report.read_text(encoding="utf-8")
    heads = re.findall(r'<h2 id="([a-z-]+)"', text)
    assert heads[:4] == ["quality", "reach", "verdicts", "charts"]
    assert text.index('id="answer"') < text.index('id="quality"')
    assert quality_summary.quality is not None
    words = words_of(text)
    for advice in quality_summary.quality.advice:
        assert advice.sentence in words
        assert f"<strong>{advice.headline}</strong>" in text


def test_page_says_what_limits_the_figures(report: Path, quality_summary: Summary) -> None:
    words = words_of(report.read_text(encoding="utf-8"))
    assert PASSAGE_NOTE in words and MACHINE_NOTE in words
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
    assert held["yarn"] == ("at least 16K", "no break shown in 16K")


def test_large_ratios_keep_three_digits(quality_summary: Summary) -> None:
    cell = quality_in(quality_summary).cell("none", 16384)
    assert cell is not None
    assert re.match(r"1\d\d× \(\d+ to \d+\)", times(cell.perplexity_ratio))


def test_how_far_it_holds_claims_no_more_than_was_shown(quality_summary: Summary) -> None:
    quality = quality_in(quality_summary)
    yarn = next(r for r in quality.reach if r.series == "yarn")
    nowhere = yarn.model_copy(update={"effective_tokens": None, "at_least": False})

    def held(standing: str) -> str:
        return effective_text(
            nowhere, quality_in(with_cells(quality_summary, "yarn", standing=standing))
        )

    assert (held("beyond"), held("open")) == ("not even 8K", "none shown")
    curves = tuple(
        c.model_copy(update={"starts": c.starts[4:], "differences": c.differences[4:]})
        for c in quality.positions
    )
    later = quality_in(changed(quality_summary, positions=curves))
    assert breaks_text(yarn, later) == "no break shown in 16K from 2K on"
    broken = yarn.model_copy(update={"breaks_at": 2048})
    assert breaks_text(broken, later) == "breaks at 2K of 16K or before"
    assert breaks_text(broken, quality) == "breaks at 2K of 16K"


def test_without_a_short_context_there_is_no_harm(quality_summary: Summary) -> None:
    assert "Harm at 2K" in quality_tables(quality_summary)[0].heads
    without = changed(quality_summary, short_context=None)
    table = quality_tables(without)[0]
    assert not any("Harm" in text for text in (*table.heads, *table.notes))
    assert {len(row) for row in table.rows} == {len(table.heads)}
    heads = [
        next(line for line in printed(one).splitlines() if line.strip().startswith("Series"))
        for one in (quality_summary, without)
    ]
    assert "short" in heads[0] and "short" not in heads[1]
    assert "does to shorter contexts was not measured" in flat(printed(without))


def test_several_factors_are_said_to_be_several_settings(quality_summary: Summary) -> None:
    said = "its setting is made anew for each context"
    assert any(said in n and "under Harm" in n for n in quality_tables(quality_summary)[0].notes)
    assert f"{said}; what one setting does to shorter contexts stands under short" in flat(
        printed(quality_summary)
    )
    names = {cell.series for cell in quality_in(quality_summary).cells}
    fixed = quality_summary
    for name in names:
        fixed = with_cells(fixed, name, factor=2.0)
    assert said not in " ".join(quality_tables(fixed)[0].notes) + flat(printed(fixed))


def test_what_could_not_be_measured_is_said_once(quality_summary: Summary) -> None:
    partly = with_cells(quality_summary, "yarn", detail="the text has no room for it")
    said = (
        "Not all was measured of yarn at 8K, yarn at 12K and yarn at 16K: the text has no room "
        "for it"
    )
    assert said in quality_tables(partly)[0].notes
    assert flat(printed(partly)).count(said) == 1
    assert "Not all was measured" not in printed(quality_summary)


def test_without_the_reference_page_and_terminal_say_so(quality_summary: Summary) -> None:
    def less(cell: QualityCell) -> QualityCell:
        nothing = ("difference", "standing", "beside", "harm")
        return cell.model_copy(update=dict.fromkeys(nothing))

    quality = quality_in(quality_summary)
    cells = [cell for cell in quality.cells if cell.series != "none"]
    lost = changed(quality_summary, cells=tuple(map(less, cells)), advice=())
    said = "none at 8K, the reference, was not measured: no loss can be compared."
    page = render_page(lost, {})
    assert f'id="answer">{said} ' in page
    assert words_of(page).count(said) == 2, "the answer, and the note at the table"
    assert printed(lost).startswith(said) and "At 8K" not in printed(lost)
    some = changed(quality_summary, cells=tuple(cells))
    assert "was not measured: from 8K on no loss can be compared" in flat(printed(some))
    assert said not in flat(printed(quality_summary))


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
    assert row[2] == "✕" and row[3].startswith("+0.60") and row[4].startswith("±0.0")
    assert row[7:9] == ["4/8", "4/8"]
    assert any(re.match(r"ntk_by_parts +16K +✓ ", line) for line in lines), "no colour is needed"
    flowing = flat(out.getvalue())
    assert PASSAGE_NOTE in flowing and MACHINE_NOTE in flowing
    assert "none: 8K within 0.1 nats; breaks at 10K of 16K" in flowing
    assert DYNAMIC_NOTE in flowing


def test_terminal_without_unicode(quality_summary: Summary) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    print_quality(quality_summary, Console(file=out, width=100))
    text = raw.getvalue().decode("ascii")
    assert "+-" in text and "d loss" in text
    assert re.search(r"yarn +16K +ok ", text) and re.search(r"linear +16K +x ", text)
    assert "?" not in text.replace("? not decided", "")


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
