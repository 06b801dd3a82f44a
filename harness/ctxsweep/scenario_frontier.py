"""The section ``frontier`` of a scenario file: how far does it go within memory and time?

The longest context, or the largest batch, that really runs is found by bisection over a grid of
steps: ``steps + 1`` answers are possible (none of them, the first, …, all), and a try that says yes
or no can at best halve what is left, hence ``ceil(log2(steps + 1))`` tries at most.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from ctxsweep.frozen import Frozen
from ctxsweep.scenario_messages import nearest
from ctxsweep.scenario_units import Bytes, Contexts, ContextTokens

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_LONGEST_S = 7 * 86400
_DURATION_SCHEMA = {
    "type": ["number", "string"],
    "exclusiveMinimum": 0,
    "pattern": _DURATION.pattern,
    "examples": ["20ms", "10s"],
}


def _seconds(value: Any) -> Any:
    """Seconds from a number, or from a text such as ``20ms``. Raises ``ValueError``."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a time; write 20ms, 1.5s or 2min")
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if not match:
        raise ValueError(f"'{value[:40]}' is not a time; write 20ms, 1.5s or 2min")
    return float(match[1]) * _SECONDS[match[2]]


Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0, le=_LONGEST_S),
    WithJsonSchema(_DURATION_SCHEMA),
]


class ContextSearch(Frozen):
    """Multiples of ``step`` up to ``up_to``, at every batch size of the scenario."""

    up_to: ContextTokens = Field(description="Longest context to try, as 256k.")
    step: ContextTokens = Field(1024, description="How finely the limit is found, as 1k.")

    @model_validator(mode="after")
    def _whole_steps(self) -> Self:
        if self.step > self.up_to:
            raise ValueError(
                f"step = {self.step} exceeds up_to = {self.up_to}; nearest valid: {self.up_to}"
            )
        if self.up_to % self.step:
            near = self.up_to - self.up_to % self.step
            raise ValueError(
                f"up_to = {self.up_to} is not a whole number of steps of {self.step}; "
                f"nearest valid: {near}"
            )
        return self


class BatchSearch(Frozen):
    """Batch sizes from 1 to ``up_to``, at each of the contexts ``at``."""

    up_to: int = Field(ge=1, le=4096, description="Most sequences to try.")
    at: Contexts = Field(description="Contexts at which the largest batch is sought: [8k].")


class Within(Frozen):
    """The limits, one or more: all of them must hold."""

    memory: Bytes | None = Field(
        None, description="Of a child process, as 8GiB. Default: budgets.memory_bytes."
    )
    decode: Duration | None = Field(None, description="Median time of a decode step, as 20ms.")
    prefill: Duration | None = Field(None, description="Time to read the whole context, as 10s.")

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if self.memory is self.decode is self.prefill is None:
            raise ValueError("names no limit; write memory: 8GiB, decode: 20ms or prefill: 10s")
        return self


class Frontier(Frozen):
    """What is sought: the longest context, the largest batch, or both."""

    context: ContextSearch | None = Field(None, description="Seek the longest context.")
    batch: BatchSearch | None = Field(None, description="Seek the largest batch.")
    within: Within = Field(description="Memory and times that must hold.")
    positions: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="By series: where its positions end. Of known models it is filled in.",
    )

    @model_validator(mode="after")
    def _some_search(self) -> Self:
        if self.context is None and self.batch is None:
            raise ValueError(
                "seeks nothing; write context: {up_to: 256k, step: 1k} or "
                "batch: {up_to: 64, at: [8k]}"
            )
        return self

    def check(
        self, series: Sequence[str], memory_bytes: int | None, budgets_s: Mapping[str, float]
    ) -> None:
        """Raises ``ValueError`` if a try might take more memory than any child of the sweep may, if
        one that is within its limit would be ended by one of ``budgets_s``, the times that a cell
        has by their keys, or if ``positions`` names what is none of the ``series``.
        """
        memory, prefill = self.within.memory, self.within.prefill
        if memory and memory_bytes and memory > memory_bytes:
            raise ValueError(
                f"frontier.within.memory = {memory} exceeds budgets.memory_bytes = {memory_bytes}; "
                f"nearest valid: {memory_bytes}"
            )
        key, least_s = min(budgets_s.items(), key=lambda one: one[1])
        if prefill and prefill > least_s:
            raise ValueError(
                f"frontier.within.prefill = {prefill:g} s exceeds {key} = {least_s:g} s, so no try "
                f"could tell; nearest valid: {least_s:g}s, or raise {key}"
            )
        for name in self.positions:
            if name not in series:
                raise ValueError(
                    f"frontier.positions: no series is named '{name}'; {nearest(name, series)}"
                )
