"""What a night adds to the history: figures of a run's summary and of pytest-benchmark's file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from ctxsweep.analysis.bench_file import Benchmark, Stats, read_bench_file
from ctxsweep.analysis.comparison import Kind
from ctxsweep.analysis.estimate import Z95, median_estimate
from ctxsweep.analysis.history import Stamp, frame_of
from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.metrics import METRICS
from ctxsweep.analysis.summary import Summary
from ctxsweep.analysis.wording import context_label
from ctxsweep.machine import machine_slug
from ctxsweep.store import StoreError

CELL_METRICS = (
    "prefill_s",
    "itl_s",
    "cache_used_bytes",
    "bytes_per_token",
    "process_peak_bytes",
    "device_peak_bytes",
    "joules_per_prompt_token",
    "joules_per_generated_token",
)
PARAMETERS = {"a": ("intercept", ""), "b": ("slope", "/token"), "c": ("bend", "/token²")}
TERMS = {"a": "a", "b": "b·n", "c": "c·n²"}
BENCH_METRIC = "time_s"
Figure = dict[str, Any]


def stamp_of(summary: Summary) -> Stamp:
    """Time, commit and machine of a run; of a run that did not say, the machine is ``unknown``."""
    environment = summary.environment
    try:
        time = datetime.fromisoformat(summary.started_at)
    except ValueError as error:
        raise StoreError(
            f"run {summary.run_id}: started_at is no time: {summary.started_at!r}"
        ) from error
    return Stamp(
        time=time,
        run_id=summary.run_id,
        commit=environment.commit if environment else None,
        dirty=environment.dirty if environment else None,
        machine=machine_slug(environment) if environment else "unknown",
        scenario=summary.scenario,
    )


def rows_of(summary: Summary) -> pl.DataFrame:
    """The rows of a run: ``CELL_METRICS`` of its cells, parameters of its curves, crossovers.

    A curve's subject names what was fitted too (``gqa as a + b·n``): the slope of a + b·n and that
    of a + b·n + c·n² are two figures, and a class that changes is no step of either.
    """
    return frame_of(stamp_of(summary), [*_cells(summary), *_curves(summary), *_crossovers(summary)])


def bench_rows(path: Path, stamp: Stamp) -> pl.DataFrame:
    """The rows of a pytest-benchmark JSON file, as a part of the run of ``stamp``: medians, s.

    The interval comes from the single rounds where the file holds them (order statistics), else
    from the quartiles as if rounds were normal. A subject names the implementation that ran, if
    the file does: the times of C and of torch are two figures. Raises ``StoreError`` for another
    kind of file.
    """
    return frame_of(stamp, [_benchmark(one) for one in read_bench_file(path).benchmarks])


def _cells(summary: Summary) -> Iterator[Figure]:
    for cell in summary.cells:
        subject = f"{_many(cell.series, cell.batch_size)} at {context_label(cell.context_tokens)}"
        for metric in CELL_METRICS:
            if metric in cell.metrics:
                unit = METRICS[metric].unit
                yield _figure("cell", cell.series, subject, metric, unit, cell.metrics[metric])


def _curves(summary: Summary) -> Iterator[Figure]:
    for verdict in summary.verdicts:
        form = " + ".join(TERMS[letter] for letter in TERMS if letter in verdict.coefficients)
        subject = f"{_many(verdict.series, verdict.batch_size)} as {form}"
        unit = METRICS[verdict.metric].unit if verdict.metric in METRICS else ""
        for letter, (name, per) in PARAMETERS.items():
            if letter in verdict.coefficients:
                estimate = verdict.coefficients[letter]
                metric = f"{verdict.metric}.{name}"
                yield _figure("curve", verdict.series, subject, metric, unit + per, estimate)


def _crossovers(summary: Summary) -> Iterator[Figure]:
    for cross in summary.crossovers:
        if cross.context_tokens is not None:
            subject = f"{_many(cross.first, cross.batch_size)} and {cross.second}"
            metric = f"{cross.metric}.crossover"
            yield _figure("curve", cross.first, subject, metric, "tokens", cross.context_tokens)


def _figure(
    kind: Kind, series: str, subject: str, metric: str, unit: str, estimate: Estimate
) -> Figure:
    names = {"kind": kind, "series": series, "subject": subject, "metric": metric, "unit": unit}
    return {**names, **estimate.model_dump()}


def _many(series: str, batch_size: int) -> str:
    return series if batch_size == 1 else f"{series} ×{batch_size}"


def _benchmark(one: Benchmark) -> Figure:
    ran = one.conditions.get("implementation")
    subject = f"{one.subject} ({ran})" if ran else one.subject
    return _figure("bench", one.module, subject, BENCH_METRIC, "s", _median(one.stats))


def _median(stats: Stats) -> Estimate:
    if stats.data:
        return median_estimate(stats.data)
    error = stats.median_error_s
    if error is None:
        return Estimate(value=stats.median)
    low, high = stats.median - Z95 * error, stats.median + Z95 * error
    return Estimate(value=stats.median, low=low, high=high, n=stats.rounds)
