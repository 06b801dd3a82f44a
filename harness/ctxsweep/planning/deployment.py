"""How a model is to be run: types, batch, devices side by side, and what is kept back."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from ctxsweep.frozen import Frozen
from ctxsweep.models.accounting import Storage
from ctxsweep.models.config import RWKV, ModelConfig
from ctxsweep.records import DType, KVDType

WeightDType = Literal["float32", "bfloat16", "float16", "fp8", "int8", "int4"]
WEIGHT_DTYPES: tuple[WeightDType, ...] = get_args(WeightDType)
StateDType = Literal["float32", "auto"]
"""Of the recurrent part of a state; ``auto``: the type that is computed with."""
STATE_DTYPES: tuple[StateDType, ...] = get_args(StateDType)
KV_DTYPES: tuple[KVDType, ...] = get_args(KVDType)

WEIGHT_BITS: dict[WeightDType, float] = {
    "float32": 32,
    "bfloat16": 16,
    "float16": 16,
    "fp8": 8,  # one scale per tensor: nothing beside the weights
    "int8": 8,  # one 16-bit scale per output channel: below 0.01 bits a weight, left out
    "int4": 4 + (16 + 4) / 128,  # per group of 128 (GPTQ, AWQ) a 16-bit scale and a 4-bit zero
}
"""Bits of one weight of a layer's matrices, scales among them."""


class BadDeployment(ValueError):
    """A deployment that this model cannot have; the message tells what would do."""


class Deployment(Frozen):
    """Types, batch and devices of a planned run.

    ``prefill_chunk``: tokens of one prefill call, of all sequences together. ``reserve_share``:
    share of each device's memory that is kept back (fragmentation, the driver's context, graphs),
    as 1 − ``gpu_memory_utilization`` of vLLM. ``state_dtype``: float32 is what the models here and
    most recurrences hold; vLLM and mamba_ssm keep Mamba's states in the model's type by default.
    """

    weight_dtype: WeightDType = "bfloat16"
    kv_dtype: KVDType = "auto"
    state_dtype: StateDType = "float32"
    batch_size: int = Field(1, ge=1, le=1 << 20)
    tensor_parallel: int = Field(1, ge=1, le=1024)
    prefill_chunk: int = Field(2048, ge=1, le=1 << 24)
    page_size: int = Field(16, ge=1, le=1 << 20)
    reserve_share: float = Field(0.1, ge=0, lt=1)

    @property
    def activation_dtype(self) -> DType:
        """Type that is computed with, and of all weights that are not quantised."""
        kind = self.weight_dtype
        if kind == "fp8" or kind == "int8" or kind == "int4":
            return "bfloat16"
        return kind

    @property
    def recurrent_dtype(self) -> DType:
        """Type of the recurrent part of a state."""
        return "float32" if self.state_dtype == "float32" else self.activation_dtype

    @property
    def storage(self) -> Storage:
        """How the accounting is told of it: weights as if none were quantised, float32 states."""
        return Storage(self.activation_dtype, self.kv_dtype, self.page_size)

    @property
    def matrix_bytes(self) -> float:
        """Bytes of one weight of a layer's matrices, scales among them."""
        return WEIGHT_BITS[self.weight_dtype] / 8

    @property
    def plain_bytes(self) -> int:
        """Bytes of one weight of the embedding, the head or a norm: never quantised."""
        return self.storage.element_bytes


def check(config: ModelConfig, deployment: Deployment) -> None:
    """Raises ``BadDeployment`` if the model cannot be split over so many devices."""
    ways = deployment.tensor_parallel
    if ways == 1 or splits(config, ways):
        return
    valid = [n for n in range(1, 2 * ways) if splits(config, n)]
    below = [n for n in valid if n < ways][-1:]
    above = [n for n in valid if n > ways][:1]
    raise BadDeployment(
        f"{config.name} does not split over {ways} devices ("
        f"{', '.join(f'{count} {what}' for what, count in split_counts(config).items())}); "
        f"nearest valid: {' or '.join(map(str, below + above))}"
    )


def splits(config: ModelConfig, ways: int) -> bool:
    """Whether all that is split over the devices divides by ``ways``.

    Of key and value heads there may be fewer than devices: then each is held more than once.
    """
    if any(count % ways for count in split_counts(config).values()):
        return False
    held = config.attention.kv_heads if config.attention else ways
    return held % ways == 0 or ways % held == 0


def split_counts(config: ModelConfig) -> dict[str, int]:
    """What tensor parallelism splits, by name: heads, channels, inner widths."""
    counts: dict[str, int] = {}
    mixers = set(config.layer_mixers())
    hidden = config.hidden_size
    if config.attention is not None:
        counts["heads"] = config.attention.heads
    if config.mamba is not None:
        inner = hidden * config.mamba.expand
        if "mamba2" in mixers:
            counts["Mamba heads"] = inner // config.mamba.head_dim
        else:
            counts["Mamba channels"] = inner
    rwkv = config.rwkv6 or config.rwkv7
    if rwkv is not None and mixers & RWKV:
        counts["RWKV heads"] = hidden // rwkv.head_dim
    if config.retention is not None:
        counts["retention heads"] = config.retention.heads
    if config.ffn is not None:
        counts["feed-forward channels"] = config.ffn.size
    return counts
