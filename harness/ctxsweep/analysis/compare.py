"""Two sides to a comparison: cells, curves and benchmarks in one table, judged as one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from ctxsweep.analysis.comparable import obstacles, remarks
from ctxsweep.analysis.compare_cells import compare_cells
from ctxsweep.analysis.compare_curves import compare_curves, undecided
from ctxsweep.analysis.comparison import Comparison, NotCompared, Scatter, Side
from ctxsweep.analysis.lines import Line, Run, judged, shifted
from ctxsweep.analysis.summarise import summarise
from ctxsweep.records import Ceilings, Environment
from ctxsweep.scenario_regression import Regression

MACHINE_SHIFT = 0.10
"""Change of the machine's own rates from which on times are judged by what goes beyond it."""
RATES = {"prefill_s": "matmul", "itl_s": "read"}


@dataclass(frozen=True)
class Party:
    """One side: a run, or several runs of one build, of one scenario and machine."""

    label: str
    scenario: str
    runs: tuple[Run, ...]
    environment: Environment | None
    order: tuple[str, ...] = ()
    planned: int | None = None
    """Cells that the runs were to have, all together."""

    @property
    def side(self) -> Side:
        """As the comparison names it."""
        here = self.environment
        return Side(
            label=self.label,
            run_ids=tuple(run.run_id for run in self.runs),
            commit=here.commit if here else None,
            dirty=here.dirty if here else None,
            started_at=min((run.started_at for run in self.runs), default=""),
            machine=f"{here.gpu or here.cpu_model}, {here.threads} threads" if here else "",
        )


@dataclass
class Table:
    """Lines of any kind, and what was left out of them; to be judged together."""

    lines: list[Line] = field(default_factory=list)
    not_compared: list[NotCompared] = field(default_factory=list)
    scatter: list[Scatter] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def add(self, other: Table) -> None:
        """Take in the lines of another kind."""
        self.lines += other.lines
        self.not_compared += other.not_compared
        self.scatter += other.scatter
        self.differences += other.differences


def compare(
    base: Party,
    new: Party,
    plan: Regression,
    across: Collection[str] = (),
    more: Table | None = None,
) -> Comparison:
    """Every line that the two have in common, judged at the plan's alarm rate.

    ``across`` names what may differ all the same (``comparable.ACROSS``); ``more`` are lines of
    another kind, as of benchmarks, that belong to the same table.
    """
    table = compare_runs(base, new, plan, across)
    if more is not None:
        table.add(more)
    return Comparison(
        scenario=new.scenario,
        base=base.side,
        new=new.side,
        alarm_rate=plan.alarm_rate,
        changes=judged(table.lines, plan.alarm_rate),
        not_compared=tuple(table.not_compared),
        differences=tuple(table.differences),
        scatter=tuple(table.scatter),
    )


def compare_runs(base: Party, new: Party, plan: Regression, across: Collection[str] = ()) -> Table:
    """The lines of cells and curves, not judged yet."""
    between = obstacles(base.environment, new.environment)
    cells = compare_cells(base.runs, new.runs, plan, between, across)
    shifts = _machine_shifts(base, new)
    table = Table(
        lines=shifted(cells.lines, shifts),
        not_compared=cells.not_compared,
        scatter=cells.scatter,
        differences=[*_missing(base, "base"), *_missing(new, "new")]
        + [o.text for o in between if o.kind in across]
        + list(remarks(base.environment, new.environment))
        + _told(shifts),
    )
    if len(base.runs) == len(new.runs) == 1:
        curves = _curves(base, new, plan, cells.lines)
        table.lines += shifted(curves.lines, shifts)
        table.not_compared += curves.not_compared
    else:
        reason = "laws are fitted to one run, and a side has several"
        table.not_compared.append(NotCompared(what="curves", count=1, reason=reason))
    return table


def _missing(party: Party, which: str) -> list[str]:
    have = sum(len({r.cell.key for r in run.records}) for run in party.runs)
    if party.planned is None or have >= party.planned:
        return []
    return [f"the {which} run is not complete: {have} of {party.planned} cells"]


def _curves(base: Party, new: Party, plan: Regression, cells: Sequence[Line]) -> Table:
    before, after = (
        summarise(
            scenario=party.scenario,
            question="",
            run_id=party.runs[0].run_id,
            started_at=party.runs[0].started_at,
            records=party.runs[0].records,
            order=party.order,
        )
        for party in (base, new)
    )
    compared = {line.change.series for line in cells if line.change.metric != "status"}
    timed = {line.change.series for line in cells if not line.settled}
    names = {one.name for one in after.series}
    table = Table(list(compare_curves(before, after, plan, names - timed, names - compared)))
    count = undecided(before, after)
    if count:
        reason = "their growth is undecided in both runs"
        table.not_compared.append(NotCompared(what="curves", count=count, reason=reason))
    return table


def _machine_shifts(base: Party, new: Party) -> dict[str, float]:
    """By metric, how much slower the machine itself became (a logarithm), by its ceilings.

    They are measured by every child, with code that is not under test; the best of a side counts.
    """
    rates = [_best(party) for party in (base, new)]
    found = {}
    for metric, rate in RATES.items():
        if rate in rates[0] and rate in rates[1]:
            shift = float(np.log(rates[0][rate] / rates[1][rate]))
            if abs(shift) > np.log1p(MACHINE_SHIFT):
                found[metric] = shift
    return found


def _best(party: Party) -> dict[str, float]:
    seen: list[Ceilings] = [r.ceilings for run in party.runs for r in run.records if r.ceilings]
    matmul = [rate for one in seen for rate in one.matmul_flops_per_s.values()]
    best = {
        "read": max((one.read_bytes_per_s for one in seen), default=0.0),
        "matmul": max(matmul, default=0.0),
    }
    return {name: rate for name, rate in best.items() if rate > 0}


def _told(shifts: dict[str, float]) -> list[str]:
    names = {"prefill_s": "multiplied matrices", "itl_s": "read memory"}
    return [
        f"the machine itself {names[metric]} at {np.exp(-shift):.0%} of the base run's rate: "
        f"{metric} is judged by what goes beyond that"
        for metric, shift in shifts.items()
    ]
