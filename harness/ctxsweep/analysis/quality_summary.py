"""What a run means for quality: the types of ``quality`` in ``summary.json``."""

from __future__ import annotations

from math import exp
from typing import Literal

from pydantic import Field

from ctxsweep.analysis.interval import Estimate
from ctxsweep.frozen import Frozen
from ctxsweep.records_quality import TaskName, TextSource

Standing = Literal["within", "open", "beyond"]
"""A loss beside the largest that is allowed: its interval below it, around it, above it."""


class QualityCell(Frozen):
    """A series at a context. All losses are in nats per token, all differences paired: of the same
    targets of the same text.

    ``difference`` is against the reference series at the reference context, ``beside`` against the
    reference series at this context, ``harm`` of a short pass that was made with this cell's
    setting against the reference's. Intervals are 95%, by block bootstrap.
    """

    series: str
    context_tokens: int
    rope_type: str | None = Field(None, description="How the positions were stretched.")
    factor: float | None = Field(None, description="By which factor, as it was applied.")
    loss: float | None = Field(description="Mean over the targets; of use in differences alone.")
    difference: Estimate | None = None
    standard_error: float | None = Field(None, description="Of the difference.")
    standing: Standing | None = None
    beside: Estimate | None = None
    harm: Estimate | None = None
    prefill_ratio: Estimate | None = Field(
        None, description="Time over that of the reference series at this context."
    )
    decode_ratio: Estimate | None = None
    detail: str = Field("", description="What of it could not be measured, and why.")

    @property
    def perplexity_ratio(self) -> Estimate | None:
        """exp of the difference: the perplexity over the reference's."""
        return None if self.difference is None else _exponential(self.difference)


class Reach(Frozen):
    """How far a series holds.

    ``effective_tokens`` is the longest measured context such that it and all shorter ones are
    within what is allowed; ``at_least`` where the next longer one has no standing: it failed, was
    not asked for, or has nothing to be compared with. ``breaks_at`` is the position in its longest
    context from which the loss is shown to be above what is allowed for two buckets running; None:
    no break was shown there, or positions were not compared.
    """

    series: str
    longest_tokens: int
    effective_tokens: int | None
    at_least: bool
    breaks_at: int | None = None


class PositionCurve(Frozen):
    """Loss by position in a series' longest context, against healthy losses of the same targets.

    Healthy ones are the reference's, each with half to a whole reference context before it (with
    all there is before it, at the start of the text).
    """

    series: str
    context_tokens: int
    bucket_tokens: int
    starts: tuple[int, ...] = Field(description="Position of every bucket's first target.")
    differences: tuple[Estimate, ...]


class TaskRate(Frozen):
    """Answers of a task that were exact: at one depth, or at all (None) together."""

    series: str
    task: TaskName
    context_tokens: int
    depth: float | None
    exact: int
    trials: int
    share: Estimate = Field(description="With Wilson's interval.")
    log_probability: float = Field(description="Of the whole answer, in nats; mean of the trials.")


class Advice(Frozen):
    """Which series to take at a context, and why. ``equal`` are those that nothing told apart,
    from it or from one another.
    """

    context_tokens: int
    series: str | None = Field(description="None: no series is within what is allowed.")
    factor: float | None = None
    equal: tuple[str, ...] = ()
    headline: str = Field(description="How the sentence begins.")
    sentence: str


class QualitySummary(Frozen):
    """All that a run says of quality; cells by series and context in the order of the scenario."""

    reference_series: str
    reference_context: int = Field(description="Of longer contexts; shorter ones have their own.")
    short_context: int | None
    target_tokens: int = Field(description="Targets compared, of every stretch.")
    stretches: int
    max_loss: float = Field(description="Nats that are allowed.")
    text: TextSource
    tokenizer: str
    trained_tokens: int | None
    cells: tuple[QualityCell, ...]
    reach: tuple[Reach, ...]
    positions: tuple[PositionCurve, ...]
    tasks: tuple[TaskRate, ...]
    advice: tuple[Advice, ...]

    def cell(self, series: str, context_tokens: int) -> QualityCell | None:
        """The cell of a series at a context, or None."""
        same = (c for c in self.cells if (c.series, c.context_tokens) == (series, context_tokens))
        return next(same, None)

    def is_reference(self, series: str, context_tokens: int) -> bool:
        """Whether others of that context are compared with this cell."""
        return series == self.reference_series and context_tokens <= self.reference_context

    def rate(self, task: TaskName, series: str, context_tokens: int) -> TaskRate | None:
        """A task over all depths, or None."""
        wanted = (task, series, context_tokens, None)
        of = ((r, (r.task, r.series, r.context_tokens, r.depth)) for r in self.tasks)
        return next((rate for rate, key in of if key == wanted), None)


def _exponential(estimate: Estimate) -> Estimate:
    low, high = (None if v is None else exp(v) for v in (estimate.low, estimate.high))
    return Estimate(value=exp(estimate.value), low=low, high=high, n=estimate.n)
