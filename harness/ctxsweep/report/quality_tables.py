"""What a run says of quality, as tables of the page: they stand first."""

from __future__ import annotations

from ctxsweep.analysis.quality_summary import QualityCell, QualitySummary, TaskRate
from ctxsweep.analysis.summary import Summary
from ctxsweep.analysis.wording import nats, times
from ctxsweep.records_quality import TaskName
from ctxsweep.report.quality_notes import (
    MACHINE_NOTE,
    MARKS,
    PASSAGE_NOTE,
    TEXT_NOTE,
    breaks_text,
    detail_notes,
    dynamic_note,
    effective_text,
    missing_reference,
    reference_text,
    setting_note,
)
from ctxsweep.report.table import Table
from ctxsweep.report.units import TOKENS


def quality_tables(summary: Summary) -> tuple[Table, ...]:
    """The losses of every series at every context, and how far each series holds."""
    quality = summary.quality
    if quality is None:
        return ()
    tasks = task_names(quality)
    heads = (
        "Series",
        "Context",
        "Factor",
        "Δ loss, nats",
        "Perplexity",
        *(task.replace("_", " ").capitalize() for task in tasks),
        *(f"Harm at {TOKENS.text(short)}" for short in _short(quality)),
        "Prefill",
        "Decode",
        f"Δ to {quality.reference_series} there",
    )
    rows = [_row(quality, cell, tasks) for cell in quality.cells]
    return (
        Table("quality", "Quality along the context", heads, rows, notes(quality), lead=True),
        _reach_table(quality),
    )


def task_names(quality: QualitySummary) -> tuple[TaskName, ...]:
    """The tasks of a run, each once."""
    return tuple(dict.fromkeys(rate.task for rate in quality.tasks))


def notes(quality: QualitySummary) -> tuple[str, ...]:
    """How the figures are to be read."""
    reference, series = reference_text(quality), quality.reference_series
    stretches = "" if quality.stretches == 1 else f" of each of {quality.stretches} stretches"
    harm = "".join(
        f" Harm: the same setting on a context of {TOKENS.text(short)}, against {series} there."
        for short in _short(quality)
    )
    measured = (
        f"Loss on the last {quality.target_tokens} tokens{stretches} of {quality.text.name}, minus "
        f"that of {reference} (of shorter contexts: there) on the same tokens, with intervals by "
        f"block bootstrap. {quality.max_loss:g} nats are allowed: ✓ shown to be within, ? not "
        f"decided, ✕ shown to be beyond.{harm} The last column: loss against {series} at the same "
        f"context. {PASSAGE_NOTE}"
    )
    cost = f"Prefill and decode: time over that of {series} at the same context. {MACHINE_NOTE}"
    said = (
        missing_reference(quality),
        measured,
        cost,
        setting_note(quality, "Harm"),
        *detail_notes(quality),
        TEXT_NOTE,
        dynamic_note(quality),
    )
    return tuple(note for note in said if note)


def _short(quality: QualitySummary) -> tuple[int, ...]:
    """The short context, if there is one."""
    return () if quality.short_context is None else (quality.short_context,)


def _row(
    quality: QualitySummary, cell: QualityCell, tasks: tuple[TaskName, ...]
) -> tuple[str, ...]:
    own = (cell.series, cell.context_tokens)
    is_reference = quality.is_reference(*own)
    ratio = cell.perplexity_ratio
    harm = "–" if cell.series == quality.reference_series else _stacked(nats(cell.harm))
    return (
        cell.series,
        TOKENS.text(cell.context_tokens),
        "–" if cell.factor is None else f"{cell.factor:g}",
        "reference" if is_reference else MARKS[cell.standing] + _stacked(nats(cell.difference)),
        "–" if is_reference else times(ratio, interval=False),
        *(exact_text(quality.rate(task, *own)) for task in tasks),
        *(harm for _ in _short(quality)),
        _stacked(times(cell.prefill_ratio)),
        _stacked(times(cell.decode_ratio)),
        _stacked(nats(cell.beside)),
    )


def _stacked(text: str) -> str:
    """The interval under its value."""
    return text.replace(" (", "\n").rstrip(")")


def exact_text(rate: TaskRate | None) -> str:
    """``7 of 8``."""
    return "–" if rate is None else f"{rate.exact} of {rate.trials}"


def _reach_table(quality: QualitySummary) -> Table:
    rows = [
        (reach.series, effective_text(reach, quality), breaks_text(reach, quality))
        for reach in quality.reach
    ]
    heads = ("Series", "Effective length", "In its longest context")
    note = (
        f"Effective length: the longest measured context such that it and all shorter ones are "
        f"shown to be within {quality.max_loss:g} nats. A series breaks at the first position from "
        "which two stretches of the context running are shown to be above that, against healthy "
        f"losses: {quality.reference_series}'s of the same tokens, with at most "
        f"{TOKENS.text(quality.reference_context)} before them."
    )
    return Table("reach", "How far each series holds", heads, rows, (note,), lead=True)
