"""The table of metrics: what each is called, its unit, and how it follows from a record.

There is no ``ttft_s``: that is what a caller waits for, queueing and first sample included, and
nothing in a sweep waits as a caller does. Prefill time is ``prefill_s`` and is called that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t  # type: ignore[import-untyped]

from ctxsweep.analysis.estimate import (
    Z95,
    exact,
    median_estimate,
    quantile_estimate,
    reciprocal,
    scaled,
    total_with_block_bootstrap,
)
from ctxsweep.analysis.samples import climbs, runs, step_times
from ctxsweep.analysis.summary import Better, Estimate, MetricInfo
from ctxsweep.records import MemoryReading, Record

MIN_TOKENS_FOR_P99 = 100
JITTER_FREEDOM = 4
MIN_FREEDOM = 2


@dataclass(frozen=True)
class Metric:
    """One line of the table. ``exact`` metrics are read, not sampled: they carry no noise."""

    name: str
    unit: str
    better: Better
    description: str
    of: Callable[[Record], Estimate | None]
    exact: bool = False

    @property
    def info(self) -> MetricInfo:
        """The part that goes into a summary."""
        return MetricInfo(
            name=self.name, unit=self.unit, better=self.better, description=self.description
        )


def prefill_s(record: Record) -> Estimate | None:
    """Median over the climbs of the sum of their chunks.

    One climb: the interval is the jitter of its chunks (block bootstrap). A few: their scatter,
    moderated by that jitter as if it were worth ``JITTER_FREEDOM`` climbs more (a t interval
    with the degrees of freedom of both, after Smyth 2004; of the logarithms, for a time cannot
    reach zero; none from two climbs too short to show jitter). From 6 on: order statistics.
    """
    complete = climbs(record)
    if not complete:
        return None
    each = [total_with_block_bootstrap(run.position, run.wall_s) for run in complete]
    totals = np.array([e.value for e in each])
    if len(totals) == 1:
        return each[0]
    if len(totals) >= 6:
        return median_estimate(totals)
    widths = [e.high - e.low for e in each if e.high is not None and e.low is not None]
    prior = JITTER_FREEDOM if widths else 0
    value = float(np.median(totals))
    jitter = max(widths, default=0.0) / (2 * Z95 * value)
    freedom = prior + len(totals) - 1
    if freedom < MIN_FREEDOM:
        return Estimate(value=value, n=len(totals))
    squares = prior * jitter**2 + (len(totals) - 1) * np.log(totals).var(ddof=1)
    error = student_t.ppf(0.975, freedom) * np.sqrt(squares / freedom / len(totals))
    factor = float(np.exp(error))
    return Estimate(value=value, low=value / factor, high=value * factor, n=len(totals))


def itl_s(record: Record) -> Estimate | None:
    """Median decode step, all repetitions together."""
    times = step_times(record)
    return median_estimate(times) if len(times) else None


def tpot_s(record: Record) -> Estimate | None:
    """Mean decode step of a run; the median run of several."""
    means = [run.whole_s / float(run.tokens.sum()) for run in runs(record, "decode")]
    return median_estimate(means) if means else None


def decode_p99_s(record: Record) -> Estimate | None:
    """99th percentile of single decode steps; only over at least 100 of them."""
    times = step_times(record)
    return quantile_estimate(times, 0.99) if len(times) >= MIN_TOKENS_FOR_P99 else None


def prefill_tps(record: Record) -> Estimate | None:
    """Prompt tokens of the batch over prefill time."""
    seconds = prefill_s(record)
    tokens = record.cell.context_tokens * record.cell.batch_size
    return reciprocal(seconds, tokens) if seconds else None


def decode_tps(record: Record) -> Estimate | None:
    """Tokens of the batch over the mean decode step."""
    seconds = tpot_s(record)
    return reciprocal(seconds, record.cell.batch_size) if seconds else None


def reading_at_context(record: Record) -> MemoryReading | None:
    """The reading with exactly the cell's context held, or None."""
    at = [m for m in record.memory if m.position == record.cell.context_tokens]
    return next((m for m in at if m.phase == "prefill"), at[0] if at else None)


def _held(name: str) -> Callable[[Record], Estimate | None]:
    def of(record: Record) -> Estimate | None:
        value = getattr(reading_at_context(record), name, None)
        return None if value is None else exact(value)

    return of


def _peak(name: str) -> Callable[[Record], Estimate | None]:
    def of(record: Record) -> Estimate | None:
        values = [getattr(m, name) for m in record.memory]
        known = [v for v in values if v is not None]
        return exact(max(known)) if known else None

    return of


def held_bytes(record: Record) -> Estimate | None:
    """Weights and used cache together."""
    weights, cache = _held("weights_bytes")(record), _held("cache_used_bytes")(record)
    return exact(weights.value + cache.value) if weights and cache else None


def bytes_per_token(record: Record) -> Estimate | None:
    """Used cache over tokens held, all sequences of the batch."""
    used = _held("cache_used_bytes")(record)
    return scaled(used, 1 / (record.cell.context_tokens * record.cell.batch_size)) if used else None


def mfu_prefill(record: Record) -> Estimate | None:
    """FLOPs that prefill demands, over its time, over the measured matrix-multiply ceiling."""
    seconds, cost, ceilings = prefill_s(record), record.cost, record.ceilings
    if seconds is None or cost is None or ceilings is None:
        return None
    ceiling = ceilings.matmul_flops_per_s.get(record.cell.series.dtype)
    return reciprocal(seconds, cost.prefill_flops / ceiling) if ceiling else None


def mbu_decode(record: Record) -> Estimate | None:
    """Bytes that a decode step must move, over its time, over the measured read bandwidth."""
    seconds, cost, ceilings = itl_s(record), record.cost, record.ceilings
    if seconds is None or cost is None or ceilings is None:
        return None
    return reciprocal(seconds, cost.decode_bytes / ceilings.read_bytes_per_s)


def joules_per_prompt_token(record: Record) -> Estimate | None:
    """Mean board power in prefill times its time, over the batch's prompt tokens."""
    seconds, power = prefill_s(record), record.power
    if seconds is None or power is None or not power.valid or power.prefill_power_w is None:
        return None
    tokens = record.cell.context_tokens * record.cell.batch_size
    return scaled(seconds, power.prefill_power_w / tokens)


def joules_per_generated_token(record: Record) -> Estimate | None:
    """Mean board power in decode times the mean step, over the batch."""
    seconds, power = tpot_s(record), record.power
    if seconds is None or power is None or not power.valid or power.decode_power_w is None:
        return None
    return scaled(seconds, power.decode_power_w / record.cell.batch_size)


_TABLE = (
    Metric("prefill_s", "s", "lower", "time in prefill alone, whole context", prefill_s),
    Metric("prefill_tps", "tokens/s", "higher", "prompt tokens per second", prefill_tps),
    Metric("itl_s", "s", "lower", "median time between two tokens", itl_s),
    Metric("tpot_s", "s", "lower", "mean time per generated token after the first", tpot_s),
    Metric("decode_tps", "tokens/s", "higher", "generated tokens per second", decode_tps),
    Metric("decode_p99_s", "s", "lower", "99th percentile between two tokens", decode_p99_s),
    Metric(
        "cache_used_bytes",
        "bytes",
        "lower",
        "keys and values, or state, held at the context",
        _held("cache_used_bytes"),
        exact=True,
    ),
    Metric(
        "cache_reserved_bytes",
        "bytes",
        "lower",
        "cache that the engine has allocated",
        _held("cache_reserved_bytes"),
        exact=True,
    ),
    Metric("bytes_per_token", "bytes", "lower", "cache over tokens", bytes_per_token, exact=True),
    Metric("weights_bytes", "bytes", "lower", "parameters", _held("weights_bytes"), exact=True),
    Metric("held_bytes", "bytes", "lower", "weights and used cache", held_bytes, exact=True),
    Metric(
        "activations_peak_bytes",
        "bytes",
        "lower",
        "most of temporary tensors at once",
        _peak("activations_peak_bytes"),
    ),
    Metric(
        "process_peak_bytes",
        "bytes",
        "lower",
        "peak of the resident set, a cross-check",
        _peak("process_peak_bytes"),
    ),
    Metric(
        "device_peak_bytes",
        "bytes",
        "lower",
        "peak of the device's allocator",
        _peak("device_peak_bytes"),
    ),
    Metric("mfu_prefill", "", "higher", "of the measured matrix-multiply ceiling", mfu_prefill),
    Metric("mbu_decode", "", "higher", "of the measured read bandwidth", mbu_decode),
    Metric("joules_per_prompt_token", "J", "lower", "energy of prefill", joules_per_prompt_token),
    Metric(
        "joules_per_generated_token", "J", "lower", "energy of decode", joules_per_generated_token
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}


def measure(record: Record) -> dict[str, Estimate]:
    """All metrics that a record yields, by name."""
    values = {name: metric.of(record) for name, metric in METRICS.items()}
    return {name: value for name, value in values.items() if value is not None}
