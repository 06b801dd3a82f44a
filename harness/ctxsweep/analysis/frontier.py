"""The search for the frontier, as a function of the records so far. Pure: nothing runs here.

What is run next, and what the answer is, both follow from the same records in the order of their
writing; so a search that was cut off goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ctxsweep.analysis.frontier_summary import (
    BROKEN,
    FrontierLine,
    FrontierProbe,
    FrontierSummary,
    Quantity,
    Reason,
)
from ctxsweep.analysis.metrics import itl_s, measure, prefill_s
from ctxsweep.analysis.samples import contended_share
from ctxsweep.records import Cell, Record, Status
from ctxsweep.scenario_frontier import Frontier, Within

SHOWN_METRICS = ("itl_s", "prefill_s", "held_bytes", "process_peak_bytes", "device_peak_bytes")


@dataclass(frozen=True)
class Search:
    """One line to search: a series, what is varied, and at what it is held."""

    series: str
    quantity: Quantity
    at: int
    up_to: int
    step: int

    @property
    def steps(self) -> int:
        return self.up_to // self.step

    @property
    def most_tries(self) -> int:
        """``ceil(log2(steps + 1))``: so many answers there are, none and all among them."""
        return self.steps.bit_length()

    def point(self, step: int) -> tuple[int, int]:
        """Context and batch size of a step, counted from 1."""
        value = step * self.step
        return (value, self.at) if self.quantity == "context_tokens" else (self.at, value)

    def step_of(self, cell: Cell) -> int | None:
        """The step on which a cell lies; None if it is not on this line's grid."""
        point = cell.context_tokens, cell.batch_size
        value, at = point if self.quantity == "context_tokens" else point[::-1]
        on_grid = value % self.step == 0 and 1 <= value // self.step <= self.steps
        same = cell.series.name == self.series and at == self.at
        return value // self.step if same and on_grid else None


@dataclass(frozen=True)
class Bracket:
    """Where a search stands: step ``low`` passes (0: not known), step ``high`` fails."""

    search: Search
    low: int
    high: int
    passed: Record | None = None
    failed: Record | None = None
    reason: Reason | None = None
    tries: int = 0

    @property
    def next_step(self) -> int | None:
        """The step to try next, which halves what is left; None if there is an answer, or none
        can be had."""
        if self.reason in BROKEN or self.high - self.low <= 1:
            return None
        return (self.low + self.high) // 2


@dataclass(frozen=True)
class FrontierPlan:
    """What a scenario asks of the search, and which of its records may answer."""

    frontier: Frontier
    series: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    generate_tokens: int
    memory_bytes: int | None
    """Of the sweep's own cells; None: what was free."""

    @classmethod
    def of(cls, scenario: Mapping[str, Any]) -> Self | None:
        """From a scenario as a manifest holds it; None where it has no section ``frontier``."""
        if scenario.get("frontier") is None:
            return None
        return cls(
            frontier=Frontier.model_validate(scenario["frontier"]),
            series=tuple(str(one["name"]) for one in scenario["series"]),
            batch_sizes=tuple(scenario["batch_sizes"]),
            generate_tokens=int(scenario["generate_tokens"]),
            memory_bytes=scenario["budgets"]["memory_bytes"],
        )

    @property
    def most_tries(self) -> int:
        return sum(search.most_tries for search in self.searches())

    def searches(self) -> tuple[Search, ...]:
        """Every line, series by series: contexts at each batch size, batches at each context."""
        found: list[Search] = []
        context, batch = self.frontier.context, self.frontier.batch
        for name in self.series:
            if context is not None:
                found += [
                    Search(name, "context_tokens", size, context.up_to, context.step)
                    for size in self.batch_sizes
                ]
            if batch is not None:
                found += [Search(name, "batch_size", n, batch.up_to, 1) for n in batch.at]
        return tuple(found)

    def bracket(self, search: Search, records: Iterable[Record]) -> Bracket:
        """Where the search stands after these records, in the order of their writing.

        A record outside of what is left adds nothing. So noise around a limit of time, where a
        larger one may pass and a smaller one fail, cannot undo what was found.
        """
        at = Bracket(search, 0, search.steps + 1)
        low, high, tries = at.low, at.high, 0
        passed, failed, reason = at.passed, at.failed, at.reason
        for record in records:
            step = search.step_of(record.cell)
            if step is None or not low < step < high or not self._counts(record):
                continue
            tries += record.cell.role == "frontier"
            why = stopped_by(record, self.frontier.within)
            if why is None:
                low, passed = step, record
            else:
                high, failed, reason = step, record, why
        return Bracket(search, low, high, passed, failed, reason, tries)

    def _counts(self, record: Record) -> bool:
        """Probes do; of the sweep's own cells those that ran, under the same limit of memory.

        One that failed there says little: its child had reserved for the longest context of all.
        """
        cell, memory = record.cell, self.frontier.within.memory
        if cell.role == "frontier":
            return True
        return (
            cell.role == "measure"
            and record.status is Status.OK
            and cell.quality is None
            and cell.generate_tokens == self.generate_tokens
            and memory in (None, self.memory_bytes)
        )


def stopped_by(record: Record, within: Within) -> Reason | None:
    """Why a cell does not count as within the limits; None if it does. Times by their median."""
    if record.status in (Status.TIMEOUT, Status.OVER_BUDGET):
        spent_s = record.predicted_s or record.elapsed_s
        return "prefill" if within.prefill and spent_s > within.prefill else "time"
    if record.status is not Status.OK:
        reasons: dict[Status, Reason] = {Status.OOM: "memory", Status.UNSUPPORTED: "unsupported"}
        return reasons.get(record.status, "error")
    over = [(share, name) for name, share in _shares(record, within).items() if share > 1]
    return max(over)[1] if over else None


def summarise_frontier(
    records: Sequence[Record], scenario: Mapping[str, Any]
) -> FrontierSummary | None:
    """The answer of every search of a scenario; None where it has no section ``frontier``."""
    plan = FrontierPlan.of(scenario)
    if plan is None:
        return None
    within = plan.frontier.within
    return FrontierSummary(
        memory_bytes=within.memory or plan.memory_bytes,
        decode_s=within.decode,
        prefill_s=within.prefill,
        lines=tuple(_line(plan, plan.bracket(search, records)) for search in plan.searches()),
    )


def _line(plan: FrontierPlan, at: Bracket) -> FrontierLine:
    search, within = at.search, plan.frontier.within
    return FrontierLine(
        series=search.series,
        quantity=search.quantity,
        at=search.at,
        up_to=search.up_to,
        step=search.step,
        passes=_probe(search, at.passed, at.low),
        fails=_probe(search, at.failed, at.high),
        stopped_by=at.reason,
        close=any(_close(record, within) for record in (at.passed, at.failed) if record),
        complete=at.next_step is None,
        tries=at.tries,
        most_tries=search.most_tries,
    )


def _probe(search: Search, record: Record | None, step: int) -> FrontierProbe | None:
    if record is None:
        return None
    known = measure(record) if record.status is Status.OK else {}
    return FrontierProbe(
        key=record.cell.key,
        value=step * search.step,
        status=record.status,
        detail=record.detail,
        contended_share=contended_share(record),
        metrics={name: known[name] for name in SHOWN_METRICS if name in known},
    )


def _shares(record: Record, within: Within) -> dict[Reason, float]:
    """Each time as a share of its limit."""
    decode, prefill = itl_s(record), prefill_s(record)
    shares: dict[Reason, float] = {}
    if within.decode and decode:
        shares["decode"] = decode.value / within.decode
    if within.prefill and prefill:
        shares["prefill"] = prefill.value / within.prefill
    return shares


def _close(record: Record, within: Within) -> bool:
    """Whether a limit of time lies inside the interval of its median: it might be either."""
    pairs = ((within.decode, itl_s(record)), (within.prefill, prefill_s(record)))
    return any(
        limit
        and time
        and time.low is not None
        and time.high is not None
        and time.low <= limit <= time.high
        for limit, time in pairs
    )
