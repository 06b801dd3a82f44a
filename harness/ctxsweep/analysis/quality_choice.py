"""Which series of a context to take: a rule on paired differences and on what tasks found.

Within what is allowed is a series whose interval lies below it. Of those, the ones that are not
shown to lose more than the lowest are even; of these, the ones that no task shows to find less than
the reference does, if there are any; of these, the ones that are not shown to harm short contexts
more than the least; of these the lowest loss is taken. With it come those that nothing tells from
it or from one another; the reference series goes first among them, for it changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.paired import Losses
from ctxsweep.analysis.quality_question import Question
from ctxsweep.analysis.quality_summary import QualityCell, Standing, TaskRate
from ctxsweep.analysis.quality_tasks import finds_less
from ctxsweep.records_quality import TaskName


@dataclass(frozen=True)
class Choice:
    """The cells of one context, in the order of the scenario."""

    losses: Losses
    question: Question
    cells: Sequence[QualityCell]
    rates: Sequence[TaskRate]

    @property
    def context(self) -> int:
        return self.cells[0].context_tokens

    def standing(self, standing: Standing) -> list[QualityCell]:
        """Cells of a standing, lowest loss first."""
        return sorted((c for c in self.cells if c.standing == standing), key=mean_loss)

    def taken(self) -> list[QualityCell]:
        """The one to take and those that nothing told apart; empty if none is within."""
        within = [c for c in self.cells if c.standing == "within"]
        if not within:
            return []
        group = [self._lowest(within)]
        failing = bool(self.lost(group[0]))
        ordered = sorted(within, key=lambda c: c.series != self.question.series)
        for cell in ordered:
            alike = cell not in group and bool(self.lost(cell)) == failing
            if alike and all(self._equals(cell, one) for one in group):
                group.append(cell)
        return [cell for cell in ordered if cell in group]

    def tasks(self) -> list[TaskName]:
        """All that were asked in the run, each once."""
        return list(dict.fromkeys(rate.task for rate in self.rates))

    def rate(self, task: TaskName, series: str, context: int) -> TaskRate | None:
        """A task over all depths, or None."""
        wanted = (task, series, context, None)
        of = ((r, (r.task, r.series, r.context_tokens, r.depth)) for r in self.rates)
        return next((rate for rate, key in of if key == wanted), None)

    def controls(self, task: TaskName) -> list[TaskRate]:
        """The reference's rates: where losses are compared with it, and at this context."""
        places = dict.fromkeys(
            [self.question.reference(self.context), (self.question.series, self.context)]
        )
        rates = [self.rate(task, *place) for place in places]
        return [rate for rate in rates if rate is not None]

    def lost(self, cell: QualityCell) -> list[TaskName]:
        """Tasks in which a cell is shown to find less than the reference does."""
        return [
            task
            for task in self.tasks()
            if any(
                finds_less(self.rate(task, cell.series, self.context), control)
                for control in self.controls(task)
            )
        ]

    def _lowest(self, within: list[QualityCell]) -> QualityCell:
        lowest = min(within, key=mean_loss)
        even = [c for c in within if self._same_loss(c, lowest)]
        even = [c for c in even if not self.lost(c)] or even
        known = [c for c in even if c.harm is not None]
        if known:
            least = min(known, key=_harm)
            even = [c for c in known if self._same_harm(c, least)]
        return min(even, key=mean_loss)

    def _equals(self, one: QualityCell, other: QualityCell) -> bool:
        return (
            self._same_loss(one, other)
            and self._same_harm(one, other)
            and self._same_tasks(one, other)
        )

    def _same_loss(self, one: QualityCell, other: QualityCell) -> bool:
        first, second = (self.losses.own(c.series, c.context_tokens) for c in (one, other))
        found = self.losses.compare(first, second, self.question.target_tokens)
        return found is not None and _includes_zero(found.estimate)

    def _same_harm(self, one: QualityCell, other: QualityCell) -> bool:
        short = self.question.short_context
        if short is None:
            return True
        passes = [self.losses.short(c.series, c.context_tokens, short) for c in (one, other)]
        found = self.losses.compare(passes[0], passes[1], self.question.target_tokens)
        return found is None or _includes_zero(found.estimate)

    def _same_tasks(self, one: QualityCell, other: QualityCell) -> bool:
        pairs = [
            [self.rate(task, c.series, self.context) for c in (one, other)] for task in self.tasks()
        ]
        return not any(finds_less(a, b) or finds_less(b, a) for a, b in pairs)


def mean_loss(cell: QualityCell) -> float:
    """Against the reference; infinite where it is not known."""
    return float("inf") if cell.difference is None else cell.difference.value


def _harm(cell: QualityCell) -> float:
    return float("inf") if cell.harm is None else cell.harm.value


def _includes_zero(estimate: Estimate) -> bool:
    low, high = estimate.low, estimate.high
    return low is None or high is None or low <= 0 <= high
