"""What is said of a comparison: the first line, the terminal, Markdown and JUnit."""

from __future__ import annotations

import io
import re
from collections import Counter
from xml.etree import ElementTree

import compared
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ctxsweep.analysis.comparison import Comparison, NotCompared
from ctxsweep.analysis.interval import Estimate
from ctxsweep.report.compare_junit import junit
from ctxsweep.report.compare_markdown import MOST_FOLDED, markdown
from ctxsweep.report.compare_terminal import print_comparison
from ctxsweep.report.compare_words import figure, headline, line, ordered, size


def printed(comparison: Comparison, width: int = 160, verbose: bool = False) -> str:
    out = io.StringIO()
    print_comparison(comparison, Console(file=out, width=width), verbose=verbose)
    return out.getvalue()


def only(*changes: object, **extra: object) -> Comparison:
    return compared.everything().model_copy(
        update={"changes": changes, "not_compared": (), **extra}
    )


SLOW = compared.cell("gqa", "itl_s", 8192, 1.103, "SLOW")
SAME = compared.cell("gqa", "itl_s", 4096, 1.0, "SAME")
AMBG = compared.cell("gqa", "itl_s", 2048, 1.05, "AMBG", 0.09)


def test_headline_names_cell_metric_and_size() -> None:
    assert headline(only(SAME, SLOW)) == (
        "1 regression: gqa at 8K itl_s +10.3% [8.1%, 12.5%] (2.08 ms → 2.30 ms)"
    )
    worse = compared.cell("window", "prefill_s", 8192, 1.5, "SLOW")
    assert headline(only(SLOW, worse, SLOW)).startswith("3 regressions: window at 8K prefill_s +50")
    assert headline(only(SLOW, worse, SLOW)).endswith(", and 2 more")


def test_headline_names_what_has_no_size_beside_what_has() -> None:
    first = headline(compared.everything())
    assert first == (
        "4 regressions: gqa at 32K: ok → oom, window at 32K prefill_s +31.0% [28.4%, 33.6%] "
        "(1.25 s → 1.64 s), and 2 more"
    )
    grown = compared.word("curve", "gqa", "prefill_s.class", "O(n)", "O(n²)")
    assert headline(only(grown)) == "1 regression: gqa prefill_s O(n) → O(n²)"
    # A slope moves more than the cells that it goes through, and says less.
    steep = compared.slope("gqa", 3.0, "SLOW", 0.1)
    assert "gqa at 8K itl_s +10.3%" in headline(only(steep, SLOW))
    assert "gqa itl_s.slope +200% [170%, 230%]" in headline(only(steep, SAME))


def test_headline_without_a_regression_says_what_is_not_known() -> None:
    assert headline(only(SAME, AMBG)) == "No regression: 1 SAME, 1 AMBG"
    left = NotCompared(what="rwkv7", count=6, reason="the base has no such series")
    assert headline(only(SAME, not_compared=(left,))) == (
        "No regression: 1 SAME; 6 not compared (rwkv7 (6): the base has no such series)"
    )
    assert headline(only(AMBG)) == "Nothing can be told: 1 line, all AMBG"
    assert headline(compared.nothing()) == (
        "Nothing was compared: all cells (18): another device: H100, base on a CPU"
    )
    assert headline(only()) == "Nothing was compared: the two have nothing in common"


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (Estimate(value=1.103, low=1.081, high=1.124), "+10.3% [8.1%, 12.4%]"),
        (Estimate(value=0.94, low=0.92, high=1.01), "−6.0% [−8.0%, 1.0%]"),
        (Estimate(value=1.05), "+5.0%"),
        (Estimate(value=1.05, low=1.05, high=1.05), "+5.0%"),
        (Estimate(value=1.0), "0%"),
        (Estimate(value=1.00004), "+0.004%"),
        (Estimate(value=4.0, low=3.9, high=4.1), "+300% [290%, 310%]"),
        (Estimate(value=40.0, low=9.5, high=1200.0), "40× [9.5×, 1,200×]"),
        (None, "–"),
    ],
)
def test_size(ratio: Estimate | None, text: str) -> None:
    assert size(ratio) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0021, "s", "2.10 ms"),
        (1.2e-7, "s/token", "120 ns/token"),
        (1.2e-7, "s per token", "120 ns per token"),
        (3.21e-13, "s per token²", "3.21e-13 s per token²"),
        (0.0, "s per token", "0 s per token"),
        (524288, "bytes", "512 KiB"),
        (1023 * 1024, "bytes", "1,023 KiB"),
        (512, "bytes/token", "512 B/token"),
        (8192, "tokens", "8K"),
        (81.25, "tokens/s", "81.2 tokens/s"),
    ],
)
def test_figure(value: float, unit: str, text: str) -> None:
    assert figure(Estimate(value=value), unit) == text


def test_order_is_slow_by_size_then_the_rest_by_place() -> None:
    lines = ordered(compared.everything().changes)
    assert [change.outcome for change in lines] == sorted(
        (change.outcome for change in lines), key=["SLOW", "FAST", "AMBG", "SAME"].index
    )
    assert [change.subject for change in lines[:4]][2:] == ["window at 32K", "gqa at 8K"]
    same = [change for change in lines if change.outcome == "SAME" and change.series == "mamba2"]
    contexts = [change.context_tokens or 0 for change in same]
    assert contexts == sorted(contexts)


@pytest.mark.parametrize("width", [50, 160])
def test_terminal_shows_all_but_what_is_same(width: int) -> None:
    text = printed(compared.everything(), width)
    words = re.sub(r"\s+", " ", text)
    assert words.startswith(headline(compared.everything()))
    lines = Counter(found for found in re.findall(r"^(SLOW|FAST|AMBG|SAME)", text, re.MULTILINE))
    assert lines == {"SLOW": 4, "FAST": 2, "AMBG": 10}
    assert "41 lines SAME" in words
    for told in (
        "rwkv7 (6): the base has no such series",
        "Differs: torch 2.9.0 → 2.9.1",
        "commit ffee3c4d5e with uncommitted changes",
        "False alarms allowed: 1% of tables of equal builds.",
        "itl_s 2.1% (the sentinel)",
    ):
        assert told in words, told
    # Brackets of a name are no markup.
    assert "test_append[1k]" in re.sub(r"\s+", "", text)
    every = printed(compared.everything(), width, verbose=True)
    assert len(re.findall(r"^SAME", every, re.MULTILINE)) == 41


def test_terminal_is_not_flooded_by_what_cannot_be_told() -> None:
    drift = [1 + i / 1000 for i in range(50)]
    many = only(
        SLOW, *(compared.cell("gqa", "itl_s", 1024 + i, r, "AMBG") for i, r in enumerate(drift))
    )
    text = printed(many)
    assert len(re.findall("^AMBG", text, re.MULTILINE)) == 20
    assert "and 30 lines AMBG more (--verbose)" in text
    assert "+4.9%" in text and "+1.0%" not in text
    assert len(re.findall("^AMBG", printed(many, verbose=True), re.MULTILINE)) == 50


def test_terminal_without_unicode() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    print_comparison(compared.everything(), Console(file=out, width=160), verbose=True)
    out.flush()
    text = raw.getvalue().decode("ascii")
    assert "gqa at 8K" in text and "2.08 ms -> 2.30 ms" in text and "O(n) -> O(n^2)" in text
    assert "?" not in text


def test_markdown_has_the_headline_and_folds_the_rest() -> None:
    text = markdown(compared.everything())
    assert text.startswith(f"**{headline(compared.everything())}**\n\n| ")
    head = text[: text.index("<details>")]
    assert head.count("\n| SLOW |") == 4 and head.count("\n| FAST |") == 2
    assert "10 lines AMBG</summary>" in text and "41 lines SAME</summary>" in text
    assert text.count("<details>") == text.count("</details>") == 4
    assert "Nothing was compared" in markdown(compared.nothing())
    many = markdown(only(*[SAME] * (MOST_FOLDED + 7)))
    assert many.count("\n| SAME |") == MOST_FOLDED and "and 7 lines more" in many


def test_markdown_escapes() -> None:
    name = "a|b <script> `x` *y* [z](http://x) @someone\nnext _it_ in_a_word"
    named = compared.bench(name, 1.2, "SLOW")
    text = markdown(only(named))
    (row,) = [row for row in text.splitlines() if row.startswith("| SLOW")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 6
    for escaped in (r"a\|b", "&lt;script>", r"\`x\`", r"\*y\*", r"[z]\(", r"\_it\_", "in_a_word"):
        assert escaped in row, escaped
    assert "@someone" not in text and "<script" not in text


def test_junit_counts() -> None:
    comparison = compared.everything()
    root = ElementTree.fromstring(junit(comparison).encode())
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["cell", "curve", "bench", "not compared"]
    assert len(root.findall("*/testcase")) == len(comparison.changes) + 2
    assert len(root.findall("*/testcase/failure")) == 4
    assert len(root.findall("*/testcase/skipped")) == comparison.count("AMBG") + 2
    for element in (root, *root):
        cases = element.findall("testcase") or root.findall("*/testcase")
        assert element.get("tests") == str(len(cases))
        for name, tag in (("failures", "failure"), ("skipped", "skipped")):
            assert element.get(name) == str(sum(case.find(tag) is not None for case in cases))
    properties = {p.get("name"): p.get("value") for p in suites["cell"].findall("*/property")}
    assert properties["base.run_ids"] == "20260101T020000Z-aaaa"
    assert properties["new.run_ids"] == "20260102T020000Z-bbbb"
    names = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert ("gqa", "itl_s @ 8K") in names and ("gqa", "itl_s.slope") in names
    assert len(set(names)) == len(names)
    crossings = [
        compared.slope("gqa", 1.0, "AMBG", 0.1).model_copy(
            update={"metric": "itl_s.crossover", "subject": f"gqa and {other}"}
        )
        for other in ("window", "mamba2")
    ]
    cases = ElementTree.fromstring(junit(only(*crossings)).encode()).iter("testcase")
    assert [case.get("name") for case in cases] == [
        "itl_s.crossover: gqa and mamba2",
        "itl_s.crossover: gqa and window",
    ]


def test_junit_failure_tells_all() -> None:
    root = ElementTree.fromstring(junit(compared.everything()).encode())
    (case,) = root.findall("*/testcase[@classname='gqa'][@name='itl_s @ 8K']")
    failure = case.find("failure")
    assert failure is not None and failure.text is not None
    assert failure.get("message") == "gqa at 8K itl_s +10.3% [8.1%, 12.5%] (2.08 ms → 2.30 ms)"
    for told in ("threshold: 5%", "4 rounds in turn with the base", "commit 1a2b3c4d5e"):
        assert told in failure.text, told


def test_junit_of_nothing_is_seen() -> None:
    for empty in (compared.nothing(), only()):
        root = ElementTree.fromstring(junit(empty).encode())
        assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("1", "0", "1")


@given(st.text(min_size=1), st.text())
def test_any_name_can_be_shown(name: str, reason: str) -> None:
    named = compared.bench(name, 1.2, "SLOW")
    left = NotCompared(what=name, count=1, reason=reason)
    comparison = only(named, scenario=name, not_compared=(left,))
    root = ElementTree.fromstring(junit(comparison).encode("utf-8", "replace"))
    assert len(root.findall("*/testcase")) == 2
    rows = [row for row in markdown(comparison).splitlines() if row.startswith("| SLOW")]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)\|", rows[0].replace(r"\\", ""))) == 6
    assert line(named) in headline(comparison)
