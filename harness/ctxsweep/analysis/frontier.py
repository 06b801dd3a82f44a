"""The search for the frontier, as a function of the records so far. Pure: nothing runs here.

What is run next, and what the answer is, both follow from the same records in the order of their
writing; so a search that was cut off goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from ctxsweep.analysis.frontier_outcome import outcome_of
from ctxsweep.analysis.frontier_summary import (
    FrontierLine,
    FrontierProbe,
    FrontierSummary,
    Quantity,
    Reason,
    TryOutcome,
)
from ctxsweep.analysis.metrics import itl_s, measure, prefill_s
from ctxsweep.analysis.samples import contended_share
from ctxsweep.records import Cell, Record, Status
from ctxsweep.scenario_frontier import Frontier, Within

SHOWN_METRICS = ("itl_s", "prefill_s", "held_bytes", "process_peak_bytes", "device_peak_bytes")
SPARE_TOKENS = 2
"""Positions that an engine may want beside the tokens: vLLM does for the one sampled last."""


@dataclass(frozen=True)
class Search:
    """One line to search: a series, what is varied, and at what it is held."""

    series: str
    quantity: Quantity
    at: int
    up_to: int
    step: int
    ends: bool = False
    """Whether the model's positions end at ``up_to``, which then need not be a whole step."""

    @property
    def steps(self) -> int:
        return -(-self.up_to // self.step)

    @property
    def most_tries(self) -> int:
        """``ceil(log2(steps + 1))``: so many answers there are, none and all among them."""
        return self.steps.bit_length()

    def value(self, step: int) -> int:
        """Tokens or sequences of a step, counted from 1."""
        return min(step * self.step, self.up_to)

    def point(self, step: int) -> tuple[int, int]:
        """Context and batch size of a step."""
        value = self.value(step)
        return (value, self.at) if self.quantity == "context_tokens" else (self.at, value)

    def step_of(self, cell: Cell) -> int | None:
        """The step on which a cell lies; None if it is not on this line's grid."""
        point = cell.context_tokens, cell.batch_size
        value, at = point if self.quantity == "context_tokens" else point[::-1]
        step = -(-value // self.step)
        on_grid = 1 <= step <= self.steps and self.value(step) == value
        return step if on_grid and cell.series.name == self.series and at == self.at else None


@dataclass(frozen=True)
class Tried:
    """A try, or a cell of the sweep that stands for one, and what it says."""

    step: int
    record: Record
    outcome: TryOutcome


@dataclass(frozen=True)
class Bracket:
    """Where a search stands: what is left to try lies between ``low`` and ``high``."""

    search: Search
    passed: Tried | None = None
    """The largest that passes."""
    failed: Tried | None = None
    """The smallest above it that is over a limit."""
    silent: Tried | None = None
    """The smallest above what passes that says nothing, if it is smaller than ``failed``."""
    tries: int = 0

    @property
    def low(self) -> int:
        return self.passed.step if self.passed else 0

    @property
    def high(self) -> int:
        end = self.silent or self.failed
        return end.step if end else self.search.steps + 1

    @property
    def next_step(self) -> int | None:
        """The step to try next, which halves what is left; None if there is an answer, or none
        can be had."""
        broken = self.silent is not None and self.silent.outcome.final
        return None if broken or self.high - self.low <= 1 else (self.low + self.high) // 2

    @property
    def unanswered(self) -> bool:
        """The search is at its end, and a try that says nothing stands there."""
        return self.silent is not None and self.next_step is None

    @property
    def stopped_by(self) -> Reason | None:
        """Why it does not go further; None: all up to the end of the search runs."""
        end = self.silent or self.failed
        if end is not None:
            return end.outcome.reason
        return "positions" if self.search.ends and self.low == self.search.steps else None

    def after(self, tried: Tried) -> Bracket:
        """The same with one try more."""
        tries = self.tries + (tried.record.cell.role == "frontier")
        if tried.outcome.kind == "passes":
            return replace(self, passed=tried, tries=tries)
        if tried.outcome.kind == "over":
            return replace(self, failed=tried, silent=None, tries=tries)
        return replace(self, silent=tried, tries=tries)


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
    def within(self) -> Within:
        """The limits, of memory that of the sweep's cells where the search names none."""
        memory = self.frontier.within.memory or self.memory_bytes
        return self.frontier.within.model_copy(update={"memory": memory})

    @property
    def most_tries(self) -> int:
        return sum(search.most_tries for search in self.searches())

    def searches(self) -> tuple[Search, ...]:
        """Every line, series by series: contexts at each batch size, batches at each context."""
        found: list[Search] = []
        context, batch = self.frontier.context, self.frontier.batch
        for name in self.series:
            if context is not None:
                end = self._last_context(name)
                ends = end is not None and end <= context.up_to
                up_to = end if end is not None and ends else context.up_to
                found += [
                    Search(name, "context_tokens", size, up_to, context.step, ends)
                    for size in self.batch_sizes
                ]
            if batch is not None:
                found += [Search(name, "batch_size", n, batch.up_to, 1) for n in batch.at]
        return tuple(found)

    def outcome(self, record: Record) -> TryOutcome:
        """What a record says of the limits of this search."""
        return outcome_of(record, self.within)

    def bracket(self, search: Search, records: Iterable[Record]) -> Bracket:
        """Where the search stands after these records, in the order of their writing.

        A record outside of what is left adds nothing. So noise around a limit of time, where a
        larger one may pass and a smaller one fail, cannot undo what was found.
        """
        at = Bracket(search)
        for record in records:
            step = search.step_of(record.cell)
            if step is not None and at.low < step < at.high and self._counts(record):
                at = at.after(Tried(step, record, self.outcome(record)))
        return at

    def _last_context(self, series: str) -> int | None:
        """The longest context of a series whose positions end; None if they do not."""
        end = self.frontier.positions.get(series)
        return None if end is None else max(1, end - self.generate_tokens - SPARE_TOKENS)

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


def summarise_frontier(
    records: Sequence[Record], scenario: Mapping[str, Any]
) -> FrontierSummary | None:
    """The answer of every search of a scenario; None where it has no section ``frontier``."""
    plan = FrontierPlan.of(scenario)
    if plan is None:
        return None
    within = plan.within
    return FrontierSummary(
        memory_bytes=within.memory,
        decode_s=within.decode,
        prefill_s=within.prefill,
        lines=tuple(_line(plan.bracket(search, records), within) for search in plan.searches()),
    )


def _line(at: Bracket, within: Within) -> FrontierLine:
    search = at.search
    return FrontierLine(
        series=search.series,
        quantity=search.quantity,
        at=search.at,
        up_to=search.up_to,
        step=search.step,
        passes=_probe(search, at.passed),
        fails=_probe(search, at.failed),
        silent=_probe(search, at.silent),
        stopped_by=at.stopped_by,
        close=any(_close(one.record, within) for one in (at.passed, at.failed) if one),
        complete=at.next_step is None,
        tries=at.tries,
        most_tries=search.most_tries,
    )


def _probe(search: Search, tried: Tried | None) -> FrontierProbe | None:
    if tried is None:
        return None
    record = tried.record
    known = measure(record) if record.status is Status.OK else {}
    return FrontierProbe(
        key=record.cell.key,
        value=search.value(tried.step),
        status=record.status,
        outcome=tried.outcome,
        contended_share=contended_share(record),
        metrics={name: known[name] for name in SHOWN_METRICS if name in known},
    )


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
