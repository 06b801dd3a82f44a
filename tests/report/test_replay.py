"""A published table beside a run: the figures of both, and what may be said of them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from markup import Elements
from pictures import decode_png
from playwright.sync_api import Browser
from quality_run import ASKED, Variant, build_run
from rich.console import Console

from ctxsweep.analysis.published import load, names
from ctxsweep.analysis.replay import method_of
from ctxsweep.analysis.summarise import summarise
from ctxsweep.analysis.summary import Summary
from ctxsweep.report import theme
from ctxsweep.report.replay import build_replay, print_replay
from ctxsweep.report.replay_panels import measured_panel, methods, published_panel


def run_of(*variants: Variant) -> Summary:
    return summarise(
        scenario="mine",
        question="",
        run_id="r",
        started_at="",
        records=build_run(variants),
        order=[v.name for v in variants],
        quality=ASKED,
    )


def printed(name: str, summary: Summary | None) -> str:
    out = io.StringIO()
    print_replay(load(name), summary, Console(file=out, width=80))
    return re.sub(r"\s+", " ", out.getvalue())


def test_page_holds_both_and_needs_no_network(quality_summary: Summary, tmp_path: Path) -> None:
    published = load("yarn-llama2-7b")
    page = build_replay(published, quality_summary, tmp_path)
    text = page.read_text(encoding="utf-8")
    found = Elements(text)
    for tag, attrs in found.elements:
        for name in ("src", "href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), tag
    images = [attrs for tag, attrs in found.elements if tag == "img"]
    assert len(images) == 4 and all(image["alt"] for image in images)
    words = re.sub(r"\s+", " ", found.words)
    for figure in ("8.07", "6.24", "6.04", "arXiv 2309.00071", "ntk_by_parts", "3370.43"):
        assert figure in words, figure
    assert "not the values: another model and another text" in words
    again = build_replay(published, quality_summary, tmp_path / "again")
    assert again.read_text(encoding="utf-8") == text
    assert page.name == "replay-yarn-llama2-7b.html"
    plots = tmp_path / "plots"
    width, height, pixels = decode_png((plots / "replay-yarn-llama2-7b.png").read_bytes())
    assert width > 1500 and height > 500 and len(pixels) > 30
    svg = (plots / "replay-yarn-llama2-7b.svg").read_text(encoding="utf-8")
    assert svg.count("NTK (base 20000)") >= 1 and svg.count(">ntk_by_parts<") >= 1


def test_a_method_has_one_colour_in_both_panels(quality_summary: Summary) -> None:
    published = load("yarn-llama2-7b")
    colours = methods(published, quality_summary)
    assert colours[:3] == ["none", "linear", "ntk"] and len(set(colours)) == len(colours)
    panels = [published_panel(published, colours), measured_panel(quality_summary, colours)]
    for panel in panels:
        assert panel is not None
        lines = panel.to_dict()["layer"][0]["encoding"]["color"]
        assert lines["scale"]["domain"] == colours
        assert lines["field"] == "method"
    assert len(theme.LIGHT.series) >= len(colours)


def test_lower_bounds_stand_above_every_figure() -> None:
    published = load("yarn-llama2-7b-128k")
    spec = published_panel(published, methods(published, None)).to_dict()
    rows = next(iter(spec.get("datasets", {}).values()), None) or spec["data"]["values"]
    bounds = [row for row in rows if row["role"] == "bound"]
    assert sorted(row["text"] for row in bounds) == [">10", ">10", ">100", ">1000", ">10000"]
    top = max(row["y"] for row in rows if row["role"] == "point")
    assert all(row["y"] > top for row in bounds)


def test_order_is_compared_only_where_both_tell(quality_summary: Summary) -> None:
    same = printed("yarn-llama2-7b", quality_summary)
    # PI and YaRN differ by 0.3% in the table, which has no intervals: no order is read from that.
    assert "linear has a lower perplexity than yarn" not in same
    assert "yarn has a lower perplexity than linear" not in same
    assert "yarn has a lower perplexity than ntk, so here" in same
    assert "linear has a lower perplexity than ntk, here the other way round" in same
    assert "Published at 8K (2 times the trained context)" in same
    assert "measured at 16K (2 times the trained context)" in same
    none, close = Variant("none", breaks_at=10_240), Variant("a", "ntk", added=0.05)
    open_ = printed("yarn-llama2-7b", run_of(none, close, Variant("b", "yarn", added=0.05)))
    assert "yarn has a lower perplexity than ntk, here the separate intervals overlap" in open_


def test_what_was_applied_is_the_method(quality_summary: Summary) -> None:
    """A folder that is stretched in its own files: the scenario says nothing of it."""
    series = tuple(s.model_copy(update={"rope": None}) for s in quality_summary.series)
    unasked = quality_summary.model_copy(update={"series": series})
    assert [method_of(unasked, name) for name in ("none", "ntk", "short_harm")] == [
        "none",
        "ntk",
        "llama3",
    ]
    without = quality_summary.model_copy(update={"quality": None})
    assert method_of(without, "ntk") == "ntk" and method_of(without, "none") == "none"


def test_two_tables_beside_one_run_stay_apart(quality_summary: Summary, tmp_path: Path) -> None:
    pages = {build_replay(load(name), quality_summary, tmp_path) for name in names()}
    assert len(pages) == len(names()) and all(page.is_file() for page in pages)
    assert len(list((tmp_path / "plots").iterdir())) == 2 * len(names())


def test_without_a_run_or_without_quality_it_says_so(summary: Summary, tmp_path: Path) -> None:
    assert "No run was given" in printed("yarn-llama2-7b", None)
    assert "measured no quality" in printed("yarn-llama2-7b", summary)
    only = printed("yarn-llama2-7b", run_of(Variant("none", breaks_at=10_240)))
    assert "does not hold two methods that the table orders (linear, ntk and yarn)" in only
    page = build_replay(load("yarn-llama2-7b"), None, tmp_path)
    assert page.read_text(encoding="utf-8").count("<img") == 2


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_in_a_browser(
    browser: Browser,
    quality_summary: Summary,
    tmp_path: Path,
    width: int,
    scheme: str,
) -> None:
    path = build_replay(load("yarn-llama2-7b-128k"), quality_summary, tmp_path)
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
    )
    context.set_offline(True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = page.locator(f"img.{scheme}")
    assert shown.count() == 2
    for i in range(2):
        assert shown.nth(i).is_visible()
        assert shown.nth(i).evaluate("image => image.naturalWidth") > 300
    other = "dark" if scheme == "light" else "light"
    assert not page.locator(f"img.{other}").first.is_visible()
    page.get_by_role("button").click()
    assert page.locator(f"img.{other}").first.is_visible()
    assert complaints == []
    context.close()
