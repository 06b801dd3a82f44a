"""Which code runs a model: what shares it shares its speeds."""

from __future__ import annotations

from typing import get_args

from pydantic import Field

from ctxsweep.frozen import Frozen
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.deployment import Deployment
from ctxsweep.records import DType, KVDType

DTYPES: tuple[DType, ...] = get_args(DType)


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
