"""What a machine makes of its ceilings: speeds fitted to its own runs, and times from them.

The time of calls is that of three parts, one after the other::

    seconds = layers · calls · call_s
            + max(weights read / B, products with weights / F) / its share of the ceiling
            + max(cache read / B, products with the cache / F) / its share of the ceiling

F and B are the ceilings that the runs measured. Which side of a ``max`` counts is settled at the
ceilings themselves, as a roofline does, so that the time is linear in what is fitted. Prefill and
decode are the same sum for other calls and have their speeds in common. No share is above 1: a
prediction never beats the bound.
"""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from ctxsweep.analysis.predicted import (
    CalibrationOverview,
    Errors,
    GroupOverview,
    PredictedMetric,
)
from ctxsweep.frozen import Frozen
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.demand import Demand, decode_demand, prefill_demand
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.footprint import cache_bytes, weights_bytes
from ctxsweep.records import Ceilings, DType, KVDType

CALIBRATION_VERSION = 1
DTYPES: tuple[DType, ...] = get_args(DType)

Share = Annotated[float, Field(gt=0, le=1)]
Columns = tuple[float, float, float, float, float]
"""What a call's time is made of, in seconds at the ceilings (the first in layers · calls)."""


class BadCalibration(ValueError):
    """A calibration that cannot be read or used here; the message names the file and why."""


class CodePath(Frozen):
    """What decides which code runs: series that share it share their speeds."""

    backend: str
    dtype: DType
    kv_dtype: KVDType = Field(description="As held, never auto.")
    mixers: tuple[str, ...] = Field(description="Kinds of layers, sorted.")
    experts: bool = False
    window: bool = False

    @property
    def engine(self) -> str:
        """``native float32``."""
        return f"{self.backend} {self.dtype}"

    @property
    def kind(self) -> str:
        """``attention, fp8_e4m3 cache, experts``."""
        words = [" + ".join(self.mixers)]
        words += [f"{self.kv_dtype} cache"] if self.kv_dtype != self.dtype else []
        words += ["experts"] if self.experts else []
        words += ["window"] if self.window else []
        return ", ".join(words)


class Speeds(Frozen):
    """Fitted figures of one code path. A share is of the ceiling that the runs measured."""

    call_s: float = Field(ge=0, description="Seconds that a layer of a call costs besides.")
    linear: Share = Field(1.0, description="Of arithmetic, in products with weights.")
    attention: Share = Field(1.0, description="Of arithmetic, in products with the cache.")
    weights: Share = Field(1.0, description="Of read bandwidth, over weights.")
    cache: Share = Field(1.0, description="Of read bandwidth, over cache or state.")

    def seconds(self, columns: Columns) -> float:
        """The time of calls."""
        layers, *parts = columns
        shares = (self.linear, self.attention, self.weights, self.cache)
        return layers * self.call_s + sum(p / s for p, s in zip(parts, shares, strict=True))


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
    cells: int


class Group(Frozen):
    """A code path with its speeds, what they were fitted to, and how well they fit."""

    path: CodePath
    speeds: Speeds
    memory: ProcessMemory | None = None
    measured: Measured
    held_out: dict[PredictedMetric, Errors] = Field(
        default_factory=dict, description="On cells that a fit had not seen."
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
        return self.speeds.seconds(columns(config, deployment, asked, ceilings))

    def overview(self) -> GroupOverview:
        """What a person is shown."""
        return GroupOverview(
            engine=self.path.engine,
            kind=self.path.kind,
            models=self.measured.models,
            cells=self.measured.cells,
            call_s=self.speeds.call_s,
            shares=self.speeds.model_dump(exclude={"call_s"}),
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
        default_factory=dict, description="Every cell predicted by a fit of the other contexts."
    )
    longer: dict[PredictedMetric, Errors] = Field(
        default_factory=dict, description="The longer contexts, by a fit of the shorter half."
    )
    groups: tuple[Group, ...]

    def prefill_s(
        self,
        config: ModelConfig,
        deployment: Deployment,
        context_tokens: int,
        backend: str = "native",
    ) -> float | None:
        """Seconds to prefill the context, for the batch."""
        return self.predict("prefill_s", config, deployment, context_tokens, backend)

    def decode_s(
        self,
        config: ModelConfig,
        deployment: Deployment,
        context_tokens: int,
        backend: str = "native",
    ) -> float | None:
        """Seconds of one decode step of the batch with ``context_tokens`` held."""
        return self.predict("itl_s", config, deployment, context_tokens, backend)

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
            longer=self.longer,
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
    ) -> tuple[str, ...]:
        """What lies outside of what was measured, in words; empty if nothing does."""
        group = self.group(config, deployment, backend)
        if group is None:
            return ("no model of this kind was measured",)
        span = group.measured
        weights = weights_bytes(config, deployment)
        found = (
            ("context", context_tokens, span.contexts),
            ("batch", deployment.batch_size, span.batch_sizes),
            ("bytes of weights", weights, span.weights_bytes),
        )
        return tuple(
            f"{what} {value:,}: {low:,} to {high:,} measured"
            for what, value, (low, high) in found
            if not low * 0.5 <= value <= high * 2
        )


def code_path(config: ModelConfig, deployment: Deployment, backend: str) -> CodePath | None:
    """The code path of a model as it is deployed; None for what no backend here runs."""
    dtype = next((name for name in DTYPES if name == deployment.weight_dtype), None)
    if dtype is None or deployment.tensor_parallel > 1:
        return None
    mixers = tuple(sorted(set(config.layer_mixers())))
    attends = "attention" in mixers
    held = dtype if deployment.kv_dtype == "auto" or not attends else deployment.kv_dtype
    return CodePath(
        backend=backend,
        dtype=dtype,
        kv_dtype=held,
        mixers=mixers,
        experts=bool(config.ffn and config.ffn.experts),
        window=bool(attends and config.attention and config.attention.span),
    )


def demand_of(
    metric: PredictedMetric, config: ModelConfig, deployment: Deployment, context_tokens: int
) -> Demand:
    """What a prefill of the context, or a decode step after it, asks for."""
    storage, batch = deployment.storage, deployment.batch_size
    if metric == "itl_s":
        return decode_demand(config, storage, context_tokens, batch)
    chunk = max(1, deployment.prefill_chunk // batch)
    return prefill_demand(config, storage, context_tokens, batch, min(chunk, context_tokens))


def columns(
    config: ModelConfig, deployment: Deployment, demanded: Demand, ceilings: Ceilings
) -> Columns:
    """The parts of calls in seconds at the ceilings. Raises ``BadCalibration``."""
    rate = ceilings.matmul_flops_per_s.get(deployment.activation_dtype)
    if not rate:
        raise BadCalibration(f"no ceiling was measured for {deployment.activation_dtype}")
    linear = (demanded.linear_flops + demanded.scan_flops) / rate
    attention = demanded.attention_flops / rate
    weights = demanded.weight_bytes / ceilings.read_bytes_per_s
    cache = demanded.cache_bytes / ceilings.read_bytes_per_s
    return (
        float(config.num_layers * demanded.calls),
        linear if linear > weights else 0.0,
        attention if attention > cache else 0.0,
        weights if weights >= linear else 0.0,
        cache if cache >= attention else 0.0,
    )


def held_bytes(config: ModelConfig, deployment: Deployment, context_tokens: int) -> int:
    """Weights and used cache at a context, exact."""
    return weights_bytes(config, deployment) + cache_bytes(config, deployment, context_tokens)
