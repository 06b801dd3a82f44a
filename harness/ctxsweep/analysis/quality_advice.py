"""The sentence that advises a series at a context: the choice, and the evidence for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctxsweep.analysis.paired import Losses
from ctxsweep.analysis.quality_choice import Choice, mean_loss
from ctxsweep.analysis.quality_question import Question
from ctxsweep.analysis.quality_summary import Advice, QualityCell, Reach, TaskRate
from ctxsweep.analysis.wording import context_label, listed, nats, one_of, signed, times
from ctxsweep.records_quality import TaskName

FINDS: dict[TaskName, tuple[str, str]] = {
    "passkey": ("find", "passkeys"),
    "multi_key": ("find", "keys"),
    "variable_tracking": ("follow", "chains"),
}


def advise(
    losses: Losses,
    question: Question,
    cells: Sequence[QualityCell],
    reach: Sequence[Reach],
    rates: Sequence[TaskRate],
) -> tuple[Advice, ...]:
    """One piece of advice for every context where losses were compared, shortest first."""
    breaks = {(r.series, r.longest_tokens): r.breaks_at for r in reach}
    found = []
    for context in sorted({cell.context_tokens for cell in cells}):
        at = [c for c in cells if c.context_tokens == context and c.standing is not None]
        if at:
            found.append(_Sentence(Choice(losses, question, at, rates), breaks).advice())
    return tuple(found)


@dataclass(frozen=True)
class _Sentence:
    """What may be said of the cells of one context."""

    choice: Choice
    breaks: dict[tuple[str, int], int | None]

    def advice(self) -> Advice:
        """The series to take with what supports it."""
        taken = self.choice.taken()
        if not taken:
            return self._none_holds()
        best, *equal = taken
        headline = self._headline(taken)
        plain = not equal and not self.choice.lost(best)
        start = f"{headline}: " if plain else f"{headline}. {_named(best)}: "
        sentence = f"{start}{self._evidence(best)}."
        if equal:
            sentence += f" Beside it: {', '.join(self._other(c, best) for c in equal)}."
        others = [c for c in self.choice.standing("within") if c not in taken]
        if others:
            within = ", ".join(self._other(c, best) for c in others)
            sentence += f" Also within {self._allowed}: {within}."
        return Advice(
            context_tokens=self.choice.context,
            series=best.series,
            factor=best.factor,
            equal=tuple(c.series for c in equal),
            headline=headline,
            sentence=sentence + self._rest(),
        )

    @property
    def _label(self) -> str:
        return context_label(self.choice.context)

    @property
    def _allowed(self) -> str:
        return f"{self.choice.question.max_loss:g} nats"

    @property
    def _reference(self) -> str:
        series, context = self.choice.question.reference(self.choice.context)
        return f"{series} at {context_label(context)}"

    def _headline(self, taken: list[QualityCell]) -> str:
        """``At 12K take yarn or llama3: nothing told them apart``; not so where tasks fail."""
        alone = len(taken) == 1
        names = _named(taken[0]) if alone else one_of([c.series for c in taken])
        lost = self.choice.lost(taken[0])
        if not lost:
            apart = "" if alone else ": nothing told them apart"
            return f"At {self._label} take {names}{apart}"
        found = listed([self._found(task, taken) for task in lost])
        apart = "" if alone else ", which nothing told apart"
        return f"At {self._label} by loss take {names}{apart}, but {found}"

    def _found(self, task: TaskName, taken: list[QualityCell]) -> str:
        """``it finds 0 of 4 keys``; of several series the least to the most."""
        rates = [self.choice.rate(task, c.series, c.context_tokens) for c in taken]
        known = [rate for rate in rates if rate is not None]
        counts = sorted({rate.exact for rate in known})
        verb, what = FINDS[task]
        who = f"it {verb}s" if len(taken) == 1 else f"they {verb}"
        spread = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return f"{who} {spread} of {known[0].trials} {what}"

    def _evidence(self, cell: QualityCell) -> str:
        question, context = self.choice.question, self.choice.context
        if (cell.series, context) == question.reference(context):
            parts = ["it is the reference, against which all are measured"]
        else:
            parts = [f"{nats(cell.difference, ' nats')} against {self._reference}"]
        parts += [text for task in self.choice.tasks() if (text := self._task(task, cell))]
        if cell.series != question.series:
            parts += [self._cost(cell)] if cell.prefill_ratio or cell.decode_ratio else []
        if cell.harm is not None and cell.harm.value != 0 and question.short_context:
            at = context_label(question.short_context)
            parts.append(f"{nats(cell.harm, ' nats')} at {at}")
        position = self.breaks.get((cell.series, context))
        if position is not None:
            parts.append(f"above {self._allowed} {_from(position)}")
        return "; ".join(parts)

    def _task(self, task: TaskName, cell: QualityCell) -> str:
        """``passkey 4 of 8 (none at 8K: 8 of 8)``."""
        rate = self.choice.rate(task, cell.series, cell.context_tokens)
        if rate is None:
            return ""
        text = _count(rate)
        controls = [one for one in self.choice.controls(task) if one is not rate]
        if not controls or rate.exact == rate.trials:
            return text
        beside = (
            f"{c.series} at {context_label(c.context_tokens)}: {c.exact} of {c.trials}"
            for c in controls
        )
        return f"{text} ({', '.join(beside)})"

    def _cost(self, cell: QualityCell) -> str:
        """An interval only of several prefills: of one, it leaves out what changes between them.
        Decode is timed after the first prefill alone.
        """
        prefill, decode = cell.prefill_ratio, cell.decode_ratio
        texts = [f"prefill {times(prefill, interval=prefill.n > 1)}"] if prefill else []
        texts += [f"decode {times(decode, interval=False)}"] if decode else []
        return f"{listed(texts)} the time of {self.choice.question.series} at {self._label}"

    def _rest(self, told: QualityCell | None = None) -> str:
        text = ""
        open_ = [c for c in self.choice.standing("open") if c is not told]
        beyond = [c for c in self.choice.standing("beyond") if c is not told]
        if open_:
            undecided = (f"{c.series} {nats(c.difference, ' nats')}" for c in open_)
            text += f" Not decided: {', '.join(undecided)}."
        if beyond:
            text += f" Beyond {self._allowed}: {', '.join(map(self._broken, beyond))}."
        return text

    def _other(self, cell: QualityCell, best: QualityCell) -> str:
        """``ntk (+0.050; passkey 0 of 8, but +0.020 at 2K)``."""
        text = signed(mean_loss(cell))
        telling = dict.fromkeys([*self.choice.lost(best), *self.choice.lost(cell)])
        rates = [self.choice.rate(task, cell.series, cell.context_tokens) for task in telling]
        text += "".join(f"; {_count(rate)}" for rate in rates if rate is not None)
        short, harm = self.choice.question.short_context, cell.harm
        if short is not None and harm is not None and harm.low is not None and harm.low > 0:
            text += f", but {signed(harm.value)} at {context_label(short)}"
        return f"{cell.series} ({text})"

    def _broken(self, cell: QualityCell) -> str:
        position = self.breaks.get((cell.series, self.choice.context))
        where = "" if position is None else f", {_from(position)}"
        return f"{cell.series} ({signed(mean_loss(cell))}{where})"

    def _none_holds(self) -> Advice:
        cells = self.choice.cells
        nearest = min(cells, key=mean_loss)
        all_beyond = all(cell.standing == "beyond" for cell in cells)
        said = (
            "every series that was measured is beyond"
            if all_beyond
            else "no series is shown to be within"
        )
        headline = f"At {self._label} {said} {self._allowed} of {self._reference}"
        lowest = f"{nearest.series} has the lowest mean loss: {self._evidence(nearest)}."
        return Advice(
            context_tokens=self.choice.context,
            series=None,
            headline=headline,
            sentence=f"{headline}. {lowest}{self._rest(nearest)}",
        )


def _named(cell: QualityCell) -> str:
    """``yarn (factor 2)``."""
    return cell.series if cell.factor is None else f"{cell.series} (factor {cell.factor:g})"


def _count(rate: TaskRate) -> str:
    return f"{rate.task.replace('_', ' ')} {rate.exact} of {rate.trials}"


def _from(position: int) -> str:
    return f"from {context_label(position)} on" if position else "from the start"
