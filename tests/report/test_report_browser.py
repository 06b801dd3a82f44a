"""The page in headless Chromium, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Opened, opened
from playwright.sync_api import Browser, Locator

from ctxsweep.analysis.summary import Summary
from ctxsweep.report.page import build_report, chart_specs

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(summary, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def desktop(browser: Browser, report: Path) -> Iterator[Opened]:
    result = opened(browser, report)
    yield result
    result.page.context.close()


@pytest.fixture(scope="module")
def charts(summary: Summary) -> list[str]:
    return list(chart_specs(summary))


def test_nothing_is_fetched_and_nothing_complains(desktop: Opened, report: Path) -> None:
    assert desktop.requests == [report.as_uri()]
    assert desktop.complaints == []


def test_every_chart_is_drawn(desktop: Opened, charts: list[str], summary: Summary) -> None:
    names = {series.name for series in summary.series}
    for chart in charts:
        assert desktop.series(chart) == names, chart
        document = desktop.page.locator(f"#chart-{chart} [role=graphics-document]")
        assert document.get_attribute("aria-label"), chart
    crosses = desktop.page.locator("#chart-decode .mark-symbol path[aria-label*='status: ']")
    assert crosses.count() == 3


def test_picker_filters_all_charts(desktop: Opened, charts: list[str], summary: Summary) -> None:
    page, names = desktop.page, {series.name for series in summary.series}
    box = page.get_by_role("checkbox", name="window")
    box.uncheck()
    page.wait_for_function("document.getElementById('count').value.startsWith('8 of 9')")
    for chart in charts:
        assert desktop.series(chart) == names - {"window"}, chart
    page.get_by_role("button", name="None", exact=True).click()
    page.wait_for_function("document.getElementById('count').value.startsWith('0 of 9')")
    page.wait_for_timeout(200)
    assert all(desktop.series(chart) == set() for chart in charts)
    box.focus()
    page.keyboard.press("Space")
    page.wait_for_timeout(200)
    assert all(desktop.series(chart) == {"window"} for chart in charts)
    page.get_by_role("button", name="All", exact=True).press("Enter")
    page.wait_for_timeout(200)
    assert all(desktop.series(chart) == names for chart in charts)
    assert desktop.complaints == []


def test_legend_highlights_a_series(desktop: Opened) -> None:
    chart = desktop.page.locator("#chart-decode")
    faint = chart.locator(".mark-line path[opacity='0.12']")
    assert faint.count() == 0
    label = chart.locator(".role-legend-label text", has_text="rwkv7")
    click(label)
    assert faint.count() == 8
    click(chart.locator(".role-axis-title text").first)
    assert faint.count() == 0


def click(place: Locator) -> None:
    """Click where it is: Vega hears the click on the whole picture, not on the text."""
    place.evaluate("element => element.scrollIntoView({block: 'center'})")
    box = place.bounding_box()
    assert box is not None
    place.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    place.page.wait_for_timeout(300)


def test_point_tells_its_figures(desktop: Opened) -> None:
    point = desktop.page.locator("#chart-prefill .mark-symbol path[aria-label*='series: rwkv7']")
    point.first.hover()
    tip = desktop.page.locator("#vg-tooltip-element.visible")
    tip.wait_for(timeout=5000)
    text = tip.inner_text()
    assert all(word in text for word in ("rwkv7", "1K", "430 ms", "interval", "noise"))


def test_theme_follows_the_system_and_the_button(browser: Browser, report: Path) -> None:
    dark = opened(browser, report, scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    svg = "document.querySelector('#chart-decode svg.marks').style.backgroundColor"
    assert dark.page.evaluate(ground) == dark.page.evaluate(svg) == "rgb(20, 23, 27)"
    dark.page.get_by_role("checkbox", name="window").uncheck()
    dark.page.get_by_role("button", name="Switch to light colours").click()
    dark.page.wait_for_function(f"{svg} === 'rgb(255, 255, 255)'")
    dark.page.get_by_role("button", name="Switch to dark colours").wait_for()
    assert dark.page.evaluate(ground) == "rgb(255, 255, 255)"
    assert "window" not in dark.series("decode"), "the pick is kept"
    assert dark.complaints == []
    dark.page.context.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (390, "dark"), (768, "light")])
def test_narrow_page_does_not_scroll_sideways(
    browser: Browser, report: Path, charts: list[str], width: int, scheme: str
) -> None:
    phone = opened(browser, report, width=width, scheme=scheme)
    assert phone.scroll_width() <= width
    assert phone.complaints == []
    for chart in charts:
        box = phone.page.locator(f"#chart-{chart} svg.marks").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["width"] > 0.7 * width
        legend = phone.page.locator(f"#chart-{chart} .role-legend").first.bounding_box()
        assert legend is not None
        assert legend["y"] + legend["height"] <= box["y"] + box["height"] + 3, chart
    phone.page.context.close()


def test_chart_follows_the_window(browser: Browser, report: Path) -> None:
    result = opened(browser, report)
    result.page.set_viewport_size({"width": 500, "height": 900})
    for chart in ("decode", "memory"):
        picture = f"document.querySelector('#chart-{chart} svg.marks')"
        result.page.wait_for_function(f"{picture}.getBoundingClientRect().right <= 500")
    assert result.scroll_width() <= 500
    assert result.complaints == []
    result.page.context.close()
