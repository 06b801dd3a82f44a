"""What a run says of quality, as tables of the page: they stand first."""

from __future__ import annotations

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.quality_summary import QualityCell, QualitySummary, Reach, Standing, TaskRate
from ctxsweep.analysis.summary import Summary
from ctxsweep.analysis.wording import signed
from ctxsweep.records_quality import TaskName
from ctxsweep.report.table import Table
from ctxsweep.report.units import PLAIN, TOKENS

MARKS: dict[Standing | None, str] = {"within": "✓ ", "open": "? ", "beyond": "✕ ", None: ""}
DYNAMIC_NOTE = (
    "Dynamic NTK was evaluated at one fixed length each time, as a prefill in one go gives it. An "
    "engine that decodes on keeps the base that earlier keys were cached with, and is not shown "
    "here."
)
TEXT_NOTE = (
    "The text may have been in the model's training data; novels in the public domain, like "
    "Austen's, surely were. What is shown are differences on the same tokens; no perplexity of it "
    "is a claim."
)


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
        f"Harm at {_short(quality)}",
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
    reference = reference_text(quality)
    stretches = "" if quality.stretches == 1 else f" of each of {quality.stretches} stretches"
    harm = ""
    if quality.short_context is not None:
        harm = (
            f" Harm: the same setting on a context of {_short(quality)}, against "
            f"{quality.reference_series} there."
        )
    measured = (
        f"Loss on the last {quality.target_tokens} tokens{stretches} of {quality.text.name}, minus "
        f"that of {reference} (of shorter contexts: there) on the same tokens, with 95% intervals "
        f"(block bootstrap). "
        f"{quality.max_loss:g} nats are allowed: ✓ shown to be within, ? not decided, ✕ shown to "
        f"be beyond.{harm} Prefill and decode: time over that of {quality.reference_series} at the "
        "same context, in this run; the last column: loss against it there. Cells were measured "
        "one after the other: what the machine did meanwhile is in the times, not their intervals."
    )
    dynamic = any(cell.rope_type == "dynamic" for cell in quality.cells)
    return (measured, TEXT_NOTE, *((DYNAMIC_NOTE,) if dynamic else ()))


def reference_text(quality: QualitySummary) -> str:
    """``none at 8K``."""
    return f"{quality.reference_series} at {TOKENS.text(quality.reference_context)}"


def _short(quality: QualitySummary) -> str:
    return "–" if quality.short_context is None else TOKENS.text(quality.short_context)


def _row(
    quality: QualitySummary, cell: QualityCell, tasks: tuple[TaskName, ...]
) -> tuple[str, ...]:
    own = (cell.series, cell.context_tokens)
    is_reference = quality.is_reference(*own)
    ratio = cell.perplexity_ratio
    return (
        cell.series,
        TOKENS.text(cell.context_tokens),
        "–" if cell.factor is None else f"{cell.factor:g}",
        "reference" if is_reference else MARKS[cell.standing] + _stacked(nats(cell.difference)),
        "–" if ratio is None or is_reference else times(ratio).split(" (")[0],
        *(exact_text(quality.rate(task, *own)) for task in tasks),
        "–" if cell.series == quality.reference_series else _stacked(nats(cell.harm)),
        _stacked(times(cell.prefill_ratio)),
        _stacked(times(cell.decode_ratio)),
        _stacked(nats(cell.beside)),
    )


def _stacked(text: str) -> str:
    """The interval under its value."""
    return text.replace(" (", "\n").rstrip(")")


def nats(estimate: Estimate | None) -> str:
    """``+0.008 (−0.010 to +0.026)``."""
    if estimate is None:
        return "–"
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return signed(estimate.value)
    return f"{signed(estimate.value)} ({signed(estimate.low)} to {signed(estimate.high)})"


def times(ratio: Estimate | None) -> str:
    """``1.02× (1.01 to 1.03)``; from 10 on three digits: ``167×``."""
    if ratio is None:
        return "–"
    text = f"{_digits(ratio.value)}×"
    if ratio.low is None or ratio.high is None or ratio.low == ratio.high:
        return text
    return f"{text} ({_digits(ratio.low)} to {_digits(ratio.high)})"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else PLAIN.text(value)


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


def effective_text(reach: Reach, quality: QualitySummary) -> str:
    """``8K``, ``at least 16K``, or that there is none."""
    if reach.effective_tokens is None:
        contexts = [c.context_tokens for c in quality.cells if c.series == reach.series]
        return f"not even {TOKENS.text(min(contexts))}"
    text = TOKENS.text(reach.effective_tokens)
    return f"at least {text}" if reach.at_least else text


def breaks_text(reach: Reach, quality: QualitySummary) -> str:
    """``breaks at 10.5K of 16K``, or that it does not."""
    longest = TOKENS.text(reach.longest_tokens)
    if not any(curve.series == reach.series for curve in quality.positions):
        return f"positions of {longest} were not compared"
    if reach.breaks_at is None:
        return f"no break in {longest}"
    if reach.breaks_at == 0:
        return f"broken from the start of {longest}"
    return f"breaks at {TOKENS.text(reach.breaks_at)} of {longest}"
