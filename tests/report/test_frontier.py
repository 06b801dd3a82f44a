"""What a person reads of a search, and where one series overtakes another."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, get_args

import pytest
from pictures import decode_png, rows_of
from rich.console import Console

from ctxsweep.analysis.frontier_summary import (
    FrontierLine,
    FrontierProbe,
    FrontierSummary,
    Silence,
    TryOutcome,
)
from ctxsweep.analysis.summary import Crossover, Estimate, Summary
from ctxsweep.cli.sweep import derive
from ctxsweep.records import Status
from ctxsweep.report.crossings import crossing_lines
from ctxsweep.report.frontier import finding, frontier_answer, frontier_tables
from ctxsweep.report.page import chart_specs, render_page, write_plots
from ctxsweep.report.terminal import print_summary
from ctxsweep.store import RunFolder

BASELINE = Path(__file__).parents[2] / "results/baselines/2-core-amd-epyc/long_ctx"


STATUS = {"memory": Status.OOM, "time": Status.TIMEOUT, "error": Status.ERROR}


def probe(value: int, reason: Any = None, detail: str = "", **more: Any) -> FrontierProbe:
    """Passes without a reason."""
    silent = reason in get_args(Silence)
    kind: Any = "passes" if reason is None else "says_nothing" if silent else "over"
    outcome = TryOutcome(kind=kind, reason=reason, detail=detail)
    status = STATUS.get(reason, Status.OK)
    return FrontierProbe(key="k", value=value, status=status, outcome=outcome, metrics={}, **more)


def line(series: str = "gqa", **fields: Any) -> FrontierLine:
    values: dict[str, Any] = {
        "series": series,
        "quantity": "context_tokens",
        "at": 1,
        "up_to": 65536,
        "step": 1024,
        "passes": probe(18432),
        "fails": probe(19456, "memory", "refused\nat length"),
        "close": False,
        "complete": True,
        "tries": 6,
        "most_tries": 7,
    }
    values |= fields
    end = values.get("silent") or values["fails"]
    return FrontierLine(**{"stopped_by": end.outcome.reason if end else None, **values})


CENSORED = {"passes": probe(65536), "fails": None}
SLOW = {"fails": probe(19456, "decode")}
BROKEN = {"silent": probe(19456, "error", "unwell"), "fails": None}
SPENT = {"silent": probe(19456, "time", "no result within …"), "fails": None}
POSITIONS = {"passes": probe(1006), "fails": None, "stopped_by": "positions", "up_to": 1006}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "18K runs; 19K: out of memory"),
        (CENSORED, "at least 64K runs"),
        ({"passes": None, "fails": probe(1024, "memory")}, "not even 1K: out of memory"),
        ({**SLOW, "close": True}, "18K runs; 19K: decode too slow, within the noise"),
        (
            {**SLOW, "passes": probe(18432, contended_share=0.9)},
            "18K runs; 19K: decode too slow, the machine was busy",
        ),
        ({"close": True}, "18K runs; 19K: out of memory"),
        (BROKEN, "at least 18K runs; 19K: error"),
        ({**BROKEN, "passes": None}, "not known; 19K: error"),
        ({"complete": False}, "18K runs so far; 19K: out of memory"),
        ({**CENSORED, "passes": None, "complete": False}, "nothing known so far"),
        (SPENT, "at least 18K runs; 19K: budget spent"),
        ({**SPENT, "passes": None}, "not known; 19K: budget spent"),
        (
            {**SPENT, "fails": probe(32768, "memory")},
            "at least 18K runs; 19K: budget spent; 32K: out of memory",
        ),
        (POSITIONS, "1,006 runs, there its positions end"),
        (
            {"passes": probe(1000), "fails": probe(2000, "memory")},
            "1,000 runs; 2,000: out of memory",
        ),
        (
            {
                "quantity": "batch_size",
                "at": 8192,
                "passes": probe(6),
                "fails": probe(7, "memory"),
            },
            "6 run; 7: out of memory",
        ),
    ],
)
def test_a_finding_in_words(fields: dict[str, Any], said: str) -> None:
    assert finding(line(**fields)) == said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "gqa 18K."),
        (CENSORED, "gqa at least 64K."),
        ({"passes": None}, "gqa none."),
        (SPENT, "gqa at least 18K (budget spent)."),
        ({**SPENT, "fails": probe(32768, "memory")}, "gqa at least 18K (budget spent)."),
        ({**SPENT, "passes": None}, "gqa not known (budget spent)."),
        ({**BROKEN, "passes": None}, "gqa not known (error)."),
        ({"silent": probe(1024, "load"), "passes": None}, "gqa not known (did not start)."),
        (POSITIONS, "gqa 1,006."),
        ({"complete": False}, "gqa at least 18K."),
        ({**CENSORED, "passes": None, "complete": False}, "gqa not known."),
    ],
)
def test_the_headline_publishes_no_limit_that_was_not_found(
    fields: dict[str, Any], said: str
) -> None:
    found = FrontierSummary(memory_bytes=1, decode_s=None, prefill_s=None, lines=(line(**fields),))
    assert frontier_answer(found).endswith(f": {said}")


@pytest.fixture(scope="module")
def searched(summary: Summary) -> Summary:
    """The made-up run with a search that ended in every way."""
    names = [series.name for series in summary.series]
    ends: list[dict[str, Any]] = [{}, CENSORED, SLOW, BROKEN, {"passes": None}]
    lines = [line(name, **end) for name, end in zip(names, ends, strict=False)]
    sizes = {"quantity": "batch_size", "at": 8192, "up_to": 64, "step": 1}
    lines.append(line(names[0], **sizes, passes=probe(6), fails=probe(7, "memory")))
    found = FrontierSummary(
        memory_bytes=400 << 20, decode_s=0.02, prefill_s=None, lines=tuple(lines)
    )
    return summary.model_copy(update={"frontier": found})


def printed(summary: Summary, width: int = 80) -> str:
    out = io.StringIO()
    print_summary(summary, None, Console(file=out, width=width))
    return out.getvalue()


def test_the_terminal_begins_with_what_was_sought(searched: Summary) -> None:
    text = printed(searched)
    names = [series.name for series in searched.series]
    assert text.startswith("Longest context within 400 MiB and 20 ms a token (batch 1)\n")
    assert f"  {names[0]}: 18K runs; 19K: out of memory (6 tries)\n" in text
    assert f"  {names[1]}: at least 64K runs (6 tries)\n" in text
    assert "Largest batch within 400 MiB and 20 ms a token (at 8K)\n" in text
    assert "Longest context" not in printed(searched.model_copy(update={"frontier": None}))


def test_the_page_answers_first_and_shows_both_sides(searched: Summary) -> None:
    assert searched.frontier is not None
    said = frontier_answer(searched.frontier)
    names = [series.name for series in searched.series]
    assert f"{names[0]} 18K, {names[1]} at least 64K, {names[2]} 18K, " in said
    assert f"{names[3]} at least 18K (error), {names[4]} none." in said
    page = render_page(searched, chart_specs(searched))
    assert said in page
    context, batch = frontier_tables(searched)
    assert [row[1:3] for row in context.rows][:2] == [("18K", "19K"), ("≥ 64K", "not reached")]
    assert context.rows[0][3] == "out of memory: refused"
    assert "raise frontier.context.up_to" in context.rows[1][-1]
    assert context.rows[3][1:4] == ("≥ 18K", "not known", "error at 19K: unwell")
    assert len(batch.rows) == 1


def test_the_chart_has_bars_limits_arrows_and_crosses(searched: Summary, tmp_path: Path) -> None:
    specs = chart_specs(searched)
    spec = specs["frontier_context"]
    assert len(rows_of(spec, "bar")) == 5
    assert [row["x"] for row in rows_of(spec, "open")] == [65536]
    assert [row["x"] for row in rows_of(spec, "failed")] == [19456]
    assert {(row["x"], row["start"]) for row in rows_of(spec, "limit")} >= {(18432, 19456)}
    ends = {row["end"] for row in rows_of(spec, "bar")}
    ends_seen = {"out of memory", "decode too slow", "all that was tried runs"}
    assert ends == {*ends_seen, "a try gave no answer"}
    folder = tmp_path / "plots"
    write_plots({"frontier_context": spec, "frontier_batch": specs["frontier_batch"]}, folder)
    for name in ("frontier_context", "frontier_batch"):
        width, height, colours = decode_png((folder / f"{name}.png").read_bytes())
        assert width > 1000 and height > 200 and len(colours) > 10


@pytest.fixture(scope="module")
def long_ctx() -> Summary:
    return derive(RunFolder.open(BASELINE))


def test_the_baseline_says_where_one_overtakes_another_with_intervals(long_ctx: Summary) -> None:
    text = printed(long_ctx)
    assert "Where one overtakes another, with 95% intervals\n" in text
    # 4 MiB of window and 11.38 MiB of weights; mqa: 11.26 MiB and 512 B a token.
    assert "    sliding_window overtakes mqa at 8.26K [8K, 16K]\n" in text
    assert max(map(len, text.splitlines())) <= 80
    for crossing in long_ctx.crossovers:
        at = crossing.context_tokens
        if at is None:
            continue
        assert crossing.between_tokens is not None
        low, high = crossing.between_tokens
        assert low <= at.value <= high
        assert (crossing.cheaper_below, crossing.cheaper_above) == _order(long_ctx, crossing)


def _order(summary: Summary, crossing: Crossover) -> tuple[str, ...]:
    """Who is cheaper on either side, from the cells themselves."""
    assert crossing.between_tokens is not None
    held = {
        (c.series, c.context_tokens): c.metrics[crossing.metric].value
        for c in summary.cells
        if crossing.metric in c.metrics and c.batch_size == crossing.batch_size
    }
    pair = (crossing.first, crossing.second)
    return tuple(min(pair, key=lambda s: held[s, n]) for n in crossing.between_tokens)


def test_what_is_clear_only_from_some_context_on_is_so_from_there(long_ctx: Summary) -> None:
    later = [c for c in long_ctx.crossovers if c.clear_from_tokens is not None]
    assert {c.metric for c in later} == {"itl_s", "prefill_s", "held_bytes"}
    for one in later:
        held = {
            (c.series, c.context_tokens): c.metrics[one.metric].value
            for c in long_ctx.cells
            if one.metric in c.metrics
        }
        contexts = sorted(n for name, n in held if name == one.first)
        assert one.clear_from_tokens is not None and one.clear_from_tokens > contexts[0]
        for n in (n for n in contexts if n >= one.clear_from_tokens):
            cheaper = min((one.first, one.second), key=lambda s: held[s, n])
            assert cheaper == one.cheaper_above


def test_crossings_with_noise_show_their_interval(summary: Summary) -> None:
    one = Crossover(
        metric="itl_s",
        first="a",
        second="b",
        batch_size=2,
        context_tokens=Estimate(value=12288.0, low=10240.0, high=14336.0, n=4),
        cheaper_below="a",
        cheaper_above="b",
        between_tokens=(8192, 16384),
        evidence="…",
    )
    lines = crossing_lines(summary.model_copy(update={"crossovers": (one,)}))
    assert lines[2] == "    b overtakes a at 12K [10K, 14K] (batch 2)"
    assert crossing_lines(summary.model_copy(update={"crossovers": ()})) == []


def test_the_documents_show_what_the_baseline_says(long_ctx: Summary) -> None:
    page = (BASELINE.parents[3] / "docs/planning.md").read_text(encoding="utf-8")
    assert "```\n" + "\n".join(crossing_lines(long_ctx)) + "\n```" in page
