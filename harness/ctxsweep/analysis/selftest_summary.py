"""What a selftest found: its figures, and the sentences that say them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
from pydantic import Field

from ctxsweep.analysis.comparison import Scatter
from ctxsweep.analysis.samples import contended_share
from ctxsweep.analysis.selftest import (
    MIN_ROUNDS,
    Line,
    Rounds,
    Slower,
    decide,
    draw,
    in_turns,
    metrics_of,
    process_scatter,
    rounds_of,
    slowdowns,
)
from ctxsweep.analysis.simulate_compare import interval
from ctxsweep.frozen import Frozen
from ctxsweep.records import Record
from ctxsweep.scenario_regression import Regression

INJECTED = (0.02, 0.05, 0.10)
WHERE = ("one cell", "all cells")
GRID = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10, 0.12, 0.15, 0.20, 0.30, 0.50, 1.0)
"""Slowdowns that are tried, the smallest first, until one is told."""
TOLD = 0.8
WORK, FEWEST, MOST = 8000, 60, 500
"""Lines judged for a figure, and bounds of the resamplings that this makes."""
WORDS = {"itl_s": "decode", "prefill_s": "prefill"}


class Alarms(Frozen):
    """Resampled comparisons of equal builds, and in how many of them something was SLOW."""

    resamplings: int
    alone: int = Field(description="By the table alone.")
    settled: int = Field(description="After suspects were measured again.")


class Caught(Frozen):
    """Of resampled comparisons the share in which a slowed cell was named."""

    metric: str
    where: str = Field(description="What was slowed: one cell, drawn by lot, or all of them.")
    slowdown: float
    resamplings: int
    alone: float
    settled: float


class Detectable(Frozen):
    """The smallest slowdown of one cell that is named in 80% of cases; None: none up to 100%."""

    metric: str
    in_turns: float | None = Field(description="With all the time given to turns of two builds.")
    compared: float | None = Field(description="By two runs, and rounds of suspects.")


class SelfTest(Frozen):
    """All of ``selftest.json``."""

    schema_version: int = 1
    scenario: str
    machine: str
    measured_s: float
    rounds: int
    whole_rounds: int
    cells_left_out: int = Field(description="Without figures in most rounds.")
    lines: int
    sentinels: int = Field(description="Of either run of a resampled comparison.")
    recheck_rounds: int
    contended: float | None = Field(description="Share of samples that shared the processor.")
    scatter: tuple[Scatter, ...]
    alarms: Alarms
    caught: tuple[Caught, ...]
    detectable: tuple[Detectable, ...]


def self_test(
    measured: Sequence[tuple[Sequence[Record], Sequence[Record]]],
    plan: Regression,
    scenario: str,
    machine: str,
    measured_s: float,
    seed: int = 0,
) -> SelfTest:
    """Resample the rounds; each is the two times that its table was measured.

    Raises ``ValueError`` if too few rounds are whole.
    """
    rounds = rounds_of(measured)
    rng = np.random.default_rng(seed)
    metrics = metrics_of(rounds)
    shares = [contended_share(r) for pair in measured for side in pair for r in side]
    known = [share for share in shares if share is not None]
    return SelfTest(
        scenario=scenario,
        machine=machine,
        measured_s=measured_s,
        rounds=len(measured),
        whole_rounds=len(rounds.tables),
        cells_left_out=rounds.cells_left_out,
        lines=len(rounds.lines),
        sentinels=rounds.sentinels,
        recheck_rounds=rounds.again,
        contended=float(np.mean(known)) if known else None,
        scatter=tuple(process_scatter(rounds, metric) for metric in metrics),
        alarms=false_alarms(rounds, plan, rng),
        caught=tuple(
            caught(rounds, metric, where, size, plan, rng)
            for metric in metrics
            for where in WHERE
            for size in INJECTED
        ),
        detectable=tuple(detectable(rounds, metric, plan, rng) for metric in metrics),
    )


def false_alarms(rounds: Rounds, plan: Regression, rng: np.random.Generator) -> Alarms:
    """Made-up comparisons of equal builds."""
    count = resamplings(rounds)
    found = [decide(rounds, draw(rounds, rng), {}, plan) for _ in range(count)]
    return Alarms(
        resamplings=count,
        alone=sum(bool(one.alone) for one in found),
        settled=sum(bool(one.settled) for one in found),
    )


def caught(
    rounds: Rounds,
    metric: str,
    where: str,
    size: float,
    plan: Regression,
    rng: np.random.Generator,
) -> Caught:
    """Made-up comparisons in which something is slower."""
    count = max(FEWEST, resamplings(rounds) // 4)
    alone = settled = 0
    for slower in islice(slowdowns(rounds, metric, where, size, rng), count):
        found = decide(rounds, draw(rounds, rng), slower, plan)
        alone += bool(found.alone & set(slower))
        settled += bool(found.settled & set(slower))
    return Caught(
        metric=metric,
        where=where,
        slowdown=size,
        resamplings=count,
        alone=alone / count,
        settled=settled / count,
    )


def detectable(
    rounds: Rounds, metric: str, plan: Regression, rng: np.random.Generator
) -> Detectable:
    """Try slowdowns of one cell, the smallest first."""

    def turns(slower: Slower) -> frozenset[Line]:
        return in_turns(rounds, slower, plan, rng)

    def compared(slower: Slower) -> frozenset[Line]:
        return decide(rounds, draw(rounds, rng), slower, plan).settled

    def smallest(tell: Callable[[Slower], frozenset[Line]]) -> float | None:
        count = max(FEWEST, resamplings(rounds) // 4)
        for size in GRID:
            missed = 0
            for slower in islice(slowdowns(rounds, metric, "one cell", size, rng), count):
                missed += not tell(slower) & set(slower)
                if missed > (1 - TOLD) * count:
                    break
            else:
                return size
        return None

    return Detectable(metric=metric, in_turns=smallest(turns), compared=smallest(compared))


def resamplings(rounds: Rounds) -> int:
    """As many as take some seconds."""
    return min(MOST, max(FEWEST, WORK // len(rounds.lines)))


def sentences(found: SelfTest) -> list[str]:
    """For people."""
    minutes = f"{found.measured_s / 60:.1f} minutes"
    scatter = " and ".join(f"{s.relative:.1%} in {WORDS[s.metric]}" for s in found.scatter)
    alarms = found.alarms
    said = [
        f"In {minutes}, all spent on two builds in turns ({found.whole_rounds} rounds), this "
        f"machine can tell {_changes(found, 'in_turns')} ({TOLD:.0%} of the time). From process to "
        f"process the same comes out {scatter} apart.",
        f"By ctxsweep compare (a run each, {found.recheck_rounds} rounds of suspects) it can tell "
        f"{_changes(found, 'compared')}.",
        f"Of {alarms.resamplings} resampled comparisons of equal builds "
        f"{_share(alarms.settled, alarms.resamplings)} raised an alarm after suspects were "
        f"measured again, {_share(alarms.alone, alarms.resamplings)} by the table alone.",
    ]
    if found.contended is not None and found.contended > 0.1:
        said.append(
            f"{found.contended:.0%} of the samples had to share the processor: on a quieter "
            "machine these figures would be better."
        )
    if found.cells_left_out:
        said.append(f"Cells without figures, left out: {found.cells_left_out}.")
    if found.whole_rounds < found.rounds:
        left_out = found.rounds - found.whole_rounds
        said.append(f"Rounds in which other cells failed, left out: {left_out}.")
    return said


def _changes(found: SelfTest, how: str) -> str:
    parts = []
    for one in found.detectable:
        size = one.in_turns if how == "in_turns" else one.compared
        word = WORDS[one.metric]
        none = f"nothing under {GRID[-1]:.0%} in {word}"
        parts.append(none if size is None else f"{word} slower by {size:.0%}")
    return " and ".join(parts)


def _share(hits: int, count: int) -> str:
    low, high = interval(hits, count)
    return f"{hits} ({hits / count:.1%} [{low:.1%}–{high:.1%}])"


def too_short(round_s: float) -> str:
    """What to tell a person whose minutes do not hold enough rounds."""
    minutes = (MIN_ROUNDS + 1) * round_s / 60
    return (
        f"one round takes {round_s:.0f} s, and {MIN_ROUNDS} are needed: give {minutes:.1f} minutes"
    )
