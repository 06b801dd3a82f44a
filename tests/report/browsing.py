"""A page in headless Chromium, without a network: what it complains of, what it asks for."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str:
    """The browser's path; without one the tests are skipped, or fail where one is required."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        remedy = "no Chromium: apt-get install chromium, or set CHROMIUM to its path"
        if os.environ.get("CTXSWEEP_REQUIRE_BROWSER") == "1":
            pytest.fail(remedy)
        pytest.skip(remedy)
    return found


@dataclass
class Opened:
    """A page with what it complained of and what it asked the network for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def series(self, chart: str) -> set[str]:
        """The series that have a line in a chart, from the labels that a screen reader reads."""
        lines = self.page.locator(f"#chart-{chart} .mark-line path")
        labels = lines.evaluate_all("paths => paths.map(path => path.ariaLabel ?? '')")
        return {label.split("series: ")[1].split(";")[0] for label in labels if label}

    def scroll_width(self) -> int:
        """Width of what the page would have to scroll sideways to show."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))


def opened(browser: Browser, report: Path, width: int = 1280, scheme: str = "light") -> Opened:
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
    )
    context.set_offline(True)
    result = Opened(context.new_page())
    page = result.page
    page.on("console", lambda m: result.complaints.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda e: result.complaints.append(str(e)))
    page.on("request", lambda r: result.requests.append(r.url))
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-drawn]", timeout=60_000)
    return result
