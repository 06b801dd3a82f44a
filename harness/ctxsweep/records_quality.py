"""What is asked and what is stored of a model's quality along the context: losses and tasks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ctxsweep.frozen import Frozen
from ctxsweep.scenario_units import Contexts

TaskName = Literal["passkey", "multi_key", "variable_tracking"]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Depths = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...],
    BeforeValidator(_tuple),
    Field(min_length=1, max_length=64),
]


class TaskPlan(Frozen):
    """Trials of one task: what is to be found lies at every depth, ``trials`` times each."""

    depths: Depths = Field(
        (0.05, 0.35, 0.65, 0.95), description="Where in the context: 0 is its start, 1 its end."
    )
    contexts: Contexts | None = Field(
        None, description="Only at these context lengths; default all of the scenario's."
    )
    series: Annotated[tuple[str, ...], BeforeValidator(_tuple)] | None = Field(
        None, description="Only of these series; default all of the scenario's."
    )
    trials: int = Field(2, ge=1, le=1000, description="Trials at every depth.")
    distractors: int = Field(
        3, ge=0, le=256, description="multi_key: other keys; variable_tracking: links of the chain."
    )


class PassPlan(Frozen):
    """A pass over a stretch of the text: its context, and how far before the end it ends."""

    context_tokens: int = Field(ge=1)
    end_offset: int = Field(0, ge=0)


class CellQuality(Frozen):
    """What a cell measures of quality; ``passes[0]`` is over its own context and is timed.

    All cells of a run share ``stretch_ends``: targets are the same tokens at every context.
    """

    text: str
    stretch_ends: tuple[int, ...] = Field(description="Tokens of the text before each end.")
    block_tokens: int = Field(ge=1)
    passes: tuple[PassPlan, ...]
    tasks: dict[TaskName, TaskPlan] = Field(default_factory=dict)

    @property
    def fed_tokens(self) -> int:
        """About how many tokens all of it feeds; trials share what comes before their depth."""
        context = self.passes[0].context_tokens
        shares = (
            max(task.depths) + task.trials * sum(1 - depth for depth in task.depths)
            for task in self.tasks.values()
        )
        passes = sum(one.context_tokens for one in self.passes) * len(self.stretch_ends)
        return passes + round(context * sum(shares))


class TextSource(Frozen):
    """The text that was read."""

    name: str
    sha256: str
    tokens: int
    tokens_sha256: str = Field(description="Of the ids as int64: what tells two tokenizers apart.")


class LossPass(Frozen):
    """One pass over a stretch of the text: the mean loss of every block of targets, in nats.

    ``context_tokens`` tokens were fed; each predicts the next. Blocks are counted from the end of
    the pass (a first part that fills none is left out), so the blocks of two passes that end at
    the same place hold the same targets, the last with the last.
    """

    context_tokens: int
    stretch: int
    end_offset: int = 0
    block_tokens: int
    losses: tuple[float, ...]


class Trial(Frozen):
    """One question about the context. The answer was fed after it: no decoding is needed.

    ``correct_tokens`` of ``answer_tokens`` were the likeliest token at their place;
    ``log_probability`` is that of the whole answer, in nats.
    """

    task: TaskName
    context_tokens: int
    depth: float
    trial: int
    answer_tokens: int
    correct_tokens: int
    log_probability: float

    @property
    def exact(self) -> bool:
        """Whether greedy decoding would have given the answer."""
        return self.correct_tokens == self.answer_tokens


class Quality(Frozen):
    """What a cell measured of quality."""

    text: TextSource
    tokenizer: str
    trained_tokens: int | None = Field(description="Longest context of the model's training.")
    rope: dict[str, Any] | None = Field(None, description="The stretching as it was applied.")
    passes: tuple[LossPass, ...] = ()
    trials: tuple[Trial, ...] = ()
    detail: str = Field("", description="What could not be measured, and why.")
