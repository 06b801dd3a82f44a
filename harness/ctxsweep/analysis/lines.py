"""Lines of a comparison before they are judged, and the judgement of all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ctxsweep.analysis.change import Contrast, is_suspect, judge
from ctxsweep.analysis.comparison import Change, Outcome
from ctxsweep.analysis.interval import Estimate
from ctxsweep.records import Record

UNKNOWN_SCATTER = (
    "beyond chance only if two runs scatter as little as their cells: without a sentinel nobody "
    "knows; measure it again (--recheck)"
)
UNBORNE_CLASS = "another class, but no cell of the curve is slower beyond chance"


@dataclass(frozen=True)
class Run:
    """What a comparison needs of a run."""

    run_id: str
    started_at: str
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Line:
    """A change without its outcome. ``contrast`` None: it is settled by itself, or has no error.

    ``shift`` is what the machine itself changed by, as a logarithm. ``unsure``: nothing measured
    how far apart two processes come out, so that the error is a guess.
    """

    change: Change
    contrast: Contrast | None = None
    shift: float = 0.0
    settled: bool = False
    unsure: bool = False


def exact_line(change: Change) -> Line:
    """A line of two figures that are read, not sampled: any change past the threshold is one."""
    base, new = change.base, change.new
    if base is None or new is None:
        raise ValueError(f"{change.subject} {change.metric}: both figures are needed")
    if base.value == new.value:
        return _settled(change, "SAME", Estimate(value=1.0))
    if base.value <= 0 or new.value <= 0:
        return _settled(change, "SLOW" if new.value > base.value else "FAST", None)
    ratio = new.value / base.value
    outcome: Outcome = "SAME"
    if abs(np.log(ratio)) > np.log1p(change.threshold):
        outcome = "SLOW" if ratio > 1 else "FAST"
    return _settled(change, outcome, Estimate(value=ratio))


def settled_line(change: Change, outcome: Outcome, why: str = "") -> Line:
    """A line whose outcome follows from words: a status, a class."""
    return _settled(change.model_copy(update={"why": why}), outcome, change.ratio)


def judged(lines: Sequence[Line], alarm_rate: float) -> tuple[Change, ...]:
    """All lines with their outcomes; those with an error are judged as one table."""
    open_ = [line for line in lines if not line.settled]
    outcomes = judge(
        [line.contrast for line in open_],
        [line.change.threshold for line in open_],
        alarm_rate,
        [line.shift for line in open_],
    )
    found = {id(line): outcome for line, outcome in zip(open_, outcomes, strict=True)}
    changes = [
        line.change if line.settled else _with_outcome(line, found[id(line)]) for line in lines
    ]
    return tuple(_classes_borne_out(changes))


def _settled(change: Change, outcome: Outcome, ratio: Estimate | None) -> Line:
    return Line(change.model_copy(update={"outcome": outcome, "ratio": ratio}), settled=True)


def _with_outcome(line: Line, outcome: Outcome) -> Change:
    found = line.contrast
    told: Outcome = "AMBG" if line.unsure and outcome in ("SLOW", "FAST") else outcome
    update = {
        "outcome": told,
        "ratio": found.ratio if found else None,
        "p_value": found.p_worse if found else None,
        "suspect": is_suspect(found, line.change.threshold, outcome, line.shift),
        "why": line.change.why or (_why(line, outcome) if told == outcome else UNKNOWN_SCATTER),
    }
    return line.change.model_copy(update=update)


def _why(line: Line, outcome: Outcome) -> str:
    if outcome != "AMBG":
        return ""
    found = line.contrast
    if found is None:
        return "one reading on each side, and nothing that shows how they scatter"
    limit = line.change.threshold
    if line.shift and abs(found.difference) > np.log1p(limit):
        return f"the machine itself changed by {np.expm1(line.shift):+.0%} meanwhile"
    if abs(found.difference) > np.log1p(limit):
        return "beyond the threshold, not beyond chance"
    return f"a change of more than {limit:.1%} cannot be ruled out"


def _classes_borne_out(changes: Sequence[Change]) -> list[Change]:
    """A curve is of a worse class only if some of its cells got worse too."""
    worse = {
        (change.series, change.batch_size, change.metric)
        for change in changes
        if change.kind == "cell" and change.outcome == "SLOW"
    }
    result = []
    for change in changes:
        metric, _, parameter = change.metric.partition(".")
        alone = (change.series, change.batch_size, metric) not in worse
        if parameter == "class" and change.outcome == "SLOW" and alone:
            change = change.model_copy(update={"outcome": "AMBG", "why": UNBORNE_CLASS})
        result.append(change)
    return result


def shifted(lines: Sequence[Line], shifts: Mapping[str, float]) -> list[Line]:
    """The lines with the machine's own shift, by metric."""
    return [
        replace(line, shift=shifts.get(line.change.metric.partition(".")[0], 0.0))
        if not line.settled
        else line
        for line in lines
    ]
