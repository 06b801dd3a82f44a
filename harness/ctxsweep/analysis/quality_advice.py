"""Which series to take at a context: a rule on paired differences, and the sentence that it allows.

Within what is allowed is a series whose interval lies below it. Of those, the ones that are not
shown to lose more than the lowest are equal; of these, the ones that are not shown to harm short
contexts more than the least; of these the lowest loss wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.paired import Losses
from ctxsweep.analysis.quality_question import Question
from ctxsweep.analysis.quality_summary import Advice, QualityCell, Reach, TaskRate
from ctxsweep.analysis.wording import context_label, listed, signed


def advise(
    losses: Losses,
    question: Question,
    cells: Sequence[QualityCell],
    reach: Sequence[Reach],
    rates: Sequence[TaskRate],
) -> tuple[Advice, ...]:
    """One piece of advice for every context that was measured, shortest first."""
    breaks = {(r.series, r.longest_tokens): r.breaks_at for r in reach}
    found = []
    for context in sorted({cell.context_tokens for cell in cells}):
        at = [c for c in cells if c.context_tokens == context and c.standing is not None]
        if at:
            found.append(_Choice(losses, question, at, breaks, rates).advice())
    return tuple(found)


@dataclass(frozen=True)
class _Choice:
    """The cells of one context, in the order of the scenario."""

    losses: Losses
    question: Question
    cells: list[QualityCell]
    breaks: dict[tuple[str, int], int | None]
    rates: Sequence[TaskRate]

    def advice(self) -> Advice:
        """The best of the cells with the sentences that support it."""
        best = self._best()
        if best is None:
            return self._none_holds()
        equal = [c for c in self._standing("within") if c is not best and self._equals(c, best)]
        others = [c for c in self._standing("within") if c is not best and c not in equal]
        name = best.series if best.factor is None else f"{best.series} (factor {best.factor:g})"
        headline = f"At {self._label} take {name}"
        sentence = f"{headline}: {self._evidence(best)}."
        if equal:
            sentence += f" No difference to {_names(equal)} was shown."
        if others:
            sentence += f" Also within {self._allowed}: {', '.join(map(self._other, others))}."
        return Advice(
            context_tokens=self._context,
            series=best.series,
            factor=best.factor,
            equal=tuple(c.series for c in equal),
            headline=headline,
            sentence=sentence + self._rest(),
        )

    @property
    def _context(self) -> int:
        return self.cells[0].context_tokens

    @property
    def _label(self) -> str:
        return context_label(self._context)

    @property
    def _allowed(self) -> str:
        return f"{self.question.max_loss:g} nats"

    @property
    def _reference(self) -> str:
        series, context = self.question.reference(self._context)
        return f"{series} at {context_label(context)}"

    def _standing(self, standing: str) -> list[QualityCell]:
        return sorted((c for c in self.cells if c.standing == standing), key=_loss)

    def _best(self) -> QualityCell | None:
        within = [c for c in self.cells if c.standing == "within"]
        if not within:
            return None
        lowest = min(within, key=_loss)
        even = [c for c in within if self._same_loss(c, lowest)]
        unharmed = [c for c in even if c.harm is not None]
        if unharmed:
            least = min(unharmed, key=_harm)
            even = [c for c in unharmed if self._same_harm(c, least)]
        return min(even, key=_loss)

    def _equals(self, one: QualityCell, other: QualityCell) -> bool:
        return self._same_loss(one, other) and self._same_harm(one, other)

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

    def _evidence(self, cell: QualityCell) -> str:
        if (cell.series, self._context) == self.question.reference(self._context):
            parts = ["it is the reference, against which all are measured"]
        else:
            parts = [f"{_full(cell.difference)} against {self._reference}"]
        parts += self._tasks(cell)
        if cell.series != self.question.series:
            parts += [self._cost(cell)] if cell.prefill_ratio or cell.decode_ratio else []
        if cell.harm is not None and cell.harm.value != 0 and self.question.short_context:
            parts.append(f"{_full(cell.harm)} at {context_label(self.question.short_context)}")
        position = self.breaks.get((cell.series, self._context))
        if position is not None:
            parts.append(f"above {self._allowed} {_from(position)}")
        return "; ".join(parts)

    def _tasks(self, cell: QualityCell) -> list[str]:
        reference = self.question.reference(self._context)
        wanted = [(cell.series, self._context), reference]
        held = {(r.task, r.series, r.context_tokens): r for r in self.rates if r.depth is None}
        texts = []
        for task in dict.fromkeys(r.task for r in self.rates):
            rate, control = (held.get((task, *where)) for where in wanted)
            if rate is None:
                continue
            text = f"{task.replace('_', ' ')} {rate.exact} of {rate.trials}"
            if control is not None and control is not rate and rate.exact < rate.trials:
                text += f" ({self._reference}: {control.exact} of {control.trials})"
            texts.append(text)
        return texts

    def _cost(self, cell: QualityCell) -> str:
        named = (("prefill", cell.prefill_ratio), ("decode", cell.decode_ratio))
        texts = [f"{name} {_times(ratio)}" for name, ratio in named if ratio is not None]
        return f"{listed(texts)} the time of {self.question.series} at {self._label}"

    def _rest(self, told: QualityCell | None = None) -> str:
        text = ""
        open_, beyond = (
            [c for c in self._standing(kind) if c is not told] for kind in ("open", "beyond")
        )
        if open_:
            text += (
                f" Not decided: {', '.join(f'{c.series} {_full(c.difference)}' for c in open_)}."
            )
        if beyond:
            text += f" Beyond {self._allowed}: {', '.join(map(self._broken, beyond))}."
        return text

    def _other(self, cell: QualityCell) -> str:
        short = self.question.short_context
        if short is None or cell.harm is None or cell.harm.low is None or cell.harm.low <= 0:
            return _short(cell)
        return f"{_short(cell)[:-1]}, but {signed(cell.harm.value)} at {context_label(short)})"

    def _broken(self, cell: QualityCell) -> str:
        position = self.breaks.get((cell.series, self._context))
        if position is None:
            return _short(cell)
        return f"{_short(cell)[:-1]}, {_from(position)})"

    def _none_holds(self) -> Advice:
        nearest = min(self.cells, key=_loss)
        all_beyond = all(cell.standing == "beyond" for cell in self.cells)
        said = "every series is beyond" if all_beyond else "no series is shown to be within"
        headline = f"At {self._label} {said} {self._allowed} of {self._reference}"
        lowest = f"{nearest.series} has the lowest loss: {self._evidence(nearest)}."
        return Advice(
            context_tokens=self._context,
            series=None,
            headline=headline,
            sentence=f"{headline}. {lowest}{self._rest(nearest)}",
        )


def _loss(cell: QualityCell) -> float:
    return float("inf") if cell.difference is None else cell.difference.value


def _harm(cell: QualityCell) -> float:
    return float("inf") if cell.harm is None else cell.harm.value


def _includes_zero(estimate: Estimate) -> bool:
    low, high = estimate.low, estimate.high
    return low is None or high is None or low <= 0 <= high


def _names(cells: Sequence[QualityCell]) -> str:
    return listed([cell.series for cell in cells])


def _from(position: int) -> str:
    return f"from {context_label(position)} on" if position else "from the start"


def _short(cell: QualityCell) -> str:
    return f"{cell.series} ({signed(_loss(cell))})"


def _full(estimate: Estimate | None) -> str:
    """``+0.008 nats (−0.010 to +0.026)``."""
    if estimate is None:
        return "no figure"
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return f"{signed(estimate.value)} nats"
    return f"{signed(estimate.value)} nats ({signed(estimate.low)} to {signed(estimate.high)})"


def _times(ratio: Estimate) -> str:
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.2f}×"
    return f"{ratio.value:.2f}× ({ratio.low:.2f} to {ratio.high:.2f})"
