"""How often the comparison is wrong: simulated tables through the same rule as measured ones.

``python -m ctxsweep.analysis.simulate_compare`` prints the tables of docs/regression.md; it takes
some minutes of one core. What is simulated: ``simulate_machine``; the rules: ``simulate_rules``.

False alarms: both runs are of one build, so any cell that is named SLOW makes the table a false
alarm. Power: some cells of the new build are slower; named is the share of them that is SLOW.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.stats import beta  # type: ignore[import-untyped]

from ctxsweep.analysis.fits import Array
from ctxsweep.analysis.simulate_machine import (
    CELLS,
    CONTEXTS,
    Drift,
    Machine,
    Noise,
)
from ctxsweep.analysis.simulate_rules import (
    PLAN,
    RIVALS,
    Flags,
    compare_samples,
)

Where = Literal["one cell", "one series", "all cells"]

NOISES: tuple[Noise, ...] = get_args(Noise)
DRIFTS: tuple[Drift, ...] = get_args(Drift)
PLACES: tuple[Where, ...] = get_args(Where)
CVS = (0.01, 0.02, 0.03, 0.05, 0.10)
POWER_CASES = ((0.02, 0.03), (0.05, 0.03), (0.10, 0.03), (0.05, 0.01), (0.05, 0.05), (0.05, 0.10))
"""Slowdown and CV."""
POWER_DRIFTS: tuple[Drift, ...] = ("none", "wave")
RULES = ("table alone", "with recheck", *RIVALS)
COUNT = 1000
POWER_SHARE = 0.25
"""Tables of a line of power, as a share of those of a line of false alarms; of the case that is
judged by, one cell slower by 5% at a CV of 3%, as many."""
JUDGED_BY = ("one cell", 0.05, 0.03)


@dataclass(frozen=True)
class Alarms:
    """A line of the first table: of ``count`` tables of equal builds those with an alarm."""

    machine: Machine
    count: int
    tables: dict[str, int]


@dataclass(frozen=True)
class Power:
    """A line of the second: by rule the share of tables in which a slowed cell was named, and the
    share of slowed cells that were."""

    machine: Machine
    slowdown: float
    where: Where
    count: int
    any_named: dict[str, float]
    named: dict[str, float]


def slow_cells(where: Where, count: int, rng: np.random.Generator) -> Flags:
    """Which cells are slowed ``[count, 24]``; cell or series drawn anew for every table."""
    slowed = np.zeros((count, CELLS), dtype=bool)
    if where == "one cell":
        slowed[np.arange(count), rng.integers(CELLS, size=count)] = True
    elif where == "one series":
        drawn = rng.integers(CELLS // CONTEXTS, size=count)
        slowed[np.arange(CELLS)[None, :] // CONTEXTS == drawn[:, None]] = True
    else:
        slowed[:] = True
    return slowed


def named(machine: Machine, slower: Array, rng: np.random.Generator) -> dict[str, Flags]:
    """By rule, which cells are named SLOW where the new build takes ``slower`` times as long.

    ``slower`` and every result are ``[tables, 24]``.
    """
    count = len(slower)
    base = machine.runs(count, rng)
    new = machine.runs(count, rng, later=True)
    cells = new.cells * slower[:, :, None]
    alone, settled = np.zeros((2, count, CELLS), dtype=bool)
    for i in range(count):
        table = compare_samples((base.cells[i], base.sentinels[i]), (cells[i], new.sentinels[i]))
        alone[i] = [outcome == "SLOW" for outcome in table.first.outcomes]
        chosen = table.first.chosen
        if chosen:
            turns = machine.turns(new, i, (PLAN.recheck_rounds, len(chosen)), rng)
            turns[1] *= slower[i, chosen][:, None]
            settled[i] = [outcome == "SLOW" for outcome in table.settled(turns)]
    rivals = {name: rule(base.cells, cells) for name, rule in RIVALS.items()}
    return {"table alone": alone, "with recheck": settled, **rivals}


def false_alarms(machine: Machine, count: int = COUNT, seed: int = 0) -> Alarms:
    """One line: ``count`` tables of equal builds."""
    found = named(machine, np.ones((count, CELLS)), _rng(machine, seed))
    return Alarms(machine, count, {name: int(f.any(axis=1).sum()) for name, f in found.items()})


def power(machine: Machine, slowdown: float, where: Where, count: int, seed: int = 0) -> Power:
    """One line: ``count`` tables in which some cells of the new build are slower."""
    rng = _rng(machine, seed, round(slowdown * 1e4), PLACES.index(where))
    slowed = slow_cells(where, count, rng)
    found = named(machine, np.where(slowed, 1 + slowdown, 1.0), rng)
    return Power(
        machine=machine,
        slowdown=slowdown,
        where=where,
        count=count,
        any_named={name: float((f & slowed).any(axis=1).mean()) for name, f in found.items()},
        named={name: float(f[slowed].mean()) for name, f in found.items()},
    )


def all_false_alarms(count: int, seed: int) -> Iterator[Alarms]:
    """The whole first table."""
    for drift in DRIFTS:
        for noise in NOISES:
            for cv in CVS:
                yield false_alarms(Machine(noise, cv, drift), count, seed)


def all_power(count: int, seed: int) -> Iterator[Power]:
    """The whole second table; the noise is normal."""
    few = max(1, round(POWER_SHARE * count))
    for drift in POWER_DRIFTS:
        for where in PLACES:
            for slowdown, cv in POWER_CASES:
                tables = count if (where, slowdown, cv) == JUDGED_BY else few
                yield power(Machine("normal", cv, drift), slowdown, where, tables, seed)


def interval(hits: int, count: int) -> tuple[float, float]:
    """95% interval of a share (Clopper and Pearson 1934)."""
    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits, count - hits + 1))
    high = 1.0 if hits == count else float(beta.ppf(0.975, hits + 1, count - hits))
    return low, high


def alarms_line(row: Alarms) -> str:
    """A line of Markdown; our two rules with the end of their intervals."""
    machine = row.machine
    figures = []
    for name in RULES:
        hits = row.tables[name]
        share = f"{hits / row.count:.1%}"
        ours = name not in RIVALS
        figures.append(f"{share} (≤ {interval(hits, row.count)[1]:.1%})" if ours else share)
    return _line([machine.drift, machine.noise, f"{machine.cv:.0%}", *figures])


def power_line(row: Power) -> str:
    """A line of Markdown; of several slowed cells: at least one named / share named."""
    machine = row.machine
    figures = [
        f"{row.any_named[name]:.1%}"
        if row.where == "one cell"
        else f"{row.any_named[name]:.0%} / {row.named[name]:.0%}"
        for name in RULES
    ]
    start = [machine.drift, row.where, f"{row.slowdown:.0%}", f"{machine.cv:.0%}"]
    return _line([*start, *figures])


def _line(columns: list[str]) -> str:
    return f"| {' | '.join(columns)} |"


def _heading(columns: list[str]) -> str:
    titles = [*columns, *RULES]
    return f"{_line(titles)}\n{_line(['---'] * len(titles))}"


def _rng(machine: Machine, *seeds: int) -> np.random.Generator:
    kind = [NOISES.index(machine.noise), DRIFTS.index(machine.drift), round(machine.cv * 1e4)]
    return np.random.default_rng([*seeds, *kind])


def main() -> None:
    """Print both tables line by line; ``--count`` tables a line of false alarms."""
    parser = argparse.ArgumentParser(prog="python -m ctxsweep.analysis.simulate_compare")
    parser.add_argument("--count", type=int, default=COUNT, help="tables per line, false alarms")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(_heading(["drift", "noise", "CV"]))
    for alarms in all_false_alarms(arguments.count, arguments.seed):
        print(alarms_line(alarms), flush=True)
    print(f"\n{_heading(['drift', 'slower', 'by', 'CV'])}")
    for row in all_power(arguments.count, arguments.seed):
        print(power_line(row), flush=True)


if __name__ == "__main__":
    main()
