"""Two sides to a comparison: cells, curves and benchmarks in one table, judged as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ctxsweep.analysis.comparable import Obstacle, obstacles, remarks
from ctxsweep.analysis.compare_cells import Cells, compare_cells
from ctxsweep.analysis.compare_curves import compare_curves, undecided
from ctxsweep.analysis.comparison import Comparison, NotCompared, Scatter, Side
from ctxsweep.analysis.lines import Line, Run, judged, shifted
from ctxsweep.analysis.summarise import summarise
from ctxsweep.records import Environment, Record
from ctxsweep.scenario_regression import Regression
from ctxsweep.store import difference

MACHINE_SHIFT = 0.10
"""Change of the machine's own rates from which on times are judged by what goes beyond it."""
RATES = {"prefill_s": "matmul", "itl_s": "read"}
ORDERLY = ("order", "sentinel")


@dataclass(frozen=True)
class Party:
    """One side: a run, or several runs of one build, of one scenario and machine."""

    label: str
    scenario: str
    runs: tuple[Run, ...]
    environment: Environment | None
    order: tuple[str, ...] = ()
    procedure: Mapping[str, Any] = field(default_factory=dict)
    budgets: Mapping[str, Any] = field(default_factory=dict)
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
            missing_cells=self.missing_cells,
        )

    @property
    def missing_cells(self) -> int:
        """Cells that were planned and have no record."""
        have = sum(len({r.cell.key for r in run.records}) for run in self.runs)
        return max(0, (self.planned or 0) - have)


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
    return concluded(new.scenario, base.side, new.side, table, plan)


def concluded(scenario: str, base: Side, new: Side, table: Table, plan: Regression) -> Comparison:
    """A table judged as one."""
    return Comparison(
        scenario=scenario,
        base=base,
        new=new,
        alarm_rate=plan.alarm_rate,
        changes=judged(table.lines, plan.alarm_rate),
        not_compared=tuple(table.not_compared),
        differences=tuple(table.differences),
        scatter=tuple(table.scatter),
    )


def compare_runs(base: Party, new: Party, plan: Regression, across: Collection[str] = ()) -> Table:
    """The lines of cells and curves, not judged yet."""
    between = (*obstacles(base.environment, new.environment), *_procedures(base, new))
    budgets = "; ".join(f"budgets.{text}" for text in difference(base.budgets, new.budgets))
    cells = compare_cells(base.runs, new.runs, plan, between, across, budgets)
    shifts = _machine_shifts(base, new)
    table = Table(
        lines=shifted(cells.lines, shifts),
        not_compared=cells.not_compared,
        scatter=cells.scatter,
        differences=[*_missing(base, "base"), *_missing(new, "new")]
        + _same_build(base.side, new.side)
        + [o.text for o in between if o.kind in across]
        + list(remarks(base.environment, new.environment))
        + _told(shifts),
    )
    if len(base.runs) == len(new.runs) == 1:
        curves = _curves(base, new, plan, cells)
        table.lines += shifted(curves.lines, shifts)
        table.not_compared += curves.not_compared
    else:
        reason = "laws are fitted to one run, and a side has several"
        table.not_compared.append(NotCompared(what="curves", count=1, reason=reason))
    return table


def _missing(party: Party, which: str) -> list[str]:
    if not party.missing_cells:
        return []
    have = (party.planned or 0) - party.missing_cells
    return [f"the {which} run is not complete: {have} of {party.planned} cells"]


def _same_build(base: Side, new: Side) -> list[str]:
    if base.commit is None or base.commit != new.commit or base.dirty or new.dirty:
        return []
    return [
        f"nothing in the build: both are of commit {base.commit[:10]}, so what differs is chance"
    ]


def _procedures(base: Party, new: Party) -> list[Obstacle]:
    """How a cell is measured is not in its key. The order and the sentinel move no figure."""
    was, now = ({k: v for k, v in p.procedure.items() if k not in ORDERLY} for p in (base, new))
    if not was or not now:
        return []
    return [Obstacle("settings", f"procedure.{text}") for text in difference(was, now)]


def _curves(base: Party, new: Party, plan: Regression, cells: Cells) -> Table:
    """Curves over the cells that both runs have."""
    shared = set.intersection(*({_place(r) for r in p.runs[0].records} for p in (base, new)))
    before, after = (
        summarise(
            scenario=party.scenario,
            question="",
            run_id=party.runs[0].run_id,
            started_at=party.runs[0].started_at,
            records=[r for r in party.runs[0].records if _place(r) in shared],
            order=party.order,
        )
        for party in (base, new)
    )
    changes = [line.change for line in cells.lines]
    comparable = {(c.series, c.batch_size, c.metric) for c in changes}
    spreads = {spread.metric: spread for spread in cells.scatter}
    table = Table(list(compare_curves(before, after, plan, comparable, spreads)))
    count = undecided(before, after)
    if count:
        reason = "their growth is undecided in both runs"
        table.not_compared.append(NotCompared(what="curves", count=count, reason=reason))
    return table


def _place(record: Record) -> tuple[str, int, int, str]:
    cell = record.cell
    return cell.series.name, cell.batch_size, cell.context_tokens, cell.role


def _machine_shifts(base: Party, new: Party) -> dict[str, float]:
    """By metric, how much slower the machine itself became (a logarithm), by its ceilings.

    Every child measures them, for a moment, with code that is not under test. A series' children
    are held against its own, and the median of the series counts: one reading may be far off.
    """
    before, after = _rates(base), _rates(new)
    found = {}
    for metric, rate in RATES.items():
        common = [key for key in before if key in after and key[1].startswith(rate)]
        if common:
            shift = float(np.median([np.log(before[key] / after[key]) for key in common]))
            if abs(shift) > np.log1p(MACHINE_SHIFT):
                found[metric] = shift
    return found


def _rates(party: Party) -> dict[tuple[str, str], float]:
    """By series and rate: the median of what its children measured."""
    seen: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in party.runs:
        for record in run.records:
            one, series = record.ceilings, record.cell.series.name
            if one is not None and record.cell.role == "measure":
                for dtype, rate in one.matmul_flops_per_s.items():
                    seen[series, f"matmul {dtype}"].append(rate)
                seen[series, "read"].append(one.read_bytes_per_s)
    medians = {key: float(np.median(rates)) for key, rates in seen.items()}
    return {key: rate for key, rate in medians.items() if rate > 0}


def _told(shifts: dict[str, float]) -> list[str]:
    names = {"prefill_s": "multiplied matrices", "itl_s": "read memory"}
    return [
        f"the machine itself {names[metric]} at {np.exp(-shift):.0%} of the base run's rate: "
        f"{metric} is judged by what goes beyond that"
        for metric, shift in shifts.items()
    ]
