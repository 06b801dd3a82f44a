"""From the records of a run to its summary. Pure: the same records give the same summary."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ctxsweep.analysis.ceilings import highest, kind_of
from ctxsweep.analysis.crossover import all_crossovers
from ctxsweep.analysis.drift import drift_of, log_deviation
from ctxsweep.analysis.frontier_summary import FrontierSummary
from ctxsweep.analysis.metrics import METRICS, measure, reading_at_context
from ctxsweep.analysis.numerics import numerics_checks
from ctxsweep.analysis.quality import summarise_quality
from ctxsweep.analysis.samples import contended_share, outlier_count
from ctxsweep.analysis.scaling import Points, verdict
from ctxsweep.analysis.summary import (
    CacheCheck,
    CellSummary,
    Drift,
    Estimate,
    GrowthPoint,
    LadderCost,
    Summary,
    Verdict,
)
from ctxsweep.analysis.wording import context_label
from ctxsweep.records import (
    SCHEMA_VERSION,
    Ceilings,
    Environment,
    MemoryReading,
    Record,
    Status,
)

VERDICT_METRICS = ("cache_used_bytes", "itl_s", "prefill_s")
CROSSOVER_METRICS = ("itl_s", "prefill_s", "held_bytes")

Line = tuple[str, int]
"""A curve of the report: series name and batch size."""
Values = dict[str, dict[str, Estimate]]
"""Metrics of every cell, by its key."""


def summarise(
    *,
    scenario: str,
    question: str,
    run_id: str,
    started_at: str,
    records: Iterable[Record],
    elapsed_s: float = 0.0,
    environment: Environment | None = None,
    order: Sequence[str] = (),
    quality: Mapping[str, Any] | None = None,
    frontier: FrontierSummary | None = None,
) -> Summary:
    """Derive everything that the report says from a run's records.

    ``order`` names the series as the scenario does; without it they come as they were measured.
    ``quality`` is the scenario's section of that name, ``frontier`` what its search found.
    A cell that was measured again counts by its last record. Failures stay as cells without
    metrics; they end the curves, and the verdicts say where and why.
    """
    measured = _ordered(records, order)
    latest = {record.cell.key: record for record in _with_best_ceilings(measured)}
    cells = [r for r in latest.values() if r.cell.role == "measure"]
    sentinels = [r for r in latest.values() if r.cell.role == "sentinel"]
    values = {key: measure(record) for key, record in latest.items()}
    lines = _lines(cells)
    series = {r.cell.series.name: r.cell.series for r in latest.values()}
    drift = drift_of(sentinels, values)
    curves = [
        _points(line, rows, metric, values, drift)
        for metric in dict.fromkeys((*VERDICT_METRICS, *CROSSOVER_METRICS))
        for line, rows in lines.items()
    ]
    with_points = [curve for curve in curves if curve.contexts]
    return Summary(
        schema_version=SCHEMA_VERSION,
        scenario=scenario,
        question=question,
        run_id=run_id,
        series=tuple(series.values()),
        metrics=tuple(metric.info for metric in METRICS.values()),
        cells=tuple(_cell(r, values[r.cell.key]) for r in cells),
        growth={name: _growth(cells, name) for name in series if _growth(cells, name)},
        verdicts=_verdicts(curves, cells),
        cache=tuple(c for c in (_cache_check(k, rows) for k, rows in lines.items()) if c),
        numerics=numerics_checks(cells),
        crossovers=all_crossovers(
            [c for c in with_points if c.metric in CROSSOVER_METRICS],
            lambda metric: METRICS[metric].exact,
        ),
        drift=drift,
        ladder=tuple(c for c in (_ladder(k, rows, values) for k, rows in lines.items()) if c),
        ceilings={r.cell.series.name: r.ceilings for r in measured if r.ceilings},
        environment=environment or next((r.environment for r in cells if r.environment), None),
        started_at=started_at,
        elapsed_s=elapsed_s,
        quality=summarise_quality(cells, values, quality or {}),
        frontier=frontier,
    )


def _ordered(records: Iterable[Record], order: Sequence[str]) -> list[Record]:
    place = {name: i for i, name in enumerate(order)}
    return sorted(records, key=lambda record: place.get(record.cell.series.name, len(place)))


def _with_best_ceilings(records: list[Record]) -> list[Record]:
    """Every record with the highest rates that a child of the run saw on its device and threads.

    Each child measures them, for a moment; one that was disturbed then would show shares above 1.
    """
    seen: dict[tuple[str, int], list[Ceilings]] = defaultdict(list)
    for record in records:
        if record.ceilings is not None:
            seen[kind_of(record.ceilings)].append(record.ceilings)
    best = {kind: highest(readings) for kind, readings in seen.items()}
    return [
        record.model_copy(update={"ceilings": best[kind_of(record.ceilings)]})
        if record.ceilings is not None
        else record
        for record in records
    ]


def _lines(cells: Sequence[Record]) -> dict[Line, list[Record]]:
    """Records of every curve by ascending context; the order of measuring does not matter."""
    lines: dict[Line, list[Record]] = defaultdict(list)
    for record in cells:
        lines[record.cell.series.name, record.cell.batch_size].append(record)
    return {k: sorted(rows, key=lambda r: r.cell.context_tokens) for k, rows in lines.items()}


def _cell(record: Record, metrics: dict[str, Estimate]) -> CellSummary:
    cell = record.cell
    return CellSummary(
        key=cell.key,
        series=cell.series.name,
        context_tokens=cell.context_tokens,
        batch_size=cell.batch_size,
        procedure=record.engine.get("procedure", cell.procedure),
        status=record.status,
        detail=record.detail,
        stopped_by=record.stopped_by,
        contended_share=contended_share(record),
        outliers=outlier_count(record),
        metrics=metrics if record.status is Status.OK else {},
    )


def _points(
    line: Line, rows: list[Record], metric: str, values: Values, drift: Sequence[Drift]
) -> Points:
    """One curve: the cells that are ok, one a context, and why it ends where it ends."""
    points: dict[int, Estimate] = {}
    for record in rows:
        value = values[record.cell.key].get(metric)
        if record.status is Status.OK and value is not None:
            points[record.cell.context_tokens] = value
    return Points(
        series=line[0],
        batch_size=line[1],
        metric=metric,
        unit=METRICS[metric].unit,
        contexts=tuple(points),
        values=tuple(points.values()),
        censored=_censored(rows, max(points, default=0)),
        drift=max((log_deviation(d) for d in drift if d.metric == metric), default=0.0),
    )


def _censored(rows: list[Record], last: int) -> str:
    """``no points beyond 32K: oom``; the statuses of what failed past the last point."""
    beyond = [r for r in rows if r.cell.context_tokens > last and r.status is not Status.OK]
    if not beyond:
        return ""
    why = ", ".join(dict.fromkeys(r.status.value for r in beyond))
    return f"no points beyond {context_label(last)}: {why}" if last else f"no points: {why}"


def _verdicts(curves: list[Points], cells: Sequence[Record]) -> tuple[Verdict, ...]:
    """One verdict per curve, but none on what an engine does not tell.

    Cache may be judged from single readings where contexts are few.
    """
    measured = {(r.cell.series.name, r.cell.batch_size) for r in cells if r.status is Status.OK}
    result = []
    for curve in curves:
        untold = not curve.contexts and (curve.series, curve.batch_size) in measured
        if curve.metric not in VERDICT_METRICS or untold:
            continue
        found = verdict(curve, METRICS[curve.metric].exact)
        if found.scaling == "undecided" and curve.metric == "cache_used_bytes":
            readings = _reading_points(curve, cells)
            if readings is not None:
                found = verdict(readings, exact=True)
        result.append(found)
    return tuple(result)


def _reading_points(curve: Points, cells: Sequence[Record]) -> Points | None:
    """The curve of a byte metric from the memory series, one point an octave of position.

    A few tokens decoded after a prompt begin a page that is nearly empty: they do not count.
    """
    readings = _readings(cells, curve.series, curve.batch_size)
    prompt = max((m.position for m in readings if m.phase == "prefill"), default=0)
    if readings and readings[-1].position < 2 * prompt:
        readings = [m for m in readings if m.phase == "prefill"]
    held = {m.position: m.cache_used_bytes for m in readings if m.cache_used_bytes is not None}
    positions = [p for p in sorted(held) if p > 0]
    if len(positions) <= len(curve.contexts):
        return None
    chosen: list[int] = []
    for position in reversed(positions):
        if not chosen or position <= chosen[-1] / 2:
            chosen.append(position)
    kept = sorted(chosen)
    return Points(
        series=curve.series,
        batch_size=curve.batch_size,
        metric=curve.metric,
        unit=curve.unit,
        contexts=tuple(kept),
        values=tuple(Estimate(value=float(held[p])) for p in kept),
        censored=curve.censored,
    )


def _readings(cells: Sequence[Record], name: str, batch_size: int) -> list[MemoryReading]:
    """All prefill readings of a curve, one a position, and the decode after the longest."""
    rows = [
        r
        for r in cells
        if r.cell.series.name == name and r.cell.batch_size == batch_size and r.memory
    ]
    if not rows:
        return []
    rows.sort(key=lambda r: (r.status is Status.OK, r.cell.context_tokens))
    prefill = {m.position: m for r in rows for m in r.memory if m.phase == "prefill"}
    decode = {m.position: m for m in rows[-1].memory if m.phase == "decode"}
    return [prefill[p] for p in sorted(prefill)] + [decode[p] for p in sorted(decode)]


def _growth(cells: Sequence[Record], name: str) -> tuple[GrowthPoint, ...]:
    """Bytes held along the series' longest context, at its smallest batch."""
    batches = [r.cell.batch_size for r in cells if r.cell.series.name == name]
    readings = _readings(cells, name, min(batches)) if batches else []
    return tuple(
        GrowthPoint(
            phase=m.phase,
            position=m.position,
            cache_used_bytes=m.cache_used_bytes,
            process_bytes=m.process_bytes,
        )
        for m in readings
        if m.cache_used_bytes is not None
    )


def _cache_check(line: Line, rows: list[Record]) -> CacheCheck | None:
    """Bytes held at every context beside the formula, and the growth per token at the long end.

    Growth is taken over the last octave of the readings, where a window has filled.
    """
    pairs = [
        (reading.cache_used_bytes, record.cost)
        for record in rows
        if record.cost is not None
        and (reading := reading_at_context(record)) is not None
        and reading.cache_used_bytes is not None
    ]
    held = {
        m.position: m.cache_used_bytes
        for m in _readings(rows, *line)
        if m.phase == "prefill" and m.cache_used_bytes is not None
    }
    if not pairs or len(held) < 2:
        return None
    last = max(held)
    first = min((p for p in held if p != last), key=lambda p: abs(p - last / 2))
    return CacheCheck(
        series=line[0],
        batch_size=line[1],
        measured_bytes_per_token=(held[last] - held[first]) / (last - first) / line[1],
        formula_bytes_per_token=pairs[-1][1].cache_bytes_per_token,
        difference_bytes=max(abs(used - cost.cache_bytes) for used, cost in pairs),
    )


def _ladder(line: Line, rows: list[Record], values: Values) -> LadderCost | None:
    """The longest rung's climb over its own prefill."""
    rungs = [r for r in rows if r.status is Status.OK and r.climb_s is not None]
    if not rungs or rungs[-1].climb_s is None:
        return None
    prefill = values[rungs[-1].cell.key].get("prefill_s")
    if prefill is None:
        return None
    climb = rungs[-1].climb_s
    return LadderCost(
        series=line[0],
        batch_size=line[1],
        longest_prefill_s=prefill.value,
        climb_s=climb,
        ratio=climb / prefill.value,
    )
