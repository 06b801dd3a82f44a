"""What a night adds to the history: figures of a run's summary and of pytest-benchmark's file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

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
# Of normal samples: IQR over standard deviation, and the median's standard error over the mean's.
IQR_OF_NORMAL, MEDIAN_OF_NORMAL = 1.349, 1.2533
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
    from the quartiles as if rounds were normal. Raises ``StoreError`` for another kind of file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        figures = [_benchmark(one) for one in data["benchmarks"]]
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path}: not what pytest --benchmark-json writes ({type(error).__name__}: {error})"
        ) from error
    return frame_of(stamp, figures)


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


def _benchmark(one: dict[str, Any]) -> Figure:
    stats, name = one["stats"], str(one["name"])
    module = re.split(r"[/\\]", str(one.get("fullname") or name).split("::")[0])[-1]
    samples = [float(sample) for sample in stats.get("data") or ()]
    if samples:
        estimate = median_estimate(samples)
    else:
        median, count = float(stats["median"]), max(1, int(stats["rounds"]))
        error = MEDIAN_OF_NORMAL * float(stats["iqr"]) / IQR_OF_NORMAL / math.sqrt(count)
        low, high = median - Z95 * error, median + Z95 * error
        estimate = Estimate(value=median, low=low, high=high, n=count)
        if count < 2:
            estimate = Estimate(value=median)
    return _figure("bench", module.removesuffix(".py"), name, BENCH_METRIC, "s", estimate)
