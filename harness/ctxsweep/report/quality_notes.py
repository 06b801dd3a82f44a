"""What limits the figures of quality, and how far a series holds: for page and terminal alike."""

from __future__ import annotations

from collections import defaultdict

from ctxsweep.analysis.quality_summary import QualitySummary, Reach, Standing
from ctxsweep.analysis.wording import listed
from ctxsweep.report.units import TOKENS

MARKS: dict[Standing | None, str] = {"within": "✓ ", "open": "? ", "beyond": "✕ ", None: ""}
DYNAMIC_NOTE = (
    "Dynamic NTK was evaluated at one fixed length each time, as a prefill in one go gives it. An "
    "engine that decodes on keeps the base that earlier keys were cached with, and is not shown "
    "here."
)
TEXT_NOTE = (
    "A famous text may have been in the model's training; only paired differences are read here."
)
PASSAGE_NOTE = "Intervals are of this passage of this text, 95% each."
MACHINE_NOTE = (
    "Cells were measured one after the other: what the machine did meanwhile is in the times, not "
    "their intervals."
)


def missing_reference(quality: QualitySummary) -> str:
    """That there is nothing to compare with, if so."""
    if quality.cell(quality.reference_series, quality.reference_context) is not None:
        return ""
    compared = any(cell.difference is not None for cell in quality.cells)
    start = f"from {TOKENS.text(quality.reference_context)} on " if compared else ""
    text = f"{reference_text(quality)}, the reference, was not measured"
    return f"{text}: {start}no loss can be compared."


def reference_text(quality: QualitySummary) -> str:
    """``none at 8K``."""
    return f"{quality.reference_series} at {TOKENS.text(quality.reference_context)}"


def setting_note(quality: QualitySummary, harm_head: str) -> str:
    """What several factors of one series mean, if there are. ``harm_head``: of the column."""
    factors = defaultdict(set)
    for cell in quality.cells:
        factors[cell.series].add(cell.factor)
    if all(len(held) == 1 for held in factors.values()):
        return ""
    where = "was not measured" if quality.short_context is None else f"stands under {harm_head}"
    return (
        "Where a series has several factors, its setting is made anew for each context; what one "
        f"setting does to shorter contexts {where}."
    )


def detail_notes(quality: QualitySummary) -> tuple[str, ...]:
    """What of some cells could not be measured: a sentence for every reason."""
    where: dict[str, list[str]] = {}
    for cell in quality.cells:
        if cell.detail:
            place = f"{cell.series} at {TOKENS.text(cell.context_tokens)}"
            where.setdefault(cell.detail, []).append(place)
    return tuple(
        f"Not all was measured of {listed(places)}: {detail}" for detail, places in where.items()
    )


def dynamic_note(quality: QualitySummary) -> str:
    """Of series with dynamic NTK, if there are."""
    return DYNAMIC_NOTE if any(cell.rope_type == "dynamic" for cell in quality.cells) else ""


def effective_text(reach: Reach, quality: QualitySummary) -> str:
    """``8K``, ``at least 16K``, or that there is none."""
    if reach.effective_tokens is None:
        first = next(cell for cell in quality.cells if cell.series == reach.series)
        shown = first.standing == "beyond"
        return f"not even {TOKENS.text(first.context_tokens)}" if shown else "none shown"
    text = TOKENS.text(reach.effective_tokens)
    return f"at least {text}" if reach.at_least else text


def breaks_text(reach: Reach, quality: QualitySummary) -> str:
    """``breaks at 10.5K of 16K``, or that no break was shown."""
    longest = TOKENS.text(reach.longest_tokens)
    curve = next((c for c in quality.positions if c.series == reach.series), None)
    if curve is None:
        return f"positions of {longest} were not compared"
    start = curve.starts[0]
    if reach.breaks_at is None:
        return f"no break shown in {longest}" + (f" from {TOKENS.text(start)} on" if start else "")
    if reach.breaks_at == 0:
        return f"broken from the start of {longest}"
    text = f"breaks at {TOKENS.text(reach.breaks_at)} of {longest}"
    return f"{text} or before" if reach.breaks_at == start else text
