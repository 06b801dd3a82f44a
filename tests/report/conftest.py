"""Summaries of made-up runs, and a browser to look at their pages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from ctxsweep.analysis.summarise import summarise
from ctxsweep.analysis.summary import Summary

# What tests share lies beside them; the made-up runs that measured quality with the analysis'.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "analysis")]


@pytest.fixture(scope="session")
def summary() -> Summary:
    from nine_series import build_summary

    return build_summary()


@pytest.fixture(scope="session")
def quality_summary() -> Summary:
    from nine_series import build_environment
    from quality_run import ASKED, VARIANTS, build_run

    return summarise(
        scenario="rope",
        question="How far can positions be stretched?",
        run_id="20250101T000000Z-0002",
        started_at="2025-01-01T00:00:00Z",
        records=build_run(tasks=("passkey", "multi_key")),
        elapsed_s=512.0,
        environment=build_environment(),
        order=[variant.name for variant in VARIANTS],
        quality=ASKED,
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from browsing import find_chromium

    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()
