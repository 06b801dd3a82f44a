"""The trend page: what it says first, that it needs no network, and that it stays one page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from browsing import opened
from made_up_history import START, figure, history
from markup import Elements
from playwright.sync_api import Browser

from ctxsweep.analysis import change_points
from ctxsweep.report.trend import build_trend, render_trend, sentence, trend_of
from ctxsweep.report.trend_chart import change_text, chart, shown, verdict

HOSTILE = "</script><script>alert(1)</script>"


def figures(series: int = 4) -> list[dict[str, Any]]:
    """Ten figures a series: three contexts times three metrics, and a slope."""
    found = []
    for name in ("gqa", "mamba2", "window", "hybrid")[:series]:
        for context in ("1K", "8K", "32K"):
            cell = figure(series=name, subject=f"{name} at {context}")
            read = {"unit": "bytes", "value": 2.0**23, "low": None, "high": None, "n": 1}
            found += [
                cell,
                cell | {"metric": "prefill_s", "value": 0.3, "low": 0.29, "high": 0.31},
                cell | {"metric": "cache_used_bytes"} | read,
            ]
        slope = {"kind": "curve", "metric": "itl_s.slope", "unit": "s/token", "value": 2.6e-7}
        found.append(figure(series=name, subject=f"{name} as a + b·n", low=None, high=None) | slope)
    return found


SHIFTS = {1: (41, 0.10), 5: (20, 0.01), 13: (30, -0.10)}


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return history(60, figures(), steps=SHIFTS, seed=3)


@pytest.fixture(scope="module")
def page(frame: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_trend(frame, tmp_path_factory.mktemp("trend"))


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_sentence_names_what_shifted(frame: pl.DataFrame) -> None:
    said = sentence(trend_of(frame))
    assert re.fullmatch(
        r"3 metrics shifted in the last 60 nights: "
        r"gqa at 1K: prefill_s \+\d+\.\d% since 2025-04-\d\d \([0-9a-f]{10}\), "
        r"gqa at 8K: cache_used_bytes \+1\.0% since 2025-03-21 \([0-9a-f]{10}\), "
        r"mamba2 at 8K: itl_s −\d+\.\d% since 2025-03-\d\d \([0-9a-f]{10}\)\.",
        said,
    ), said


def test_quiet_and_short_histories() -> None:
    flat = history(60, figures(1), cv=0.01)
    assert sentence(trend_of(flat)) == "No shift in 10 metrics over the last 60 nights."
    assert sentence(trend_of(flat.head(40))).endswith("need 6 nights or more to show a shift.")
    first = "The first night. Measured times need 6 nights or more to show a shift."
    assert sentence(trend_of(flat.head(10))) == first
    assert len(trend_of(history(70, figures(1))).runs) == 60


def test_few_nights_are_not_called_flat(tmp_path: Path) -> None:
    for nights, told, of_group in (
        (6, "over the last 6 nights. Few nights: only large shifts", "no shift seen yet"),
        (15, "can be seen yet.", "no shift seen yet"),
        (16, "over the last 16 nights.", "no shift"),
    ):
        frame = history(nights, figures(1), cv=0.01)
        said = sentence(trend_of(frame))
        assert said.startswith("No shift in 10 metrics") and told in said
        assert ("Few nights" in said) == (nights < 16)
        text = build_trend(frame, tmp_path).read_text(encoding="utf-8")
        assert re.findall(r"<summary>gqa<span>10 metrics, ([^<]+)</span>", text) == [of_group]
    shifted = history(8, figures(1), steps={2: (4, 0.01)})
    assert re.search(r"1 metric shifted.*\. Few nights: ", sentence(trend_of(shifted)))


def test_what_ended_is_no_quiet_metric(tmp_path: Path) -> None:
    """A cell that ends in oom for 30 nights, another metric in the last one, one of it shifted."""
    whole = history(60, figures(1), steps={2: (10, 0.01)})
    cell = (pl.col("subject") == "gqa at 1K") & (pl.col("time") > START.replace(day=31))
    slope = (pl.col("kind") == "curve") & (pl.col("run_id") == "run-059")
    frame = whole.filter(~cell & ~slope)
    said = sentence(trend_of(frame))
    assert said.startswith("1 metric shifted in the last 60 nights: gqa at 1K: cache_used_bytes +1")
    assert said.endswith(
        ". 3 metrics are no longer measured: gqa at 1K: itl_s (last on 2025-03-31), "
        "gqa at 1K: prefill_s (last on 2025-03-31), gqa at 1K: cache_used_bytes (last on "
        "2025-03-31)."
    )
    page = build_trend(frame, tmp_path)
    text = page.read_text(encoding="utf-8")
    held = re.findall(r'<h3 id="title-metric-\d+">([^<]+)</h3><span>([^<]+)</span>', text)
    assert len(held) == len(data_of(page)["specs"]) == 10
    ended = [name for name, latest in held if "last on" in latest]
    # A law that was not fitted in the last night is none that ended.
    assert (
        ended[:3] == [name for name, _ in held[:3]] and "gqa as a + b·n: itl_s.slope" in ended[3:]
    )
    assert held[0] == ("gqa at 1K: itl_s", held[0][1]) and held[0][1].endswith(
        ", last on 2025-03-31"
    )
    order = ("No longer measured</h2>", "title-metric-0", "title-metric-3")
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    quiet = whole.filter(~cell).drop_nulls("run_id").filter(pl.col("subject") == "gqa at 8K")
    assert "No longer measured" not in render_trend(trend_of(quiet))


def test_many_shifts_are_counted() -> None:
    every = history(60, figures(1), steps=dict.fromkeys(range(10), (30, 0.2)))
    said = sentence(trend_of(every))
    assert said.startswith("10 metrics shifted") and said.endswith(", and 7 more.")


def test_without_otava_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise change_points.OtavaMissing

    monkeypatch.setattr(change_points, "_otava", missing)
    frame = history(9, figures(1))
    said = sentence(trend_of(frame))
    assert said.startswith("Change points of measured times were not looked for: Apache Otava")
    stepped = history(9, figures(1), steps={2: (4, 0.01)})
    assert re.match(r"1 metric shifted .*\. Change points of measured", sentence(trend_of(stepped)))
    words = Elements(build_trend(frame, tmp_path).read_text(encoding="utf-8")).words
    assert "make nightly or make test brings it" in words
    assert "metrics, no shift" not in words


def test_page_loads_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = Elements(text)
    for tag, attrs in found.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), (tag, attrs)
    policy = next(a["content"] for _, a in found.elements if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert text.count("window.vegaEmbed=") == 1


def test_shifted_metrics_come_first_and_the_rest_is_folded(page: Path, frame: pl.DataFrame) -> None:
    text = page.read_text(encoding="utf-8")
    assert sentence(trend_of(frame)) in Elements(text).words
    titles = re.findall(r'<h3 id="title-metric-\d+">([^<]+)</h3>', text)
    assert titles[:3] == [
        "gqa at 1K: prefill_s",
        "gqa at 8K: cache_used_bytes",
        "mamba2 at 8K: itl_s",
    ]
    assert len(titles) == len(set(titles)) == 40
    assert len(data_of(page)["specs"]) == 40
    assert text.index("title-metric-2") < text.index("<details") < text.index("title-metric-3")
    groups = re.findall(r"<summary>(\w+)<span>([^<]+)</span>", text)
    assert groups == [
        ("gqa", "8 metrics, no shift"),
        ("mamba2", "9 metrics, no shift"),
        ("window", "10 metrics, no shift"),
        ("hybrid", "10 metrics, no shift"),
    ]


def test_the_same_history_gives_the_same_bytes(page: Path, frame: pl.DataFrame) -> None:
    assert render_trend(trend_of(frame)) == page.read_text(encoding="utf-8")


def test_charts_are_valid(frame: pl.DataFrame) -> None:
    """The page's are made without altair's check."""
    trend = trend_of(frame)
    for line, points in (trend.shifted[0], trend.lines[0]):
        drawn = chart(line, points, trend.runs, ["1 Mar"] * 60, 0)
        assert drawn.to_dict(validate=True)["height"] > 0


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    hostile = history(2, [figure(series=HOSTILE, subject=HOSTILE, metric=HOSTILE)])
    text = build_trend(hostile, tmp_path).read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert "alert(1)" in Elements(text).words


def test_how_figures_are_written(frame: pl.DataFrame) -> None:
    lines = {(line.subject, line.metric): (line, p) for line, p in trend_of(frame).lines}
    slope, _ = lines["gqa as a + b·n", "itl_s.slope"]
    assert shown(slope).text(2.6e-7) == "266 µs per 1K tokens"
    slower, points = lines["gqa at 1K", "prefill_s"]
    assert verdict(slower, points[0]) == "worse"
    faster, points = lines["mamba2 at 8K", "itl_s"]
    assert verdict(faster, points[0]) == "better"
    over_zero = points[0].model_copy(update={"before": -0.001, "after": 0.001, "relative": None})
    assert change_text(faster, over_zero) == "-1 ms → 1 ms"


def test_a_figure_that_began_late_stands_at_its_night(tmp_path: Path) -> None:
    early = history(10, [figure()])
    late = history(10, [figure(metric="prefill_s")]).filter(pl.col("time") > START.replace(day=8))
    specs = data_of(build_trend(pl.concat([early, late]), tmp_path))["specs"]
    rows = {name: next(iter(spec["datasets"].values())) for name, spec in specs.items()}
    assert [row["x"] for row in rows["metric-0"]] == list(range(10))
    assert [row["x"] for row in rows["metric-1"]] == [8, 9]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser: Browser, page: Path, scheme: str) -> None:
    result = opened(browser, page, scheme=scheme)
    assert result.page.locator("html").get_attribute("data-drawn") == "3"
    for summary in result.page.locator("summary").all():
        summary.click()
    result.page.wait_for_selector("html[data-drawn='40']", timeout=30_000)
    night = result.page.locator("#chart-metric-0 .mark-rect path[aria-label*='run-020']")
    night.hover(force=True)
    tip = result.page.locator("#vg-tooltip-element.visible")
    tip.wait_for(timeout=5_000)
    assert re.search(r"2025-03-21 02:00 UTC(.|\n)*commit(.|\n)*[0-9a-f]{10}", tip.inner_text())
    assert result.complaints == []
    assert result.requests == [page.as_uri()]


@pytest.mark.browser
def test_on_a_telephone_and_after_one_night(browser: Browser, page: Path, tmp_path: Path) -> None:
    assert opened(browser, page, width=390).scroll_width() <= 390
    single = opened(browser, build_trend(history(1, figures(1)), tmp_path), width=390)
    assert single.page.locator("html").get_attribute("data-drawn") == "10"
    assert single.scroll_width() <= 390
    assert single.complaints == []
