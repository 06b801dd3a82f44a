"""Where one series overtakes another: as lines for the terminal, as texts for the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from ctxsweep.analysis.summary import Crossover, Summary
from ctxsweep.report.table import Table
from ctxsweep.report.units import TOKENS

HEADS = {"itl_s": "Per generated token", "prefill_s": "Prefill", "held_bytes": "Memory held"}
LATER = "  from: clearly cheaper from there on; equal or too close to tell below"
NONE = "no pair crosses in the range that was measured"


def crossing_lines(summary: Summary) -> list[str]:
    """A line for each pair that crosses, with its interval; empty where there are no pairs.

    Then, gathered by the one that is cheaper in the end, the pairs of which it is clear only from
    some context on: there too one may overtake the other, and the data say no more than where it
    has.
    """
    lines: list[str] = []
    later = False
    for metric, head in HEADS.items():
        pairs = [c for c in summary.crossovers if c.metric == metric]
        if not pairs:
            continue
        said = [_crossing(c) for c in pairs if c.context_tokens is not None]
        clear = _clear_later(pairs)
        later, said = later or bool(clear), said + clear
        lines += [f"  {head}", *(f"    {text}" for text in said or [NONE])]
    lines += [LATER] if later else []
    return ["Where one overtakes another, with 95% intervals", *lines] if lines else []


def crossing_tables(summary: Summary, title: Callable[[str], str]) -> tuple[Table, ...]:
    """The pairs that cross, those of which it is clear later, and those that never do.

    ``title`` says what people call a metric.
    """
    crossing = [c for c in summary.crossovers if c.context_tokens is not None]
    later = [c for c in summary.crossovers if c.clear_from_tokens is not None]
    apart = [c for c in summary.crossovers if c not in crossing and c not in later]
    note = "Where two series cost the same. Below it the one is cheaper, above it the other."
    if summary.crossovers and not crossing:
        note = "No two series are seen to cross in the range that was measured."
    heads = ("What", "Below", "Crossing at, tokens", "Interval", "Above", "In words")
    return (
        Table(
            "crossovers",
            "Crossovers",
            heads,
            [_crossing_row(c, title(c.metric)) for c in crossing],
            (note,) if summary.crossovers else (),
        ),
        Table(
            "clear-later",
            f"Clear only from some context on ({len(later)})",
            ("What", "Cheaper", "Of the two", "From, tokens", "In words"),
            [_later_row(c, title(c.metric)) for c in later],
            ("Below that context the two are equal or too close to tell: one may overtake there.",)
            if later
            else (),
            folded=True,
        ),
        Table(
            "no-crossing",
            f"No crossing in range ({len(apart)})",
            ("What", "Series", "And", "In words"),
            [(title(c.metric), c.first, c.second, c.evidence) for c in apart],
            folded=True,
        ),
    )


def _crossing_row(crossover: Crossover, title: str) -> tuple[str, ...]:
    at = crossover.context_tokens
    assert at is not None
    return (
        title,
        crossover.cheaper_below or "–",
        TOKENS.text(at.value),
        interval_text(crossover),
        crossover.cheaper_above or "–",
        crossover.evidence,
    )


def _later_row(crossover: Crossover, title: str) -> tuple[str, ...]:
    start = crossover.clear_from_tokens
    assert start is not None
    return (
        title,
        crossover.cheaper_above or "–",
        f"{crossover.first}, {crossover.second}",
        TOKENS.text(start),
        crossover.evidence,
    )


def at_text(crossover: Crossover) -> str:
    """``8.26K [8K, 16K]``; of figures without noise the measured contexts on either side."""
    at = crossover.context_tokens
    assert at is not None
    return f"{TOKENS.text(at.value)} [{interval_text(crossover, ', ')}]"


def interval_text(crossover: Crossover, word: str = " to ") -> str:
    """``8K to 16K``: the interval, or the measured contexts between which the two change over."""
    at = crossover.context_tokens
    if at is not None and at.low is not None and at.high is not None:
        return f"{TOKENS.text(at.low)}{word}{TOKENS.text(at.high)}"
    if crossover.between_tokens is not None:
        return word.join(TOKENS.text(n) for n in crossover.between_tokens)
    return "no interval"


def _crossing(crossover: Crossover) -> str:
    pair = f"{crossover.cheaper_above} overtakes {crossover.cheaper_below}"
    return f"{pair} at {at_text(crossover)}{_batch(crossover.batch_size)}"


def _clear_later(pairs: list[Crossover]) -> list[str]:
    """``mamba2 is cheaper than gqa, moe from 4K``, the lowest contexts first."""
    found: dict[tuple[int, str, int], list[str]] = defaultdict(list)
    for pair in pairs:
        if pair.clear_from_tokens is not None and pair.cheaper_above is not None:
            loser = pair.second if pair.cheaper_above == pair.first else pair.first
            found[pair.clear_from_tokens, pair.cheaper_above, pair.batch_size].append(loser)
    return [
        f"{winner} is cheaper than {', '.join(losers)} from {TOKENS.text(start)}{_batch(size)}"
        for (start, winner, size), losers in sorted(found.items())
    ]


def _batch(size: int) -> str:
    return "" if size == 1 else f" (batch {size})"
