"""What a person sees of a sweep."""

from __future__ import annotations

import io
import threading

from rich.console import Console

from ctxsweep.analysis.frontier_outcome import outcome_of
from ctxsweep.execute.job import failure
from ctxsweep.execute.progress import RichProgress, label
from ctxsweep.records import Cell, Series, Status
from ctxsweep.scenario_frontier import Within


def cell(context: int, role: str = "measure") -> Cell:
    return Cell(
        scenario="s",
        series=Series(name="gqa", model="m"),
        context_tokens=context,
        generate_tokens=32,
        batch_size=2,
        procedure="ladder",
        role=role,
    )


def test_progress_names_series_context_and_step_and_never_wakes_by_itself() -> None:
    out = io.StringIO()
    threads = threading.active_count()
    with RichProgress(Console(file=out, width=200, force_terminal=True)) as progress:
        progress.start(total=3, done=1)
        progress.begin(cell(2048))
        progress.tick(512, None)
        progress.tick(2050, 0.0125)
        progress.record(failure(cell(2048), Status.OOM, "MemoryError: [/refused]\nmore"))
        assert threading.active_count() == threads
    text = out.getvalue()
    for part in ("gqa tg32 @ d2048 × 2", "at 512", "12.5 ms/token", "1/3", "2/3"):
        assert part in text
    assert "oom (MemoryError: [/refused])" in text and "more" not in text


def test_labels_tell_sentinels() -> None:
    assert label(cell(1024, "sentinel")).endswith("(sentinel 0)")


def test_a_try_over_the_limit_is_no_news_and_one_that_broke_is() -> None:
    out = io.StringIO()
    with RichProgress(Console(file=out, width=200, force_terminal=True)) as progress:
        progress.start(total=3, done=0)
        progress.begin(cell(2048, "frontier"))
        within = Within(prefill=1.0)
        for context, status, detail in (
            (2048, Status.OOM, "refused"),
            (1024, Status.ERROR, "unwell"),
            (512, Status.TIMEOUT, "no result"),
        ):
            record = failure(cell(context, "frontier"), status, detail, 60.0)
            progress.tried(record, outcome_of(record, within))
    text = out.getvalue()
    assert "d2048 × 2 (frontier)" in text and "refused" not in text
    assert "error (unwell)" in text and "timeout (no result)" in text and "3/3" in text
