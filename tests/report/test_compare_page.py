"""The page of a comparison and its pictures: complete, without a network, in light and in dark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import altair as alt
import compared
import pytest
from markup import Elements
from pictures import decode_png
from playwright.sync_api import Browser

from ctxsweep.analysis.comparison import Comparison
from ctxsweep.analysis.interval import Estimate
from ctxsweep.report.compare_charts import panels
from ctxsweep.report.compare_forest import forests
from ctxsweep.report.compare_page import build_comparison
from ctxsweep.report.compare_words import headline


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_comparison(compared.everything(), tmp_path_factory.mktemp("compared"))


def rows_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a picture; altair looks through its definition by the schema of Vega-Lite."""
    alt.LayerChart.from_dict(spec)
    return list(spec["data"]["values"])


def only(*changes: object) -> Comparison:
    return compared.everything().model_copy(update={"changes": changes})


def test_a_page_that_cannot_be_replaced_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = build_comparison(only(), tmp_path)
    before = page.read_bytes()

    def refuse(self: Path, to: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        build_comparison(compared.everything(), tmp_path)
    assert page.read_bytes() == before


def test_page_is_whole_and_loads_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = Elements(text)
    for tag, attrs in found.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), (tag, attrs)
    assert not re.search(r"https?://", text)
    images = [attrs for tag, attrs in found.elements if tag == "img"]
    assert len(images) == 2 * (9 + 5) and all(image["alt"] for image in images)
    words = re.sub(r"\s+", " ", found.words)
    for told in (
        headline(compared.everything()),
        "4 SLOW, 41 SAME, 2 FAST, 10 AMBG",
        "41 lines SAME",
        "the base has no such series",
        "torch 2.9.0 → 2.9.1",
        "ffee3c4d5e with uncommitted changes",
        "measured again, 4 rounds in turn with the base",
        "tests/bench/bench_ops.py::test_decode[8k|fp16]",
    ):
        assert told in words, told
    assert text.count('<tr><th scope="row">gqa at') == 17 - 1  # 15 cells, one of them also oom


def test_pictures_lie_beside_and_old_ones_go(page: Path, tmp_path: Path) -> None:
    plots = page.parent / "plots"
    names = {"itl_s", "prefill_s", "cache_used_bytes", "ratios"}
    expected = {f"compare-{name}.{kind}" for name in names for kind in ("svg", "png")}
    assert {path.name for path in plots.iterdir()} == expected
    width, height, pixels = decode_png((plots / "compare-itl_s.png").read_bytes())
    assert width > 1500 and height > 400 and len(pixels) > 30
    own = tmp_path / "plots"
    own.mkdir()
    for name in ("decode.svg", "compare-itl_s.svg"):
        (own / name).write_text("of earlier", encoding="utf-8")
    build_comparison(only(compared.slope("gqa", 1.2, "SLOW", 0.01)), tmp_path)
    left = {path.name for path in own.iterdir()}
    assert left == {"decode.svg", "compare-ratios.svg", "compare-ratios.png"}


def test_pictures_show_what_they_are_given(page: Path) -> None:
    plots = page.parent / "plots"
    curves = (plots / "compare-itl_s.svg").read_text(encoding="utf-8")
    # Two lines in each of three panels, and a point for every cell and side.
    assert curves.count('aria-roledescription="line mark"') == 2 * 3
    assert curves.count('aria-roledescription="point"') == 2 * 17 + 2 + 1
    assert "+10.3%" in curves and "−9.0%" in curves and "ok → oom" in curves
    ratios = (plots / "compare-ratios.svg").read_text(encoding="utf-8")
    for told in ("gqa at 8K", "+10.3% [8.1%, 12.5%]", "12 lines", "−0.9% to +2.3%"):
        assert f">{told}<" in ratios, told


def test_same_input_gives_same_bytes(tmp_path: Path) -> None:
    small = only(*compared.everything().changes[:5])
    pages = [build_comparison(small, tmp_path / name) for name in "ab"]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_panel_holds_both_curves_and_marks_what_is_slow() -> None:
    found = {(panel.metric, panel.title): panel for panel in panels(compared.everything())}
    assert len(found) == 9
    panel = found["itl_s", "gqa"]
    rows = rows_of(panel.spec)
    for side in ("base", "new"):
        points = [row for row in rows if row["role"] == "point" and row["side"] == side]
        assert [row["x"] for row in points] == [1024, 2048, 4096, 8192, 16384]
        assert all(row["low"] < row["y"] < row["high"] for row in points)
    (slow,) = [row for row in rows if row["role"] == "slow"]
    assert (slow["x"], slow["label"]) == (8192, "+10.3%")
    (lost,) = [row for row in rows if row["role"] == "lost"]
    assert (lost["x"], lost["label"]) == (32768, "ok → oom")
    assert lost["y"] > max(row["y"] for row in rows if row["role"] == "point")
    assert "gqa at 8K +10.3% [8.1%, 12.5%] SLOW" in panel.words
    exact = rows_of(found["cache_used_bytes", "gqa"].spec)
    assert not any("low" in row for row in exact)


def test_other_metrics_have_panels_only_where_they_changed() -> None:
    more = compared.cell("gqa", "process_peak_bytes", 8192, 1.2, "SLOW")
    same = compared.cell("gqa", "weights_bytes", 8192, 1.0, "SAME")
    assert [panel.metric for panel in panels(only(more, same))] == ["process_peak_bytes"]


def test_forest_shows_what_is_told_and_sums_up_what_is_same() -> None:
    comparison = compared.long()
    found = forests(comparison)
    assert [forest.metric for forest in found] == ["itl_s", "prefill_s", "cache_used_bytes"]
    names = [row["label"] for f in found for row in rows_of(f.spec) if row["role"] == "name"]
    told = [c.subject for c in comparison.changes if c.outcome != "SAME"]
    assert sorted(names) == sorted([*told, "45 lines", "45 lines", "50 lines"])
    for forest in found:
        places = {row["place"] for row in rows_of(forest.spec) if row["role"] == "name"}
        assert places == set(range(len(places)))


@pytest.mark.parametrize(
    "ratio",
    [
        Estimate(value=0.0),
        Estimate(value=1e-9, low=0.0, high=1e9),
        Estimate(value=1e6, low=-3.0, high=1e12),
        Estimate(value=1.0),
    ],
)
def test_forest_holds_ratios_of_any_size(ratio: Estimate) -> None:
    change = compared.slope("gqa", 1.0, "AMBG", 0.1).model_copy(update={"ratio": ratio})
    (forest,) = forests(only(change))
    edge = max(scale["domain"][1] for scale in _scales(forest.spec) if scale.get("type") == "log")
    for row in rows_of(forest.spec):
        for key in ("low", "high", "x"):
            assert key not in row or 1 / edge <= row[key] <= edge, row


def _scales(chart: dict[str, Any]) -> list[dict[str, Any]]:
    encodings = [layer["encoding"] for layer in chart["layer"]]
    return [e["x"]["scale"] for e in encodings if "scale" in e.get("x", {})]


def test_words_without_ratio_have_no_picture() -> None:
    assert forests(only(compared.word("curve", "gqa", "itl_s.class", "O(1)", "O(n)"))) == []


@pytest.mark.browser
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_in_a_browser(
    browser: Browser, page: Path, tmp_path: Path, width: int, scheme: str, empty: bool
) -> None:
    path = build_comparison(compared.nothing(), tmp_path) if empty else page
    comparison = compared.nothing() if empty else compared.everything()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_offline(True)
    tab = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("h1").inner_text() == headline(comparison)
    shown = tab.locator(f"img.{scheme}")
    hidden = tab.locator("img.dark" if scheme == "light" else "img.light")
    for image in shown.all():
        assert image.evaluate("image => image.naturalWidth") > 300
    assert shown.count() == (0 if empty else 9 + 5)
    if not empty:
        assert shown.first.is_visible()
        assert not hidden.first.is_visible()
    tab.get_by_role("button").click()
    assert empty or hidden.first.is_visible()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    context.close()
