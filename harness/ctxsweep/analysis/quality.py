"""From what the cells of a run measured of quality to what it means; on paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from math import exp, log, sqrt
from typing import Any

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.paired import Losses
from ctxsweep.analysis.quality_advice import advise
from ctxsweep.analysis.quality_positions import breaking_position, position_curve
from ctxsweep.analysis.quality_question import Question, question_of
from ctxsweep.analysis.quality_summary import (
    PositionCurve,
    QualityCell,
    QualitySummary,
    Reach,
    Standing,
)
from ctxsweep.analysis.quality_tasks import task_rates
from ctxsweep.records import Record

Values = Mapping[str, Mapping[str, Estimate]]


def summarise_quality(
    cells: Sequence[Record], values: Values, asked: Mapping[str, Any]
) -> QualitySummary | None:
    """All of a run's quality; None if no cell measured a loss.

    ``values`` are the metrics of every cell by its key; ``asked`` is the scenario's section
    ``quality`` (target_tokens, short_context, reference, max_loss). Of several batch sizes the
    smallest counts.
    """
    measured = _measured(cells)
    if not measured:
        return None
    question = question_of(asked, cells)
    losses = Losses(measured)
    same = {r.cell.context_tokens: r for r in measured if r.cell.series.name == question.series}
    found = tuple(
        _cell(record, losses, question, same.get(record.cell.context_tokens), values)
        for record in measured
    )
    positions = _positions(losses, question, found)
    reach = _reach(cells, found, positions, question.max_loss)
    rates = task_rates(measured)
    first = measured[0].quality
    assert first is not None
    return QualitySummary(
        reference_series=question.series,
        reference_context=question.context,
        short_context=question.short_context,
        target_tokens=question.target_tokens,
        stretches=len({one.stretch for one in first.passes}),
        max_loss=question.max_loss,
        text=first.text,
        tokenizer=first.tokenizer,
        trained_tokens=first.trained_tokens,
        cells=found,
        reach=reach,
        positions=positions,
        tasks=rates,
        advice=advise(losses, question, found, reach, rates),
    )


def _measured(cells: Sequence[Record]) -> list[Record]:
    """One record of every series and context, the smallest batch; in the order of the series."""
    order = list(dict.fromkeys(r.cell.series.name for r in cells))
    chosen: dict[tuple[int, int], Record] = {}
    for record in sorted(cells, key=lambda r: -r.cell.batch_size):
        if record.quality is not None and record.quality.passes:
            chosen[order.index(record.cell.series.name), record.cell.context_tokens] = record
    return [chosen[key] for key in sorted(chosen)]


def _cell(
    record: Record, losses: Losses, question: Question, same: Record | None, values: Values
) -> QualityCell:
    """``same`` is the record of the reference series at this context."""
    name, context = record.cell.series.name, record.cell.context_tokens
    own, targets = losses.own(name, context), question.target_tokens
    against = losses.compare(own, losses.own(*question.reference(context)), targets)
    beside = losses.compare(own, losses.own(question.series, context), targets)
    rope = (record.quality.rope if record.quality else None) or {}
    return QualityCell(
        series=name,
        context_tokens=context,
        rope_type=rope.get("rope_type"),
        factor=rope.get("factor"),
        loss=losses.mean(own, targets),
        difference=against.estimate if against else None,
        standard_error=against.standard_error if against else None,
        standing=standing(against.estimate, question.max_loss) if against else None,
        beside=beside.estimate if beside and name != question.series else None,
        harm=_harm(name, context, losses, question),
        prefill_ratio=_ratio(record, same, "prefill_s", values),
        decode_ratio=_ratio(record, same, "itl_s", values),
        detail=record.quality.detail if record.quality else "",
    )


def _harm(name: str, context: int, losses: Losses, question: Question) -> Estimate | None:
    """The short pass of a cell against the reference series' (at this context, if it has one)."""
    if (short := question.short_context) is None:
        return None
    reference = losses.nearest_short(question.series, context, short)
    found = losses.compare(losses.short(name, context, short), reference, question.target_tokens)
    return found.estimate if found else None


def standing(difference: Estimate, max_loss: float) -> Standing | None:
    """Whether the interval lies below, around or above ``max_loss``; None without an interval."""
    if difference.low is None or difference.high is None:
        return None
    if difference.high <= max_loss:
        return "within"
    return "beyond" if difference.low > max_loss else "open"


def _ratio(record: Record, other: Record | None, metric: str, values: Values) -> Estimate | None:
    """A time over the other's; interval of a ratio of independent figures (MOVER, Zou and Donner
    2008, on logarithms). 1 against itself."""
    if other is None:
        return None
    if other is record:
        return Estimate(value=1.0)
    one, base = (values.get(r.cell.key, {}).get(metric) for r in (record, other))
    if one is None or base is None or one.value <= 0 or base.value <= 0:
        return None
    value = one.value / base.value
    if not (one.low and one.high and base.low and base.high):
        return Estimate(value=value)
    down = sqrt(log(one.value / one.low) ** 2 + log(base.high / base.value) ** 2)
    up = sqrt(log(one.high / one.value) ** 2 + log(base.value / base.low) ** 2)
    n = min(one.n, base.n)
    return Estimate(value=value, low=value * exp(-down), high=value * exp(up), n=n)


def _positions(
    losses: Losses, question: Question, cells: Sequence[QualityCell]
) -> tuple[PositionCurve, ...]:
    longest = {cell.series: cell.context_tokens for cell in cells}
    reference = (question.series, question.context)
    curves = (position_curve(losses, name, n, reference) for name, n in longest.items())
    return tuple(curve for curve in curves if curve is not None)


def _reach(
    tried: Sequence[Record],
    cells: Sequence[QualityCell],
    positions: Sequence[PositionCurve],
    max_loss: float,
) -> tuple[Reach, ...]:
    """``tried`` are all records: a context that failed is not within what is allowed."""
    curves = {curve.series: curve for curve in positions}
    standings = {(cell.series, cell.context_tokens): cell.standing for cell in cells}
    longest = {cell.series: cell.context_tokens for cell in cells}
    found = []
    for name, longest_tokens in longest.items():
        contexts = sorted({r.cell.context_tokens for r in tried if r.cell.series.name == name})
        walk = [(n, standings.get((name, n))) for n in contexts]
        held = list(takewhile(lambda step: step[1] == "within", walk))
        then = walk[len(held)][1] if len(held) < len(walk) else None
        curve = curves.get(name)
        breaks = breaking_position(curve.starts, curve.differences, max_loss) if curve else None
        found.append(
            Reach(
                series=name,
                longest_tokens=longest_tokens,
                effective_tokens=held[-1][0] if held else None,
                at_least=bool(held) and then is None,
                breaks_at=breaks,
            )
        )
    return tuple(found)
