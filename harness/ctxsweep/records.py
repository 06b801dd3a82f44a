"""Every type that is written to disk.

A record holds raw samples; statistics are derived on reading. Units are in the names.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from ctxsweep.frozen import Frozen
from ctxsweep.records_quality import CellQuality, Quality

SCHEMA_VERSION = 1

DType = Literal["float32", "bfloat16", "float16"]
KVDType = Literal["auto", "float32", "bfloat16", "float16", "fp8_e4m3", "fp8_e5m2", "int8"]
ProcedureKind = Literal["ladder", "independent"]


class Status(StrEnum):
    """How a cell ended. Everything but ``OK`` is a result too: a censored point on the plot."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    OOM = "oom"
    TIMEOUT = "timeout"
    OVER_BUDGET = "over_budget"
    ERROR = "error"


Divisor = Annotated[float, Field(gt=0, le=1e6)]


class RopeScaling(Frozen):
    """How rotary positions are stretched, in the words of transformers' ``rope_parameters``.

    Linear interpolation: arXiv 2306.15595; YaRN, and by parts without its attention factor: arXiv
    2309.00071; LongRoPE: arXiv 2402.13753; llama3: arXiv 2407.21783. NTK-aware scaling changes the
    base, dynamic NTK with the length (both described in arXiv 2309.00071, section 3).
    """

    rope_type: Literal["linear", "ntk", "dynamic", "ntk_by_parts", "yarn", "longrope", "llama3"]
    factor: Annotated[float, Field(ge=1, le=1e6)] | Literal["auto"] = Field(
        description="Longest context over the trained one; auto: target_tokens over it."
    )
    target_tokens: int | None = Field(
        None, ge=1, description="For factor auto; default: the context that is measured."
    )
    original_max_position_embeddings: int | None = Field(
        None, ge=1, description="Context of the training."
    )
    attention_factor: float | None = Field(None, gt=0, le=1e6, description="YaRN and LongRoPE.")
    beta_fast: float | None = Field(None, gt=0, le=1e6, description="YaRN; default 32.")
    beta_slow: float | None = Field(None, gt=0, le=1e6, description="YaRN; default 1.")
    low_freq_factor: float | None = Field(None, gt=0, le=1e6, description="llama3.")
    high_freq_factor: float | None = Field(None, gt=0, le=1e6, description="llama3.")
    short_factor: tuple[Divisor, ...] | None = Field(None, description="LongRoPE.")
    long_factor: tuple[Divisor, ...] | None = Field(None, description="LongRoPE.")
    mscale: float | None = Field(None, gt=0, le=1e6, description="YaRN as DeepSeek has it.")
    mscale_all_dim: float | None = Field(None, gt=0, le=1e6, description="YaRN as DeepSeek has it.")
    truncate: bool | None = Field(None, description="YaRN: whole bounds of the ramp; default true.")


class Series(Frozen):
    """One line of the plot: a model on an engine with its settings."""

    name: str
    backend: str = "native"
    model: str | dict[str, Any] = Field(
        description="A name of the catalogue, the path of a model folder, of a .gguf or .pth file, "
        "or a configuration."
    )
    dtype: DType = "float32"
    kv_dtype: KVDType = Field("auto", description="Type of the cached keys and values.")
    window: int | None = Field(None, ge=1, description="Overrides the model's attention window.")
    sinks: int | None = Field(
        None, ge=1, description="First tokens that stay visible beside the window (StreamingLLM)."
    )
    prefill_chunk: Annotated[int, Field(ge=1)] | Literal["whole", "recurrent"] = Field(
        512, description="Tokens per prefill call, 'whole', or 'recurrent' (token by token)."
    )
    page_size: int = Field(256, ge=1, le=1 << 20, description="Tokens per page of the KV cache.")
    rope: RopeScaling | None = Field(None, description="Stretches the model's rotary positions.")
    options: dict[str, Any] = Field(default_factory=dict, description="Passed to the backend.")

    def aimed(self, target_tokens: int) -> Series:
        """The same, stretched to a context where ``rope.factor`` is auto without a target."""
        rope = self.rope
        if rope is None or rope.factor != "auto" or rope.target_tokens is not None:
            return self
        aimed = rope.model_copy(update={"target_tokens": target_tokens})
        return self.model_copy(update={"rope": aimed})


class Cell(Frozen):
    """One point to be measured: a series at a context length and a batch size."""

    scenario: str
    series: Series
    context_tokens: int = Field(ge=1)
    generate_tokens: int = Field(ge=1)
    batch_size: int = Field(1, ge=1)
    procedure: ProcedureKind
    seed: int = 0
    role: Literal["measure", "sentinel", "frontier"] = "measure"
    occurrence: int = Field(0, description="Which repetition of a sentinel this is.")
    quality: CellQuality | None = Field(None, description="Beside time and memory, if asked for.")

    @cached_property
    def key(self) -> str:
        """Hash of all fields. Procedure, budgets and threads are the run's: see its manifest."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Sample(Frozen):
    """One timed call of the engine.

    ``position`` counts the tokens of context per sequence before the call, ``tokens`` those that
    the call adds per sequence. ``repeat`` tells repetitions (climbs, decode runs) apart.
    ``cpu_s`` is None where another process does the work.
    """

    phase: Literal["prefill", "decode"]
    position: int
    tokens: int
    wall_s: float
    cpu_s: float | None
    device_s: float | None = None
    repeat: int = 0


class MemoryReading(Frozen):
    """Memory after one prefill chunk or every so many decoded tokens.

    Weights and cache are exact (tensors, or the engine's block accounting). The process figures
    are the resident set, a cross-check; the device figures the allocator's statistics. None is what
    is not known: a server across a network says little of its memory.
    """

    phase: Literal["prefill", "decode"]
    position: int
    weights_bytes: int | None
    cache_used_bytes: int | None
    cache_reserved_bytes: int | None
    activations_peak_bytes: int | None = None
    process_bytes: int | None = None
    process_peak_bytes: int | None = None
    device_peak_bytes: int | None = None


class Cost(Frozen):
    """What the arithmetic of the model demands at this context, from its configuration alone.

    Prefill is for the whole context, decode for one step at the end of it, both for the batch.
    """

    parameters: int
    prefill_flops: float
    prefill_bytes: float
    decode_flops: float
    decode_bytes: float
    cache_bytes: int = Field(description="Cache or state that the formula predicts, page-exact.")
    cache_bytes_per_token: float = Field(description="Growth per token and sequence; 0 for state.")


class Power(Frozen):
    """Board power over a cell. A reading over too short a window is not valid and says why."""

    valid: bool
    reasons: tuple[str, ...] = ()
    prefill_power_w: float | None = None
    decode_power_w: float | None = None
    prefill_energy_j: float | None = None
    decode_energy_j: float | None = None
    sm_clock_mhz: float | None = None
    throttle_reasons: tuple[str, ...] = ()


class Probe(Frozen):
    """Logits of a seeded prompt that every engine is given, at seeded places of the vocabulary."""

    tokens: int
    vocabulary: int
    logits: tuple[float | None, ...] = Field(description="None: not finite.")
    spread: float = Field(description="Standard deviation of the whole vocabulary's finite ones.")


class Ceilings(Frozen):
    """What this machine can do, measured by the run itself in the process that measures."""

    device: str
    threads: int
    matmul_flops_per_s: dict[str, float]
    read_bytes_per_s: float
    by_threads: dict[str, dict[str, float]] = Field(default_factory=dict)


class Environment(Frozen):
    """The machine and the software, as far as they can change a figure."""

    machine: str
    cpu_model: str
    cpu_flags: tuple[str, ...]
    physical_cores: int
    logical_cores: int
    memory_bytes: int
    threads: int
    device: str
    gpu: str | None = None
    gpu_driver: str | None = None
    python: str
    os: str
    versions: dict[str, str]
    commit: str | None = None
    dirty: bool | None = None
    load_average: float
    cpu_governor: str | None = None
    other_gpu_processes: int | None = None


class Reached(Frozen):
    """How far a cell had come when its time was over, as far as was heard of it."""

    position: int = Field(description="Tokens of context; 0: nothing was heard.")
    prefill_s: float | None = Field(
        description="Of its longest prefill; of one under way, what it had taken by then."
    )
    decode_s: float | None = Field(description="The latest step that was heard of.")


class Record(Frozen):
    """All that is known of one measured cell."""

    schema_version: int = SCHEMA_VERSION
    cell: Cell
    status: Status
    detail: str = Field("", description="Why the status is not ok, and what would help.")
    predicted_s: float | None = Field(None, description="Only for over_budget: the prediction.")
    reached: Reached | None = Field(None, description="Only for timeout, if it was begun.")
    samples: tuple[Sample, ...] = ()
    warmups: tuple[Sample, ...] = ()
    memory: tuple[MemoryReading, ...] = ()
    stopped_by: Literal["noise", "time", "count"] | None = None
    cost: Cost | None = None
    power: Power | None = None
    probe: Probe | None = Field(None, description="None from an engine that shows no logits.")
    quality: Quality | None = None
    ceilings: Ceilings | None = None
    environment: Environment | None = None
    engine: dict[str, Any] = Field(
        default_factory=dict, description="What the engine says of itself; cached_tokens among it."
    )
    climb_s: float | None = Field(
        None, description="Ladder: wall time from the climb's start to this rung, all included."
    )
    started_at: str = Field("", description="UTC, ISO 8601.")
    elapsed_s: float = 0.0
