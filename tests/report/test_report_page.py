"""The page and the terminal: what they say, and that they need no network."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from markup import Elements
from rich.console import Console

from ctxsweep.analysis.summary import CellSummary, NumericsCheck, Summary, Verdict
from ctxsweep.records import Series, Status
from ctxsweep.report.page import build_report, chart_specs, render_page
from ctxsweep.report.sections import tables
from ctxsweep.report.side_by_side import same_model_rows
from ctxsweep.report.terminal import print_summary
from ctxsweep.report.units import TOKENS
from ctxsweep.report.verdicts import answer, verdict_rows


@pytest.fixture(scope="module")
def page(summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(summary, tmp_path_factory.mktemp("report"))


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


def test_verdicts_come_first(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    heads = re.findall(r'<h2 id="([a-z-]+)"', text)
    assert heads == [
        "verdicts",
        "charts",
        "crossovers",
        "failures",
        "drift",
        "ladder",
        "environment",
        "ceilings",
        "method",
    ]
    assert text.index('id="answer"') < text.index('id="verdicts"')


def test_page_says_what_the_summary_says(page: Path, summary: Summary) -> None:
    words = re.sub(r"\s+", " ", Elements(page.read_text(encoding="utf-8")).words)
    assert summary.question in words
    assert answer(summary) in words
    for text in (
        "8 ms + 266 µs per 1K tokens",
        "slope 1.70 (1.66 to 1.75)",
        "flat beyond 1K",
        "✓ difference 0 B",
        "✕ difference 4 KiB",
        "Predicted 61 s of prefill",
        "4.59K to 6.74K",
        "4.1%",
        "1.08×",
        "140 GFLOP/s",
        "with uncommitted changes",
        "docs/measurement.md",
    ):
        assert text in words, text


def test_answer_is_made_from_the_verdicts(summary: Summary) -> None:
    assert answer(summary) == (
        "From 1K to 128K tokens of context, the memory that the context takes is O(1) for window, "
        "mamba2, rwkv7 and retnet, O(n) for the other 5; the time per generated token is O(1) for "
        "window, mamba2 and rwkv7, undecided for retnet, O(n) for the other 5; prefill time is "
        "O(n) for window, mamba2, rwkv7 and retnet, O(n²) for the other 5."
    )
    flat = [v.model_copy(update={"scaling": "O(1)"}) for v in summary.verdicts]
    assert "takes is O(1) for all 9;" in answer(summary.model_copy(update={"verdicts": flat}))
    none = summary.model_copy(update={"verdicts": ()})
    assert answer(none) == "Nothing could be judged: 3 cells have no figures."
    failed = tuple(c.model_copy(update={"metrics": {}, "status": "error"}) for c in summary.cells)
    nothing = answer(summary.model_copy(update={"cells": failed}))
    assert nothing == f"Nothing was measured: {len(failed)} cells have no figures."


def test_a_series_without_figures_keeps_its_row(summary: Summary) -> None:
    cells = tuple(
        c.model_copy(update={"status": Status.UNSUPPORTED, "metrics": {}})
        if c.series == "moe"
        else c
        for c in summary.cells
    )
    verdicts = tuple(v for v in summary.verdicts if v.series != "moe")
    rows = verdict_rows(summary.model_copy(update={"cells": cells, "verdicts": verdicts}))
    assert [row.series for row in rows] == [s.name for s in summary.series]
    assert set(rows[-1].cells.values()) == {None}


def test_hostile_names_stay_text(summary: Summary) -> None:
    name = "</script><script>alert(1)</script>"

    def renamed(item: CellSummary | Verdict) -> CellSummary | Verdict:
        return item.model_copy(update={"series": name}) if item.series == "gqa" else item

    hostile = summary.model_copy(
        update={
            "question": f"why {name}?",
            "series": (Series(name=name, model="gqa"), *summary.series[1:]),
            "cells": tuple(renamed(c) for c in summary.cells),
            "verdicts": tuple(renamed(v) for v in summary.verdicts),
        }
    )
    text = render_page(hostile, chart_specs(hostile))
    assert "alert(1)" in text
    assert "<script>alert" not in text


def test_same_summary_same_page(page: Path, summary: Summary) -> None:
    assert render_page(summary, chart_specs(summary)) == page.read_text(encoding="utf-8")


def test_empty_run_still_has_a_page(summary: Summary, tmp_path: Path) -> None:
    empty = summary.model_copy(
        update=dict.fromkeys(("cells", "verdicts", "cache", "crossovers", "drift", "ladder"), ())
        | {"growth": {}, "ceilings": {}, "environment": None}
    )
    page = build_report(empty, tmp_path)
    assert "Nothing could be judged" in page.read_text(encoding="utf-8")
    assert all(len(row) == len(t.heads) for t in tables(summary) for row in t.rows)


def test_memory_that_is_not_told_is_said_to_be_unknown(summary: Summary, tmp_path: Path) -> None:
    name, metric = summary.series[0].name, "cache_used_bytes"
    told = [cell for cell in summary.cells if cell.series != name]
    quiet = [
        cell.model_copy(
            update={"metrics": {k: v for k, v in cell.metrics.items() if "_bytes" not in k}}
        )
        for cell in summary.cells
        if cell.series == name
    ]
    served = summary.model_copy(
        update={
            "cells": (*quiet, *told),
            "verdicts": tuple(
                v for v in summary.verdicts if (v.series, v.metric) != (name, metric)
            ),
            "cache": tuple(check for check in summary.cache if check.series != name),
            "growth": {key: held for key, held in summary.growth.items() if key != name},
        }
    )
    page = build_report(served, tmp_path).read_text(encoding="utf-8")
    assert page.count("<td>not known</td>") == 1
    for width in (80, 160):
        assert printed(served, None, width=width).count("not known") == 1


def test_answer_speaks_for_all_only_where_all_are_known(summary: Summary) -> None:
    names = [series.name for series in summary.series]
    flat = [v.model_copy(update={"scaling": "O(n)"}) for v in summary.verdicts]
    metric = "cache_used_bytes"
    known = [v for v in flat if (v.series, v.metric) != (names[0], metric)]
    subject = "the memory that the context takes is O(n) for"
    assert f"{subject} all {len(names)};" in answer(summary.model_copy(update={"verdicts": flat}))
    text = answer(summary.model_copy(update={"verdicts": known}))
    assert f"{subject} all {len(names) - 1} that tell it;" in text


def printed(summary: Summary, page: Path | None, **console: object) -> str:
    out = io.StringIO()
    print_summary(summary, page, Console(file=out, **console))
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_terminal_shows_everything_at_any_width(summary: Summary, width: int) -> None:
    path = Path("/a/rather/long/path/that/must/not/be/cut") / ("x" * 60) / "report.html"
    text = printed(summary, path, width=width)
    assert str(path) in text
    lines = [line for line in text.splitlines() if str(path) not in line]
    assert max(len(line) for line in lines) <= width
    flowing = re.sub(r"\s+", " ", text)
    for row in verdict_rows(summary):
        assert row.label in flowing
    for words in ("moe at 64K, 128K: out of memory", "gqa-fp8 at 128K: over budget"):
        assert words in flowing
    assert flowing.count("undecided") == 2


def test_terminal_is_plain_where_it_is_none(summary: Summary) -> None:
    text = printed(summary, None, width=120)
    assert "\x1b" not in text
    assert not re.search("[─━│┃┏┌]", text)
    coloured = printed(summary, None, width=120, force_terminal=True, color_system="standard")
    assert "\x1b[1;32mO(1)" in coloured


def test_terminal_without_unicode(summary: Summary) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    print_summary(summary, Path("report.html"), Console(file=out, width=120))
    text = raw.getvalue().decode("ascii")
    assert "O(n^2)" in text
    assert "->" in text
    assert "?" not in text


def test_engines_that_disagree_are_said_to(summary: Summary) -> None:
    assert "Numerics" not in render_page(summary, {})
    first, second, third = (series.name for series in summary.series[:3])
    figures = {"largest_difference": 2e-6, "relative_difference": 1e-6, "allowed": 1e-4}
    bad = {"largest_difference": 0.5, "relative_difference": 0.3, "allowed": 0.04}
    compared = summary.model_copy(
        update={
            "numerics": (
                NumericsCheck(series=first, reference=first, agrees=True, **figures),
                NumericsCheck(series=second, reference=first, agrees=True, **figures),
                NumericsCheck(series=third, reference=first, agrees=False, **bad),
            )
        }
    )
    page = render_page(compared, {})
    assert "Numerics</th>" in page
    assert f"as {first}<small>✓ logits differ by up to 2.0e-06" in page
    assert f'not as {first}<small class="alarm">✕ logits differ by up to 5.0e-01' in page
    assert f"{third} does not compute what {first} does" in answer(compared)
    for width in (80, 160):
        text = re.sub(r"\s+", " ", printed(compared, None, width=width))
        assert "Numerics" in text and f"not as {first}" in text


def test_series_of_one_model_stand_side_by_side_at_the_longest_shared_context(
    summary: Summary,
) -> None:
    assert same_model_rows(summary) == []
    cells = {(c.series, c.context_tokens): c for c in summary.cells}
    names = ("gqa", "moe", "mamba2")  # moe has no figures beyond 32K
    checks = tuple(
        NumericsCheck(
            series=name,
            reference="gqa",
            largest_difference=0,
            relative_difference=0,
            allowed=1,
            agrees=True,
        )
        for name in names
    )
    rows = same_model_rows(summary.model_copy(update={"numerics": checks}))
    assert [row[1] for row in rows] == ["gqa"] * 3
    longest = max(n for name, n in cells if name == "gqa" and cells[name, n].metrics)
    assert {row[2] for row in rows} == {TOKENS.text(longest)}
    timed = {n: cells[n, longest].metrics for n in names if cells[n, longest].metrics}
    fastest = min(timed, key=lambda name: timed[name]["prefill_s"].value)
    assert (rows[0][0], rows[0][4]) == (fastest, "1.00×")
    slowest = max(timed, key=lambda name: timed[name]["prefill_s"].value)
    ratio = timed[slowest]["prefill_s"].value / timed[fastest]["prefill_s"].value
    assert next(row for row in rows if row[0] == slowest)[4] == f"{ratio:.2f}×"
    assert rows[-1][0] == "moe" and rows[-1][3:] == ("–",) * 5
    page = render_page(summary.model_copy(update={"numerics": checks}), {})
    assert page.index("side by side") < page.index('id="charts"')
