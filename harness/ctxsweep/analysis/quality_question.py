"""What a scenario asks of quality, with its reference found among what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctxsweep.records import Record

TARGET_TOKENS = 2048
MAX_LOSS = 0.1


@dataclass(frozen=True)
class Question:
    """``series`` is the reference, at ``context`` for all longer ones; ``max_loss`` nats against it
    are allowed."""

    series: str
    context: int
    short_context: int | None = None
    target_tokens: int = TARGET_TOKENS
    max_loss: float = MAX_LOSS

    def reference(self, context: int) -> tuple[str, int]:
        """Series and context that a context is compared with: as long, within what was trained."""
        return self.series, min(context, self.context)


def question_of(asked: Mapping[str, Any], cells: Sequence[Record]) -> Question:
    """From the scenario's section ``quality``; ``cells`` are all that were tried, in order.

    Without a reference it is the first series, at the longest context of its that was measured
    and is not beyond the trained one.
    """
    reference = asked.get("reference") or {}
    series = reference.get("series") or cells[0].cell.series.name
    own = [record for record in cells if record.cell.series.name == series]
    measured = [record for record in own if record.quality is not None]
    context = reference.get("context") or _longest_trained(measured or own)
    return Question(
        series=series,
        context=context,
        short_context=asked.get("short_context"),
        target_tokens=asked.get("target_tokens") or TARGET_TOKENS,
        max_loss=MAX_LOSS if asked.get("max_loss") is None else asked["max_loss"],
    )


def _longest_trained(records: Sequence[Record]) -> int:
    contexts = [record.cell.context_tokens for record in records]
    trained = next((r.quality.trained_tokens for r in records if r.quality is not None), None)
    within = [n for n in contexts if trained is not None and n <= trained]
    return max(within) if within else min(contexts, default=0)
