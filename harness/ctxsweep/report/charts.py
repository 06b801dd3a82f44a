"""The charts of the report, one line of CHARTS each: for the page, as SVG and as PNG alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import altair as alt

from ctxsweep.analysis.summary import Summary
from ctxsweep.records_quality import TaskName
from ctxsweep.report.frontier_chart import frontier_chart
from ctxsweep.report.layers import Curves, shown_param
from ctxsweep.report.parts import memory_parts
from ctxsweep.report.placing import Row, Scale, context_scale, placed, y_scale
from ctxsweep.report.quality_charts import loss_against_context, loss_by_position, task_map
from ctxsweep.report.rows import (
    POINT_TIPS,
    failure_rows,
    growth_rows,
    metric_rows,
    series_names,
)
from ctxsweep.report.units import BYTES, PLAIN, TOKENS, unit_of

Build = Callable[[Summary], "alt.TopLevelMixin | None"]


@dataclass(frozen=True)
class ChartEntry:
    """A line of CHARTS. ``build`` answers None where the run holds nothing to draw."""

    name: str
    title: str
    note: str
    build: Build

    def chart(self, summary: Summary) -> alt.TopLevelMixin | None:
        """The chart with its title, or None."""
        chart = self.build(summary)
        if chart is None:
            return None
        title = alt.TitleParams(self.title, subtitle=self.note)
        return chart.properties(title=title, description=f"{self.title}. {self.note}")


def against_context(
    summary: Summary, metric: str, title: str, log: bool = True, ceiling: bool = False
) -> alt.LayerChart | None:
    """One metric against context, a curve per series, with intervals and failures."""
    rows = metric_rows(summary, metric)
    if log:
        rows = [row for row in rows if row["y"] > 0 and row.get("low", 1) > 0]
    if not rows:
        return None
    failures = failure_rows(summary)
    scale = y_scale(
        _extent(rows),
        unit_of(metric),
        title,
        log=log,
        strip_rows=len({row["line"] for row in failures}),
        top=1.0 if ceiling else 0.0,
    )
    x = context_scale(cell.context_tokens for cell in summary.cells)
    names = series_names(summary)
    drawn = placed(rows, failures, scale, ceiling=ceiling)
    curves = Curves(names, drawn, POINT_TIPS, x, scale)
    return curves.chart().add_params(shown_param(names))


def held_while_prefilling(summary: Summary) -> alt.LayerChart | None:
    """Bytes of cache or state along the longest context, both axes linear."""
    return _growth(summary, "prefill", "bytes held", TOKENS.name, "tokens of context held")


def added_while_decoding(summary: Summary) -> alt.LayerChart | None:
    """Bytes that decoding adds to the cache or state after the longest context."""
    return _growth(summary, "decode", "bytes added", PLAIN.name, "tokens decoded")


def _growth(
    summary: Summary, phase: str, y_title: str, x_unit: str, x_title: str
) -> alt.LayerChart | None:
    rows = growth_rows(summary, phase)
    if not rows:
        return None
    unit = TOKENS if x_unit == TOKENS.name else PLAIN
    x = Scale(0.0, max(row["x"] for row in rows) * 1.01 or 1.0, unit, x_title, log=False)
    y = y_scale(_extent(rows), BYTES, y_title, log=False, strip_rows=0)
    names = series_names(summary)
    tips = ("series", "tokens", "bytes", "held in all", "process")
    curves = Curves(names, placed(rows, [], y), tips, x, y, symbols=False)
    return curves.chart().add_params(shown_param(names))


def _extent(rows: list[Row]) -> list[float]:
    return [row[key] for row in rows for key in ("y", "low", "high") if key in row]


TASK_TITLES: dict[TaskName, str] = {
    "passkey": "Is a passkey found?",
    "multi_key": "Is the right one of many keys found?",
    "variable_tracking": "Is a chain of variables followed?",
}

CHARTS: tuple[ChartEntry, ...] = (
    ChartEntry(
        "quality",
        "What is lost along the context",
        "Loss minus the reference's on the same tokens, 95% intervals; the axis is linear about "
        "zero and logarithmic beyond. Series stand a little apart.",
        loss_against_context,
    ),
    ChartEntry(
        "quality_positions",
        "Where it is lost",
        "Loss by position in the longest context of each series, minus healthy losses of the same "
        "tokens, 95% intervals. Series stand a little apart.",
        loss_by_position,
    ),
    *(
        ChartEntry(
            f"quality_{task}",
            title,
            "Exact answers of all trials by context and depth: how far into the context, from its "
            "start, the answer stood.",
            partial(task_map, task=task),
        )
        for task, title in TASK_TITLES.items()
    ),
    ChartEntry(
        "frontier_context",
        "How long a context really runs",
        "A bar ends at the longest that ran within all limits, the tick after it is the shortest "
        "that did not; an arrow: nothing ended it. The axis is logarithmic.",
        partial(frontier_chart, quantity="context_tokens"),
    ),
    ChartEntry(
        "frontier_batch",
        "How large a batch really runs",
        "A bar ends at the largest that ran within all limits, the tick after it is the smallest "
        "that did not; an arrow: nothing ended it. The axis is logarithmic.",
        partial(frontier_chart, quantity="batch_size"),
    ),
    ChartEntry(
        "cache",
        "Memory that the context takes",
        "Cache or state in use at each context, both axes logarithmic: flat is O(1), a slope of "
        "one is O(n).",
        partial(against_context, metric="cache_used_bytes", title="cache or state"),
    ),
    ChartEntry(
        "decode",
        "Time per generated token",
        "Median time between two tokens at each context held, with its interval.",
        partial(against_context, metric="itl_s", title="time per token"),
    ),
    ChartEntry(
        "prefill",
        "Time to read the context",
        "Prefill of the whole context, median with its interval.",
        partial(against_context, metric="prefill_s", title="prefill time"),
    ),
    ChartEntry(
        "prefill_tps",
        "Prefill rate",
        "Prompt tokens read per second over the whole prefill; higher is better.",
        partial(against_context, metric="prefill_tps", title="tokens per second"),
    ),
    ChartEntry(
        "memory",
        "What the memory is made of",
        "Weights, cache or state, activations and the whole process, per series.",
        memory_parts,
    ),
    ChartEntry(
        "held",
        "Bytes held while the longest context is read",
        "Both axes linear; one reading per prefill chunk.",
        held_while_prefilling,
    ),
    ChartEntry(
        "growth",
        "Bytes added while decoding",
        "After the longest context. A cache grows by whole pages, a state not at all.",
        added_while_decoding,
    ),
    ChartEntry(
        "mfu",
        "Prefill: share of the machine's arithmetic (MFU)",
        "Achieved FLOP/s over the matrix-multiply ceiling that this run measured.",
        partial(
            against_context, metric="mfu_prefill", title="share of ceiling", log=False, ceiling=True
        ),
    ),
    ChartEntry(
        "mbu",
        "Decode: share of the machine's bandwidth (MBU)",
        "Bytes that decode must move per second over the read bandwidth that this run measured.",
        partial(
            against_context, metric="mbu_decode", title="share of ceiling", log=False, ceiling=True
        ),
    ),
    ChartEntry(
        "energy_decode",
        "Energy per generated token",
        "Only where the reading of board power was valid.",
        partial(against_context, metric="joules_per_generated_token", title="energy per token"),
    ),
    ChartEntry(
        "energy_prefill",
        "Energy per prompt token",
        "Only where the reading of board power was valid.",
        partial(against_context, metric="joules_per_prompt_token", title="energy per token"),
    ),
)
