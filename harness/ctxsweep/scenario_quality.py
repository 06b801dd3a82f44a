"""The section ``quality`` of a scenario file, and what it makes every cell measure."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from ctxsweep.frozen import Frozen
from ctxsweep.records_quality import CellQuality, PassPlan, TaskName, TaskPlan
from ctxsweep.scenario_units import ContextTokens


class Reference(Frozen):
    """What losses are compared with: a series at a context that the model was trained for."""

    series: str | None = Field(None, description="Default: the first series of the file.")
    context: ContextTokens = Field(description="Context length, as 8k; one of the contexts.")


class QualityPlan(Frozen):
    """Losses of a real text and tasks, at every context, beside time and memory.

    The last ``target_tokens`` of a stretch of the text are the same at every context, so that
    losses are compared in pairs.
    """

    text: str = Field("emma", description="A text of the package, or the path of a UTF-8 file.")
    reference: Reference
    target_tokens: int = Field(2048, ge=16, le=1 << 20, description="Compared, of each stretch.")
    stretches: int = Field(1, ge=1, le=10_000, description="Stretches of the text.")
    block_tokens: int = Field(16, ge=1, le=4096, description="Targets that a stored loss is of.")
    short_context: ContextTokens | None = Field(
        None, description="Also measured with the setting for each context: what harm it does."
    )
    tasks: dict[TaskName, TaskPlan] = Field(
        default_factory=dict, description="Trials in which something is to be found in the text."
    )
    max_loss: float = Field(0.1, gt=0, description="Nats over the reference that are acceptable.")

    @model_validator(mode="after")
    def _targets(self) -> Self:
        shortest = min(self.reference.context, self.short_context or self.reference.context)
        if self.target_tokens > shortest:
            raise ValueError(
                f"target_tokens = {self.target_tokens} exceeds the shortest context of "
                f"{shortest}; nearest valid: {shortest}"
            )
        if self.reference.context % self.block_tokens:
            raise ValueError(
                f"reference.context = {self.reference.context} must be a multiple of block_tokens "
                f"= {self.block_tokens}"
            )
        if self.target_tokens % self.block_tokens:
            raise ValueError(
                f"target_tokens = {self.target_tokens} must be a multiple of block_tokens = "
                f"{self.block_tokens}; nearest valid: "
                f"{max(1, self.target_tokens // self.block_tokens) * self.block_tokens}"
            )
        return self

    def needed_tokens(self, contexts: tuple[int, ...]) -> int:
        """Tokens that the text must have."""
        return self._ends(contexts)[-1]

    def of_cell(self, contexts: tuple[int, ...], series: str, context: int) -> CellQuality:
        """What the cell of a series at a context measures."""
        passes = [PassPlan(context_tokens=context)]
        if self.short_context is not None and self.short_context < context:
            passes.append(PassPlan(context_tokens=self.short_context))
        if series == self.reference.series and context == self.reference.context:
            passes += self._rolling(max(contexts))
        return CellQuality(
            text=self.text,
            stretch_ends=self._ends(contexts),
            block_tokens=self.block_tokens,
            passes=tuple(passes),
            tasks={
                name: plan
                for name, plan in self.tasks.items()
                if (plan.contexts is None or context in plan.contexts)
                and (plan.series is None or series in plan.series)
            },
        )

    def _ends(self, contexts: tuple[int, ...]) -> tuple[int, ...]:
        first = max(contexts) + 1
        return tuple(first + i * self.target_tokens for i in range(self.stretches))

    def _rolling(self, longest: int) -> list[PassPlan]:
        """The reference over all of the longest context, half a window at a time."""
        window, block = self.reference.context, self.block_tokens
        step = max(block, window // 2 // block * block)
        last = (longest - window) // block * block
        offsets = [*range(step, last, step), *([last] if last > 0 else [])]
        return [PassPlan(context_tokens=window, end_offset=offset) for offset in offsets]
