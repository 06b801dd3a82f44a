"""The words of a comparison, the same in the terminal, on the page and in a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from ctxsweep.analysis.comparison import Change, Comparison, NotCompared, Outcome, Side
from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.wording import quantity
from ctxsweep.report.units import BYTES, TOKENS, Unit

OUTCOMES: dict[Outcome, str] = {
    "SLOW": "worse, whatever the metric: surely so, and by more than the threshold",
    "FAST": "better: surely so, and by more than the threshold",
    "AMBG": "not to be told from these samples",
    "SAME": "equal within the threshold",
}
ORDER: tuple[Outcome, ...] = ("SLOW", "FAST", "AMBG", "SAME")
STATUS_METRIC = "status"
CLASS_SUFFIX = ".class"
_UNITS: dict[str, Unit] = {"bytes": BYTES, "tokens": TOKENS}
SHORT_COMMIT = 10
FEW_REASONS = 2
TIMES = ("prefill_s", "itl_s")
AS_TIMES = 10
LEAST_QUANTITY = 1e-9


def headline(comparison: Comparison) -> str:
    """The first line everywhere: the largest regression by cell, metric and size; or that there is
    none, or that nothing was compared."""
    reasons = _reasons(comparison.not_compared)
    if not comparison.changes:
        return f"Nothing was compared: {reasons or 'the two have nothing in common'}"
    worse = comparison.regressions
    if worse:
        named = _named(worse)
        more = len(worse) - len(named)
        parts = [line(change) for change in named]
        if more:
            parts.append(f"and {more} more")
        return f"{counted(len(worse), 'regression')}: {', '.join(parts)}"
    ambiguous = comparison.count("AMBG")
    left_out = sum(entry.count for entry in comparison.not_compared)
    tail = f"; {left_out} not compared ({reasons})" if left_out else ""
    if ambiguous == len(comparison.changes):
        return f"Nothing can be told: {counted(ambiguous, 'line')}, all AMBG{tail}"
    missing = comparison.new.missing_cells
    if missing:
        tail = f"; the new run is not complete, {counted(missing, 'cell')} missing{tail}"
    if comparison.blind and comparison.not_compared:
        return f"No time was compared; of the rest {counts(comparison)}{tail}"
    return f"No regression: {counts(comparison)}{_untold(comparison)}{tail}"


def _untold(comparison: Comparison) -> str:
    """How many times could not be judged, where that is most of them."""
    times = [c for c in comparison.changes if c.kind == "cell" and c.metric in TIMES]
    untold = sum(change.outcome == "AMBG" for change in times)
    if 2 * untold <= len(times):
        return ""
    return f"; of {len(times)} times of cells {untold} cannot be told"


def counts(comparison: Comparison) -> str:
    """``31 SAME, 2 FAST, 5 AMBG``; outcomes that do not occur are left out."""
    found = ((comparison.count(outcome), outcome) for outcome in ("SLOW", "SAME", "FAST", "AMBG"))
    return ", ".join(f"{count} {outcome}" for count, outcome in found if count)


def line(change: Change) -> str:
    """``gqa at 8K itl_s +10.3% [8.1%, 12.4%] (2.10 ms → 2.32 ms)``, ``gqa at 8K: ok → oom``."""
    if change.metric == STATUS_METRIC:
        return f"{change.subject}: {sides(change)}"
    name = f"{change.subject} {metric_name(change)}"
    if change.ratio is None:
        return f"{name} {sides(change)}"
    return f"{name} {size(change.ratio)} ({sides(change)})"


def metric_name(change: Change) -> str:
    """The metric; of a class that whose class it is, for its words are unmistakable."""
    return change.metric.removesuffix(CLASS_SUFFIX)


def size(ratio: Estimate | None) -> str:
    """``+10.3% [8.1%, 12.4%]``, from tenfold on ``40× [20×, 60×]``; ``–`` without a ratio."""
    if ratio is None:
        return "–"
    share = _times if ratio.value >= AS_TIMES else _share
    text = f"+{share(ratio.value)}" if share is _share and ratio.value > 1 else share(ratio.value)
    if ratio.low is None or ratio.high is None or ratio.low == ratio.high:
        return text
    return f"{text} [{share(ratio.low)}, {share(ratio.high)}]"


def sides(change: Change) -> str:
    """``2.10 ms → 2.32 ms``, ``O(n) → O(n²)``."""
    base, new = side_texts(change)
    return f"{base} → {new}"


def side_texts(change: Change) -> tuple[str, str]:
    """What the base and the new side have: a word where there is one, else the figure."""
    return (
        change.base_word or figure(change.base, change.unit),
        change.new_word or figure(change.new, change.unit),
    )


def figure(estimate: Estimate | None, unit: str) -> str:
    """A value with its unit: ``2.10 ms``, ``512 KiB``, ``320 ns/token``; ``–`` without one."""
    if estimate is None:
        return "–"
    of, per_token = _per_token(unit)
    if of in _UNITS:
        return _UNITS[of].text(estimate.value) + per_token
    if 0 < abs(estimate.value) < LEAST_QUANTITY:
        # Below the smallest prefix: the bend of a curve, in seconds per token².
        return f"{estimate.value:.3g} {of}{per_token}"
    return quantity(estimate.value, of) + per_token


def counted(count: int, name: str) -> str:
    """``1 line``, ``3 lines``."""
    return f"{count} {name}{'' if count == 1 else 's'}"


def ordered(changes: Sequence[Change]) -> list[Change]:
    """SLOW and FAST by size, then AMBG and SAME by series and context."""
    return sorted(changes, key=_place)


def of_outcome(comparison: Comparison, *outcomes: Outcome) -> list[Change]:
    """The lines with one of these outcomes, in the order in which they are shown."""
    return ordered([change for change in comparison.changes if change.outcome in outcomes])


def remark(change: Change) -> str:
    """Why the line has its outcome, and what measuring it again said."""
    parts = [change.why] if change.why else []
    if change.recheck is not None:
        again = change.recheck
        how = "in turn with the base" if again.interleaved else "the new build alone"
        told = f": {size(again.ratio)}" if again.ratio is not None else ", without a figure"
        parts.append(f"measured again, {counted(again.rounds, 'round')} {how}{told}")
    elif change.suspect:
        parts.append("suspect, not measured again")
    return "; ".join(parts)


def side_line(side: Side) -> str:
    """``runs/a: commit 1a2b3c4d5e with uncommitted changes, 2026-01-01T00:00:00Z, 2 runs``."""
    parts = []
    if side.commit:
        changed = " with uncommitted changes" if side.dirty else ""
        parts.append(f"commit {side.commit[:SHORT_COMMIT]}{changed}")
    parts += [text for text in (side.machine, side.started_at) if text]
    if len(side.run_ids) > 1:
        parts.append(f"{len(side.run_ids)} runs")
    return f"{side.label}: {', '.join(parts)}" if parts else side.label


def not_compared_line(entry: NotCompared) -> str:
    """``rwkv7 (6): the base has no such series``."""
    count = f" ({entry.count})" if entry.count > 1 else ""
    return f"{entry.what}{count}: {entry.reason}"


def method_line(comparison: Comparison) -> str:
    """What the table allows of false alarms, and how far apart two equal processes come out."""
    text = f"False alarms allowed: {_bare(comparison.alarm_rate)} of tables of equal builds."
    if not comparison.scatter:
        return text
    apart = "; ".join(
        f"{scatter.metric} {_bare(scatter.relative)} ({scatter.source})"
        for scatter in comparison.scatter
    )
    return f"{text} Two processes that do the same come out apart by: {apart}."


def _named(worse: Sequence[Change]) -> list[Change]:
    """What the headline names: the largest with a size, of a cell before that of a curve; before it
    what has no size, as a class or a cell that ran out of memory."""
    sized = [change for change in worse if change.ratio is not None]
    cells = [change for change in sized if change.kind != "curve"]
    words = [change for change in worse if change.ratio is None]
    return [*words[:1], *(cells or sized)[:1]]


def _reasons(entries: Sequence[NotCompared]) -> str:
    """``rwkv7 (6): the base has no such series; and 2 reasons more``, the most frequent first."""
    most = sorted(entries, key=lambda entry: -entry.count)
    reasons = list(dict.fromkeys(map(not_compared_line, most)))
    more = len(reasons) - FEW_REASONS
    told = [f"and {counted(more, 'reason')} more"] if more > 0 else []
    return "; ".join([*reasons[:FEW_REASONS], *told])


def _place(change: Change) -> tuple[object, ...]:
    shown = ORDER.index(change.outcome)
    largest = -_factor(change) if shown < 2 else 0.0
    at = change.context_tokens or 0
    return (shown, largest, change.series, change.batch_size, at, change.subject)


def _factor(change: Change) -> float:
    """How much worse or better; what has no size comes first."""
    if change.ratio is None or change.ratio.value <= 0:
        return float("inf")
    return max(change.ratio.value, 1 / change.ratio.value)


def _per_token(unit: str) -> tuple[str, str]:
    """A slope's unit in parts: ``s per token`` → ``s``, `` per token``; others as they are."""
    for between in ("/token", " per token"):
        of, found, power = unit.partition(between)
        if found and of and power in ("", "²"):
            return of, found + power
    return unit, ""


def _times(ratio: float) -> str:
    return f"{ratio:,.3g}×" if ratio < 1000 else f"{ratio:,.0f}×"


def _share(ratio: float) -> str:
    """The change as a share: ``8.1%``, ``−3.0%``, ``140%``; ``0%`` of nothing at all."""
    change = (ratio - 1) * 100
    if change == 0:
        return "0%"
    sign = "−" if change < 0 else ""
    return f"{sign}{_digits(abs(change))}%"


def _digits(share: float) -> str:
    """One decimal; of less than a twentieth the first digit that is not zero; of 100 on none."""
    if share < 0.05:
        return f"{share:.1g}" if share >= 1e-4 else "<0.0001"
    return f"{share:,.0f}" if share >= 99.95 else f"{share:.1f}"


def _bare(share: float) -> str:
    return f"{share * 100:.3g}%"
