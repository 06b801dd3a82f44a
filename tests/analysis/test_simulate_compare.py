"""How often the comparison is wrong, in small; the tables of docs/regression.md are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctxsweep.analysis import change, level_table, simulate_compare
from ctxsweep.analysis.change import ENDLESS, Between, Contrast, Level
from ctxsweep.analysis.compare_cells import compare_cells
from ctxsweep.analysis.comparison import Change, Comparison
from ctxsweep.analysis.fits import Array
from ctxsweep.analysis.level_table import LevelLine, Verdicts, judge_levels, settle_levels
from ctxsweep.analysis.lines import Run, judged
from ctxsweep.analysis.recheck import Again, settled, suspects
from ctxsweep.analysis.simulate_compare import (
    CVS,
    DRIFTS,
    NOISES,
    PLACES,
    POWER_CASES,
    POWER_DRIFTS,
    Alarms,
    alarms_line,
    false_alarms,
    interval,
    main,
    named,
    power,
    power_line,
    slow_cells,
)
from ctxsweep.analysis.simulate_machine import CELLS, CONTEXTS, SAMPLES, SENTINELS, Machine
from ctxsweep.analysis.simulate_rules import PLAN, compare_samples
from ctxsweep.records import Cell, Record, Sample, Series, Status

COUNT = 80
LOUD = Machine("normal", 0.10, "none")
ADRIFT = Machine("heavy tails", 0.03, "wave")
STEPPED = Machine("spikes", 0.03, "step")
FEW, MANY = 3, 12
"""Of 80 tables: what a rule that is right in 99 of 100 stays under but in 1 of 100 seeds (and the
seed is fixed), and what one that is wrong in 30 of 100 passes."""


@pytest.fixture(scope="module")
def rows() -> dict[Machine, Alarms]:
    return {machine: false_alarms(machine, COUNT) for machine in (LOUD, ADRIFT, STEPPED)}


def test_equal_builds_hardly_ever_alarm(rows: dict[Machine, Alarms]) -> None:
    assert all(row.tables["with recheck"] <= FEW for row in rows.values())
    assert all(rows[machine].tables["table alone"] <= FEW for machine in (LOUD, ADRIFT))


def test_plain_rules_alarm(rows: dict[Machine, Alarms]) -> None:
    for row in rows.values():
        assert row.tables["Mann-Whitney"] > MANY and row.tables["Welch's t"] > MANY
    assert rows[LOUD].tables["5% on means"] > MANY


def test_a_machine_that_steps_alarms_until_it_is_measured_in_turns(
    rows: dict[Machine, Alarms],
) -> None:
    """Why suspects are measured again: no table of two nights can tell this from a build."""
    assert rows[STEPPED].tables["table alone"] > COUNT / 2


def test_without_the_scatter_between_processes_it_would_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(level_table, "between", lambda found: Between(0.0, ENDLESS))
    assert false_alarms(ADRIFT, COUNT).tables["table alone"] > MANY


def test_without_the_whole_table_in_view_it_would_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(p_values: Sequence[float], rate: float) -> list[bool]:
        return [p <= 0.05 for p in p_values]

    monkeypatch.setattr(change, "significant", one_by_one)
    assert false_alarms(LOUD, COUNT).tables["table alone"] > MANY


def test_with_rounds_taken_for_surer_than_they_are_it_would_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With three rounds, whose scatter the threshold alone does not hold."""

    def surer(differences: Sequence[float]) -> Contrast:
        found = change.paired_contrast(differences)
        return replace(found, error=found.error / 10)

    monkeypatch.setattr(simulate_compare, "PLAN", PLAN.model_copy(update={"recheck_rounds": 3}))
    assert false_alarms(LOUD, COUNT).tables["with recheck"] <= FEW
    monkeypatch.setattr(level_table, "paired_contrast", surer)
    assert false_alarms(LOUD, COUNT).tables["with recheck"] > 2 * FEW


def test_a_slowdown_of_five_percent_is_named() -> None:
    for where in PLACES:
        row = power(Machine("normal", 0.03, "none"), 0.05, where, 60)
        assert row.any_named["with recheck"] >= 0.95 and row.named["with recheck"] >= 0.95
        assert row.any_named["table alone"] >= 0.88 and row.named["table alone"] >= 0.88


def test_a_slowdown_under_the_threshold_is_not() -> None:
    row = power(Machine("normal", 0.03, "none"), 0.02, "one cell", 60)
    assert row.any_named["with recheck"] <= 0.05
    assert row.any_named["Mann-Whitney"] > 0.5


def test_the_slower_side_alone_is_named() -> None:
    faster = named(Machine("normal", 0.03, "none"), np.full((10, CELLS), 0.9), _rng())
    assert not any(flags.any() for flags in faster.values())


@pytest.mark.parametrize("machine", [LOUD, ADRIFT], ids=lambda m: m.drift)
def test_the_same_comes_of_records(machine: Machine) -> None:
    """Over the functions that ``compare`` and the recheck call on what was measured."""
    rng, count = _rng(), 6
    slower = np.where(slow_cells("one series", count, rng), 1.10, 1.0)
    base, new = machine.runs(count, rng), machine.runs(count, rng, later=True)
    cells = new.cells * slower[:, :, None]
    suspicious = 0
    for i in range(count):
        here = compare_samples((base.cells[i], base.sentinels[i]), (cells[i], new.sentinels[i]))
        runs = [
            Run(name, "", (*_records(side[i], "measure"), *_records(watch[i], "sentinel")))
            for name, side, watch in (
                ("base", base.cells, base.sentinels),
                ("new", cells, new.sentinels),
            )
        ]
        found = compare_cells(runs[:1], runs[1:], PLAN, (), ())
        comparison = Comparison(
            scenario="",
            base=level_table.SIDE,
            new=level_table.SIDE,
            alarm_rate=PLAN.alarm_rate,
            changes=judged(found.lines, PLAN.alarm_rate),
        )
        chosen = suspects(comparison)
        assert _slow(comparison) == {k for k, o in enumerate(here.first.outcomes) if o == "SLOW"}
        assert sorted(_place(c) for c in chosen) == sorted(here.first.chosen)
        turns = machine.turns(new, i, (PLAN.recheck_rounds, len(chosen)), rng)
        turns[1] *= slower[i, here.first.chosen][:, None]
        rounds = [
            Again(*(_records(side[r], "measure", here.first.chosen) for side in turns))
            for r in range(PLAN.recheck_rounds)
        ]
        after = settled(comparison, chosen, rounds)
        assert _slow(after) == {k for k, o in enumerate(here.settled(turns)) if o == "SLOW"}
        suspicious += len(chosen)
    assert suspicious > count


def test_alarms_of_a_curve_fall_with_its_suspects() -> None:
    line = LevelLine("a", 1024, "itl_s", Level(0.0), Level(1.0))
    lines = [line, line, line, replace(line, series="b")]
    first = Verdicts(("SLOW",) * 4, (0, 1))
    same, slow = [0.0, 0.01, -0.01, 0.0], [0.5, 0.51, 0.5, 0.49]
    assert settle_levels(lines, first, [same, same], PLAN) == ("SAME", "SAME", "AMBG", "SLOW")
    assert settle_levels(lines, first, [same, slow], PLAN) == ("SAME", "SLOW", "SLOW", "SLOW")
    assert settle_levels(lines, Verdicts(first.outcomes), [], PLAN) == first.outcomes


def test_levels_without_any_error_alarm_nobody() -> None:
    known = [[Level(0.0)] * 3, [Level(0.0)] * 3]
    lines = [LevelLine("a", 1024, "itl_s", Level(0.0), Level(1.0))]
    assert judge_levels(lines, {"itl_s": known}, PLAN) == Verdicts(("AMBG",))


def test_the_machine_does_what_it_says() -> None:
    rng = _rng()
    runs = Machine("spikes", 0.02, "none").runs(200, rng)
    assert runs.cells.shape == (200, CELLS, SAMPLES)
    assert runs.sentinels.shape == (200, SENTINELS, SAMPLES)
    late = np.log(runs.cells) > 0.02 * 4
    assert 0.03 < late.mean() < 0.06
    step = Machine("normal", 0.01, "step")
    assert np.log(step.runs(50, rng, later=True).cells).mean() == pytest.approx(0.03, abs=0.002)
    assert np.log(step.runs(50, rng).cells).mean() == pytest.approx(0.0, abs=0.002)
    turns = step.turns(step.runs(1, rng), 0, (8, 3), rng)
    assert turns.shape == (2, 8, 3, SAMPLES)
    waving = np.log(Machine("normal", 0.001, "wave").runs(50, rng).cells).mean(axis=2)
    assert 0.012 < waving.std() < 0.025


def test_in_turns_the_wave_falls_on_both() -> None:
    rng, machine = _rng(), Machine("normal", 0.001, "wave")
    runs = machine.runs(40, rng)
    turns = np.log(np.stack([machine.turns(runs, i, (8, 4), rng) for i in range(40)]).mean(axis=-1))
    apart = (turns[:, 1] - turns[:, 0]).std()
    assert apart < 1.3 * np.sqrt(2) * 0.01 < turns.std() * np.sqrt(2)


def test_intervals_of_shares() -> None:
    assert interval(0, 1000) == (0.0, pytest.approx(0.00368, abs=1e-5))
    low, high = interval(10, 1000)
    assert low == pytest.approx(0.0048, abs=1e-4) and high == pytest.approx(0.0183, abs=1e-4)
    assert interval(5, 5)[1] == 1.0


def test_lines_have_a_column_for_every_heading(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["simulate_compare", "--count", "1"])
    main()
    tables = capsys.readouterr().out.strip().split("\n\n")
    lines = [table.splitlines() for table in tables]
    assert [len(table) for table in lines] == [2 + 45, 2 + 36]
    for table in lines:
        assert {line.count("|") for line in table} == {table[0].count("|")}


def test_lines_say_what_was_counted() -> None:
    row = false_alarms(STEPPED, 5)
    assert alarms_line(row).startswith("| step | spikes | 3% | ")
    one = power(LOUD, 0.5, "one cell", 5)
    assert power_line(one) == "| none | one cell | 50% | 10% |" + " 100.0% |" * 5


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def _records(samples: Array, role: str, cells: Sequence[int] | None = None) -> tuple[Record, ...]:
    """Of samples ``[cells, n]``; sentinels are one cell measured again and again."""
    which = range(len(samples)) if cells is None else cells
    watched = role == "sentinel"
    return tuple(
        Record(
            cell=Cell(
                scenario="simulated",
                series=Series(name=f"series {0 if watched else cell // CONTEXTS}", model="m"),
                context_tokens=1024 << (0 if watched else cell % CONTEXTS),
                generate_tokens=SAMPLES,
                procedure="ladder",
                role=role,  # type: ignore[arg-type]
                occurrence=cell if watched else 0,
            ),
            status=Status.OK,
            samples=tuple(
                Sample(phase="decode", position=i, tokens=1, wall_s=wall_s, cpu_s=None)
                for i, wall_s in enumerate(times.tolist())
            ),
        )
        for cell, times in zip(which, samples, strict=True)
    )


def _place(line: Change) -> int:
    assert line.context_tokens is not None
    return int(line.series.split()[1]) * CONTEXTS + int(np.log2(line.context_tokens)) - 10


def _slow(comparison: Comparison) -> set[int]:
    return {_place(c) for c in comparison.changes if c.outcome == "SLOW"}


def test_the_documented_tables_are_whole_and_keep_what_is_promised() -> None:
    """At most 1% of tables alarm after rechecks; 5% at a CV of 3% is named in 95 of 100."""
    page = Path(__file__).parents[2] / "docs" / "regression.md"
    rows = [
        [column.strip() for column in line.strip("|").split("|")]
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match(r"\| (none|wave|step) \|", line)
    ]
    alarms = [row for row in rows if row[1] in NOISES]
    named_ = [row for row in rows if row[1] in PLACES]
    assert [row[:3] for row in alarms] == [
        [d, n, f"{cv:.0%}"] for d in DRIFTS for n in NOISES for cv in CVS
    ]
    assert [row[:4] for row in named_] == [
        [d, where, f"{by:.0%}", f"{cv:.0%}"]
        for d in POWER_DRIFTS
        for where in PLACES
        for by, cv in POWER_CASES
    ]
    assert all(float(row[4].split("%")[0]) <= 1.0 for row in alarms)
    judged_by = [row for row in named_ if row[:4] == ["none", "one cell", "5%", "3%"]]
    assert [float(row[5].rstrip("%")) >= 95.0 for row in judged_by] == [True]
