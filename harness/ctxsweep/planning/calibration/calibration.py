"""What a machine makes of its ceilings: speeds fitted to its own runs, and times from them."""

from __future__ import annotations

from pydantic import Field

from ctxsweep.analysis.predicted import (
    CalibrationOverview,
    Errors,
    GroupOverview,
    PredictedMetric,
)
from ctxsweep.frozen import Frozen
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.calibration.code_path import CodePath, code_path
from ctxsweep.planning.calibration.speeds import Speeds, columns, demand_of, held_bytes
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import this_machine
from ctxsweep.planning.footprint import weights_bytes
from ctxsweep.planning.roofline import prefill_bound
from ctxsweep.records import Ceilings

CALIBRATION_VERSION = 2
SPAN = 2.0
"""Factor by which a context, batch or size may lie beyond the smallest or largest measured."""
CALL_SPAN = 4.0
"""The same of tokens in a prefill call, which the model counts as calls of their own."""


class ProcessMemory(Frozen):
    """Peak of the process: base, weights, cache, and something a token of context besides."""

    base_bytes: float = Field(ge=0)
    bytes_per_token: float = Field(ge=0)


class Measured(Frozen):
    """What the cells of a group spanned; beyond it a prediction is an extrapolation."""

    models: tuple[str, ...]
    contexts: tuple[int, int]
    batch_sizes: tuple[int, int]
    weights_bytes: tuple[int, int]
    call_tokens: tuple[int, int] = Field(description="Of a prefill call, all sequences together.")
    cells: int


class Group(Frozen):
    """A code path with its speeds, what they were fitted to, and how well they fit."""

    path: CodePath
    speeds: Speeds
    untold: tuple[str, ...] = Field(
        (),
        description="Shares that stayed at the ceiling because the cells do not tell them from the "
        "overhead: call_s holds what they cost.",
    )
    memory: ProcessMemory | None = None
    measured: Measured
    held_out: dict[PredictedMetric, Errors] = Field(
        default_factory=dict,
        description="On what a fit had not seen: decode steps, what a rung adds to the prefill, "
        "the peak of the process at longer contexts.",
    )
    fitted: dict[PredictedMetric, Errors] = Field(
        default_factory=dict, description="On the cells of the fit itself."
    )

    def predict(
        self,
        metric: PredictedMetric,
        config: ModelConfig,
        deployment: Deployment,
        context_tokens: int,
        ceilings: Ceilings,
    ) -> float | None:
        """A metric of a model of this path, in s or bytes; None if it was not fitted."""
        if metric == "held_bytes":
            return float(held_bytes(config, deployment, context_tokens))
        if metric == "process_peak_bytes":
            if self.memory is None:
                return None
            tokens = context_tokens * deployment.batch_size
            besides = self.memory.base_bytes + self.memory.bytes_per_token * tokens
            return besides + held_bytes(config, deployment, context_tokens)
        asked = demand_of(metric, config, deployment, context_tokens)
        seconds = self.speeds.seconds(columns(config, deployment, asked, ceilings))
        if metric == "prefill_s" and deployment.batch_size == 1:
            # The sum takes all calls together: a last, short one may be limited by something else.
            device = this_machine(ceilings, memory_bytes=1 << 40)  # of which no time depends
            return max(seconds, prefill_bound(config, deployment, device, context_tokens).seconds)
        return seconds

    def overview(self) -> GroupOverview:
        """What a person is shown."""
        return GroupOverview(
            engine=self.path.engine,
            kind=self.path.kind,
            models=self.measured.models,
            cells=self.measured.cells,
            call_s=self.speeds.call_s,
            shares=self.speeds.model_dump(exclude={"call_s"}),
            untold=self.untold,
            held_out=self.held_out,
        )


class Calibration(Frozen):
    """All of ``calibration.yaml``. Every answer is None where a code path was not measured."""

    schema_version: int = CALIBRATION_VERSION
    machine: str = Field(description="As machine_slug names it.")
    ceilings: Ceilings
    made_at: str
    commit: str | None = None
    runs: tuple[str, ...]
    held_out: dict[PredictedMetric, Errors] = Field(
        default_factory=dict,
        description="As of a group, over all: by fits of the other half of the contexts.",
    )
    whole_prefill: Errors | None = Field(
        None, description="Whole prefills by the same fits, which saw a part of their chunks."
    )
    longer: dict[PredictedMetric, Errors] = Field(
        default_factory=dict, description="The longer contexts, by a fit of the shorter half."
    )
    sizes: dict[PredictedMetric, Errors] = Field(
        default_factory=dict,
        description="Models of each size by a fit of the other sizes of their path.",
    )
    groups: tuple[Group, ...]

    def predict(
        self,
        metric: PredictedMetric,
        config: ModelConfig,
        deployment: Deployment,
        context_tokens: int,
        backend: str = "native",
    ) -> float | None:
        """Any metric, in s or bytes."""
        group = self.group(config, deployment, backend)
        if group is None:
            return None
        return group.predict(metric, config, deployment, context_tokens, self.ceilings)

    def overview(self) -> CalibrationOverview:
        """What a person is shown."""
        return CalibrationOverview(
            machine=self.machine,
            device=self.ceilings.device,
            threads=self.ceilings.threads,
            runs=self.runs,
            held_out=self.held_out,
            whole_prefill=self.whole_prefill,
            longer=self.longer,
            sizes=self.sizes,
            groups=tuple(group.overview() for group in self.groups),
        )

    def residual(self, metric: PredictedMetric) -> float | None:
        """Median relative error on cells that a fit had not seen; None if none were held out."""
        known = self.held_out.get(metric)
        return known.median if known else None

    def group(
        self, config: ModelConfig, deployment: Deployment, backend: str = "native"
    ) -> Group | None:
        """The group of a code path, or None if it was not measured."""
        path = code_path(config, deployment, backend)
        return next((group for group in self.groups if group.path == path), None)

    def beyond(
        self,
        config: ModelConfig,
        deployment: Deployment,
        context_tokens: int,
        backend: str = "native",
        metric: PredictedMetric | None = None,
    ) -> tuple[str, ...]:
        """What lies outside of what was measured, in words; empty if nothing does.

        The tokens of a prefill call say nothing of another metric than ``prefill_s``.
        """
        group = self.group(config, deployment, backend)
        if group is None:
            return ("no model of this kind was measured",)
        span = group.measured
        weights = weights_bytes(config, deployment)
        found = [
            ("context", context_tokens, span.contexts, SPAN),
            ("batch", deployment.batch_size, span.batch_sizes, SPAN),
            ("bytes of weights", weights, span.weights_bytes, SPAN),
        ]
        if metric in (None, "prefill_s"):
            tokens = call_tokens(deployment, context_tokens)
            found += [("tokens of a prefill call", tokens, span.call_tokens, CALL_SPAN)]
        return tuple(
            f"{what} {value:,}: {_span(low, high)} measured"
            for what, value, (low, high), factor in found
            if not low / factor <= value <= high * factor
        )


def call_tokens(deployment: Deployment, context_tokens: int) -> int:
    """Tokens of a prefill call, all sequences together."""
    return min(deployment.prefill_chunk, context_tokens * deployment.batch_size)


def _span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
