"""What a machine can tell, of made-up rounds whose scatter is known."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest

from ctxsweep.analysis import level_table, selftest
from ctxsweep.analysis.change import ENDLESS, Between
from ctxsweep.analysis.compare_cells import compare_cells
from ctxsweep.analysis.lines import Run, judged
from ctxsweep.analysis.selftest import Rounds, decide, draw, in_turns, rounds_of, slowdowns
from ctxsweep.analysis.selftest_summary import (
    Caught,
    SelfTest,
    caught,
    detectable,
    false_alarms,
    self_test,
    sentences,
    too_short,
)
from ctxsweep.records import Record, Status
from ctxsweep.scenario_regression import Regression

PLAN = Regression()
CELLS = (("a", 512), ("a", 2048), ("b", 512), ("b", 2048))
Tables = list[tuple[tuple[Record, ...], tuple[Record, ...]]]
Make = Callable[..., Record]


def rounds_with(
    make: Make, process: float, noise: float = 0.03, count: int = 30, drift: float = 0.0
) -> Tables:
    """Rounds whose processes come out ``process`` apart and whose machine gets slower."""
    rng = np.random.default_rng(3)
    seeds = iter(range(10**6))

    def table(place: int) -> tuple[Record, ...]:
        records = []
        for series, context in CELLS:
            apart = float(np.exp(process * rng.standard_normal() + drift * place / count))
            chunk, step = 0.01 * apart, 0.002 * apart
            records.append(
                make(
                    series,
                    context,
                    chunk_s=lambda at, s=chunk: s,
                    step_s=lambda at, s=step: s,
                    noise=noise,
                    climbs=3,
                    steps=30,
                    seed=next(seeds),
                )
            )
        return tuple(records)

    return [(table(place), table(place)) for place in range(count)]


@pytest.fixture
def steady(make_record: Make) -> Rounds:
    return rounds_of(rounds_with(make_record, 0.005))


def few(rounds: Rounds) -> int:
    """Resamplings that keep a test quick."""
    return 60


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxsweep.analysis.selftest_summary.resamplings", few)


def test_every_line_of_every_round(steady: Rounds) -> None:
    assert len(steady.tables) == 30
    assert set(steady.lines) == {(s, n, m) for s, n in CELLS for m in ("itl_s", "prefill_s")}
    assert steady.watched == ("a", 512)
    assert (steady.again, steady.sentinels) == (8, 6)


def test_nothing_is_drawn_twice_and_rounds_stay_whole(steady: Rounds) -> None:
    rng = np.random.default_rng(0)
    pairs = {frozenset(map(id, pair)) for pair in steady.tables}
    turned = set()
    for _ in range(20):
        drawn = draw(steady, rng)
        first = [drawn.base, drawn.new, *drawn.sentinels[0], *drawn.sentinels[1]]
        again = [table for pair in drawn.again for table in pair]
        assert len({id(table) for table in (*first, *again)}) == 2 + 2 * 6 + 2 * 8
        assert all(frozenset(map(id, pair)) in pairs for pair in drawn.again)
        turned |= {pair in steady.tables for pair in drawn.again}
    assert turned == {True, False}


@pytest.mark.parametrize("count", [6, 7, 8, 12, 40])
def test_any_number_of_rounds_is_enough_for_a_draw(make_record: Make, count: int) -> None:
    rounds = rounds_of(rounds_with(make_record, 0.01, count=count))
    drawn = draw(rounds, np.random.default_rng(0))
    assert len(drawn.again) >= 2
    assert all(len(run) == rounds.sentinels >= 3 for run in drawn.sentinels)
    assert decide(rounds, drawn, dict.fromkeys(rounds.lines, 2.0), PLAN).alone


def test_too_few_whole_rounds_are_refused(make_record: Make) -> None:
    measured = rounds_with(make_record, 0.01, count=7)
    failed = measured[0][0][0].model_copy(update={"status": Status.OOM, "samples": ()})
    hurt = [((failed, *first[1:]), second) for first, second in measured]
    assert len(rounds_of([*measured[:6], hurt[6]]).tables) == 6
    with pytest.raises(ValueError, match="5 of 7 rounds are whole, and 6 are needed"):
        rounds_of([*measured[:5], *hurt[5:]])
    assert hurt[0][0][0].status is Status.OOM
    with pytest.raises(ValueError, match="no cell has times in every round"):
        rounds_of(
            [(tuple(r.model_copy(update={"samples": ()}) for r in a), b) for a, b in measured]
        )


def test_a_cell_that_lacks_memory_is_left_out(make_record: Make) -> None:
    failing = [
        tuple(
            tuple(
                r.model_copy(update={"status": Status.OOM, "samples": ()})
                if (r.cell.series.name, r.cell.context_tokens) == ("b", 2048)
                else r
                for r in side
            )
            for side in pair
        )
        for pair in rounds_with(make_record, 0.01, count=6)
    ]
    rounds = rounds_of([(first, second) for first, second in failing])
    assert {line[:2] for line in rounds.lines} == set(CELLS) - {("b", 2048)}
    assert (len(rounds.tables), rounds.cells_left_out) == (6, 1)
    found = self_test([(a, b) for a, b in failing], PLAN, "selftest", "a CPU", 600.0)
    assert "Cells without figures, left out: 1." in " ".join(sentences(found))
    nothing = [tuple(r for r in side if r.status is not Status.OK) for side in failing[0]]
    with pytest.raises(ValueError, match="no cell has figures"):
        rounds_of([(nothing[0], nothing[1])] * 6)


def test_the_same_comes_of_records_that_are_slower(make_record: Make) -> None:
    """A raised level is what longer samples give, and the verdict is that of ``compare``."""
    measured = rounds_with(make_record, 0.005)
    rounds = rounds_of(measured)
    drawn = draw(rounds, np.random.default_rng(1))
    sides = {id(t): k for k, pair in enumerate(rounds.tables) for t in pair}
    where = {id(t): pair.index(t) for pair in rounds.tables for t in pair}

    def records(table: selftest.Table) -> tuple[Record, ...]:
        return measured[sides[id(table)]][where[id(table)]]

    def watched(run: tuple[selftest.Table, ...]) -> tuple[Record, ...]:
        found = [records(table)[0] for table in run]
        cells = [
            r.cell.model_copy(update={"role": "sentinel", "occurrence": k})
            for k, r in enumerate(found)
        ]
        return tuple(r.model_copy(update={"cell": c}) for r, c in zip(found, cells, strict=True))

    for size in (0.0, 0.05, 0.10):
        slower = {("b", 2048, "itl_s"): float(np.log1p(size))}
        longer = [
            slowed(r, size) if place == 3 else r for place, r in enumerate(records(drawn.new))
        ]
        runs = [
            Run("base", "", (*records(drawn.base), *watched(drawn.sentinels[0]))),
            Run("new", "", (*longer, *watched(drawn.sentinels[1]))),
        ]
        lines = compare_cells(runs[:1], runs[1:], PLAN, (), ()).lines
        timed = [line for line in lines if not line.settled]
        changes = judged(timed, PLAN.alarm_rate)
        slow = {(c.series, c.context_tokens, c.metric) for c in changes if c.outcome == "SLOW"}
        assert decide(rounds, drawn, slower, PLAN).alone == slow
        assert slow == (set(slower) if size == 0.10 else slow)


def slowed(record: Record, size: float) -> Record:
    """With longer decode steps."""
    longer = tuple(
        s.model_copy(update={"wall_s": s.wall_s * (1 + size)}) if s.phase == "decode" else s
        for s in record.samples
    )
    return record.model_copy(update={"samples": longer})


def test_slowdowns_hit_what_they_say(steady: Rounds) -> None:
    rng = np.random.default_rng(0)
    ones = list(islice(slowdowns(steady, "itl_s", "one cell", 0.1, rng), 60))
    assert all(len(one) == 1 for one in ones)
    assert {line for one in ones for line in one} == {(*cell, "itl_s") for cell in CELLS}
    everything = next(slowdowns(steady, "prefill_s", "all cells", 0.1, rng))
    assert everything == {(*cell, "prefill_s"): pytest.approx(np.log(1.1)) for cell in CELLS}


def test_a_steady_machine_tells_little_changes(steady: Rounds) -> None:
    rng = np.random.default_rng(0)
    alarms = false_alarms(steady, PLAN, rng)
    assert alarms.resamplings == 60 and alarms.settled <= 1 and alarms.alone <= 3
    row = caught(steady, "itl_s", "one cell", 0.10, PLAN, rng)
    assert row.alone == row.settled == 1.0
    assert caught(steady, "itl_s", "one cell", 0.02, PLAN, rng).settled <= 0.1
    found = detectable(steady, "itl_s", PLAN, rng)
    assert found.in_turns in (0.04, 0.05) and found.compared in (0.04, 0.05, 0.06)


def test_a_restless_machine_tells_only_large_ones(make_record: Make) -> None:
    rounds = rounds_of(rounds_with(make_record, 0.10))
    rng = np.random.default_rng(0)
    assert false_alarms(rounds, PLAN, rng).settled <= 2
    found = detectable(rounds, "itl_s", PLAN, rng)
    assert found.in_turns is not None and found.in_turns >= 0.08
    assert found.compared is None or found.compared >= 0.2
    assert selftest.process_scatter(rounds, "itl_s").relative == pytest.approx(0.10, rel=0.2)


def test_what_the_rule_leaves_out_would_show(
    make_record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = rounds_of(rounds_with(make_record, 0.05))
    rng = np.random.default_rng(0)
    assert false_alarms(rounds, PLAN, rng).alone <= 3
    monkeypatch.setattr(level_table, "between", lambda found: Between(0.0, ENDLESS))
    assert false_alarms(rounds, PLAN, rng).alone > 15


def test_drift_falls_on_both_turns(make_record: Make) -> None:
    """30% slower by the end: rounds in turns still tell 10%."""
    rounds = rounds_of(rounds_with(make_record, 0.005, drift=0.30))
    rng = np.random.default_rng(0)
    slower = {("a", 2048, "itl_s"): float(np.log(1.10))}
    assert in_turns(rounds, slower, PLAN, rng) == set(slower)
    assert in_turns(rounds, {}, PLAN, rng) == set()
    assert false_alarms(rounds, PLAN, rng).settled <= 1


def test_what_is_said(make_record: Make) -> None:
    found = self_test(rounds_with(make_record, 0.005), PLAN, "selftest", "a CPU", 600.0)
    assert SelfTest.model_validate_json(found.model_dump_json()) == found
    assert (found.rounds, found.whole_rounds, found.lines) == (30, 30, 8)
    assert {(c.metric, c.where, c.slowdown) for c in found.caught} == {
        (m, w, s)
        for m in ("itl_s", "prefill_s")
        for w in ("one cell", "all cells")
        for s in (0.02, 0.05, 0.10)
    }
    assert all(isinstance(one, Caught) and one.resamplings == 60 for one in found.caught)
    text = " ".join(sentences(found))
    assert "In 10.0 minutes, all spent on two builds in turns (30 rounds)" in text
    assert re.search(r"can tell prefill slower by \d% and decode slower by \d% \(80% of", text)
    assert "of 60" in text.lower()
    poor = found.model_copy(
        update={
            "contended": 0.4,
            "rounds": 33,
            "detectable": tuple(d.model_copy(update={"compared": None}) for d in found.detectable),
        }
    )
    said = " ".join(sentences(poor))
    assert "nothing under 100% in decode" in said and "40% of the samples" in said
    assert "Rounds in which other cells failed, left out: 3." in said


def test_minutes_that_are_too_few() -> None:
    assert too_short(24.0) == "one round takes 24 s, and 6 are needed: give 2.8 minutes"
