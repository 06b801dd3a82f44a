"""What a search for the frontier found: the types of ``frontier`` in ``summary.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ctxsweep.analysis.interval import Estimate
from ctxsweep.frozen import Frozen
from ctxsweep.records import Status

Quantity = Literal["context_tokens", "batch_size"]
Reason = Literal["memory", "decode", "prefill", "time", "unsupported", "error"]
"""``time``: a budget of the sweep was spent before there was an answer, not a limit sought."""
BROKEN: tuple[Reason, ...] = ("unsupported", "error")
"""These say nothing of a limit: a search that meets one ends without an answer."""


class FrontierProbe(Frozen):
    """One cell that bounds the limit: the largest that ran within it, or the smallest that not."""

    key: str = Field(description="Of the cell, as the records have it.")
    value: int = Field(description="Tokens of context, or sequences.")
    status: Status
    detail: str = ""
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
    fails: FrontierProbe | None = Field(description="None: censored, all up to up_to ran within.")
    stopped_by: Reason | None = Field(description="Why ``fails`` does.")
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
