"""What a search for the frontier found: the types of ``frontier`` in ``summary.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ctxsweep.analysis.interval import Estimate
from ctxsweep.frozen import Frozen
from ctxsweep.records import Status

Quantity = Literal["context_tokens", "batch_size"]
Limit = Literal["memory", "decode", "prefill", "positions"]
"""What a series can go over. ``positions``: the model's table of positions ends."""
Silence = Literal["time", "load", "unsupported", "error"]
"""Why a try says nothing of a limit. ``time``: a budget of the sweep was spent before there was an
answer; ``load``: so it was before the try was begun."""
Reason = Limit | Silence


class TryOutcome(Frozen):
    """What one try says of the limits; made once from its record, read by all that tell of it."""

    kind: Literal["passes", "over", "says_nothing"]
    reason: Reason | None = Field(None, description="Limit that it is over, or why it is silent.")
    detail: str = Field("", description="In the words of what refused or broke; empty if it ran.")

    @property
    def final(self) -> bool:
        """Whether no other try would do better: only a smaller one may take less time."""
        return self.kind == "says_nothing" and self.reason != "time"


class FrontierProbe(Frozen):
    """One cell: the largest that ran within, the smallest that did not, or one that is silent."""

    key: str = Field(description="Of the cell, as the records have it.")
    value: int = Field(description="Tokens of context, or sequences.")
    status: Status
    outcome: TryOutcome
    contended_share: float | None = Field(
        None, description="Share of samples for which other work shared the processor."
    )
    metrics: dict[str, Estimate] = Field(description="Times and bytes; empty if it did not run.")


class FrontierLine(Frozen):
    """How far one series goes: the limit lies at ``passes`` or above it, and below ``fails``."""

    series: str
    quantity: Quantity = Field(description="What was varied.")
    at: int = Field(description="The other one, that was not: batch size, or tokens of context.")
    up_to: int
    step: int
    passes: FrontierProbe | None = Field(description="None: nothing was seen to run within.")
    fails: FrontierProbe | None = Field(description="None: nothing was seen to go over a limit.")
    silent: FrontierProbe | None = Field(
        None, description="The try above ``passes`` that gave no answer: then neither is there one."
    )
    stopped_by: Reason | None = Field(
        description="Why the search ended: of ``silent``, else of ``fails``; null: up_to runs."
    )
    close: bool = Field(description="A limit of time lies inside the interval of either probe.")
    complete: bool = Field(description="False: interrupted before the answer.")
    tries: int = Field(description="Probes run for it; the scenario's own cells are not counted.")
    most_tries: int


class FrontierSummary(Frozen):
    """The limits that had to hold, all together, and how far each series goes within them."""

    memory_bytes: int | None = Field(description="Of a child; None: what was free on the machine.")
    decode_s: float | None = Field(description="Median of a decode step; None: no limit.")
    prefill_s: float | None = Field(description="Of the whole context; None: no limit.")
    lines: tuple[FrontierLine, ...]
