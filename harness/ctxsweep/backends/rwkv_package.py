"""The rwkv package: RWKV-6 and RWKV-7, by their authors. Light to import: torch comes with
``load``.

The package runs one sequence at a time, in a loop over the tokens, and takes a prompt in calls of
any length.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import (
    Capabilities,
    HeldMemory,
    InvalidSeries,
    Limits,
    Logits,
    Tokens,
    Unsupported,
    check_options,
    chunk_tokens,
)
from ctxsweep.backends.torch_device import check_device, synchronize
from ctxsweep.models import accounting, catalog
from ctxsweep.models.accounting import Storage
from ctxsweep.models.config import RWKV, ModelConfig
from ctxsweep.records import Cost, Series

if TYPE_CHECKING:
    import torch

STRATEGY_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
VERSIONS = {"rwkv6": 6, "rwkv7": 7}
NORM_EPS = 1e-5  # written into the package


@dataclass(frozen=True, eq=False)
class _Point:
    """Where a sequence stands. The package never writes into tensors that it gave out."""

    tokens: int = 0
    state: list[torch.Tensor] | None = None  # the package makes it with the first token
    logits: torch.Tensor | None = None


class RwkvPackageBackend:
    """One model of the rwkv package with the state of one sequence."""

    capabilities = Capabilities(snapshot=True, chunked_prefill=True, logits=True)

    def __init__(self, series: Series, limits: Limits, config: ModelConfig, model: Any) -> None:
        self.vocab_size = config.vocab_size
        self._series = series
        self._limits = limits
        self._config = config
        self._model = model
        self._calls_of_one = series.prefill_chunk == "recurrent"
        self._now = _Point()
        self._mark: _Point | None = None

    @classmethod
    def availability(cls) -> Unsupported | None:
        if find_spec("torch") is None:
            return Unsupported("torch is not installed", "pip install torch")
        if _package_file() is None:
            return Unsupported("the rwkv package is not installed", "pip install rwkv")
        return None

    @classmethod
    def check(cls, series: Series) -> None:
        check_options(series, {})
        config = _config(series)
        checkpoints.check_kv_dtype(series, config)
        if series.rope is not None:
            raise InvalidSeries("rope", "RWKV has no rotary positions to stretch; leave it out")

    @classmethod
    def estimate(cls, series: Series, context_tokens: int, batch_size: int) -> Cost | None:
        return _cost(_config(series), series, context_tokens, batch_size)

    @classmethod
    def load(cls, series: Series, limits: Limits) -> RwkvPackageBackend:
        cls.check(series)
        config = _config(series)
        if limits.batch_size != 1:
            raise Unsupported(
                f"the rwkv package runs one sequence at a time, not {limits.batch_size}",
                "Set batch_sizes: [1], or use backend: native",
            )
        missing = cls.availability()
        if missing is not None:
            raise missing
        import torch

        check_device(limits.device)
        torch.set_num_threads(limits.threads)
        path, version = _checkpoint(series, config, limits.seed), VERSIONS[config.mixer]
        model = _package(version).RWKV(
            model=str(path.with_suffix("")), strategy=_strategy(series, limits)
        )
        for call in ([0, 0], [0]):  # prefill and decode: TorchScript compiles in two runs of each
            for _ in range(2):
                model.forward(call, None)
        return cls(series, limits, config, model)

    def prefill(self, tokens: Tokens) -> None:
        ids = tokens[0].tolist()
        for call in ([one] for one in ids) if self._calls_of_one else (ids,):
            self._forward(call)

    def decode(self) -> None:
        if self._now.logits is None:
            raise RuntimeError("decode needs a context: prefill first")
        self._forward([int(self._now.logits.argmax())])

    def _forward(self, tokens: list[int]) -> None:
        context = self._now.tokens + len(tokens)
        self._limits.check_room(context)
        # RWKV-6 replaces tensors in the list that it is given.
        state = None if self._now.state is None else list(self._now.state)
        logits, state = self._model.forward(tokens, state)
        self._now = _Point(context, state, logits)

    def logits(self) -> Logits:
        if self._now.logits is None:
            raise RuntimeError("there are no logits yet: prefill first")
        return cast("Logits", self._now.logits.float().cpu().numpy()[None])

    def reset(self) -> None:
        self._now, self._mark = _Point(), None

    def memory(self) -> HeldMemory:
        """A shift state is a view of its last call's activations, all of which it keeps alive:
        they are the reserved bytes beyond the used ones."""
        state = self._now.state or []
        storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in state}
        return HeldMemory(
            weights_bytes=sum(tensor.nbytes for tensor in self._weights().values()),
            cache_used_bytes=sum(tensor.nbytes for tensor in state),
            cache_reserved_bytes=sum(t.untyped_storage().nbytes() for t in storages.values()),
        )

    def _weights(self) -> dict[str, torch.Tensor]:
        weights = self._model.z if self._config.mixer == "rwkv7" else self._model.w
        return cast("dict[str, torch.Tensor]", weights)

    def cost(self, context_tokens: int) -> Cost:
        return _cost(self._config, self._series, context_tokens, batch_size=1)

    def synchronize(self) -> None:
        synchronize(self._limits.device)

    def engine(self) -> dict[str, Any]:
        import torch

        logits = self._now.logits
        return {
            "rwkv": metadata.version("rwkv"),
            "torch": torch.__version__,
            "model_version": VERSIONS[self._config.mixer],
            "strategy": _strategy(self._series, self._limits),
            "torchscript": True,
            "cuda_kernels": False,
            "threads": torch.get_num_threads(),
            "model": self._config.model_dump(mode="json", exclude_none=True),
            "weights": checkpoints.weights_name(self._series, self._limits.seed),
            "parameters": accounting.parameters(self._config),
            "cached_tokens": 0,  # there is no prefix cache: every token given is computed
            "next_tokens": [] if logits is None else [int(logits.argmax())],
        }

    def snapshot(self) -> object:
        self._mark = replace(self._now)
        return self._mark

    def restore(self, mark: object) -> None:
        if self._mark is None or mark is not self._mark:
            raise ValueError("the mark is void: only the newest can be restored, until a reset")
        self._now = self._mark

    def close(self) -> None:
        self.reset()
        del self._model


def _config(series: Series) -> ModelConfig:
    """The series' model, if the package runs it; raises ``InvalidSeries``."""
    config = checkpoints.model_config(series)
    if config is None or len(kinds := set(config.layer_mixers())) > 1 or not kinds <= RWKV:
        name = "this architecture" if config is None else f"model '{config.name}'"
        runs = (n for n in catalog.names() if catalog.load_config(n).mixer in RWKV)
        raise InvalidSeries(
            "model",
            f"{name} is not a pure RWKV-6 or RWKV-7, which backend rwkv runs; take one of "
            f"{', '.join(runs)}, or a .pth file of either",
        )
    if config.norm != "layernorm" or config.norm_eps != NORM_EPS or config.tied_embeddings:
        raise InvalidSeries(
            "model",
            f"model '{config.name}': the rwkv package has norm: layernorm, norm_eps: {NORM_EPS} "
            "and tied_embeddings: false, and nothing else",
        )
    section = config.model_dump(exclude_none=True)[config.mixer]
    narrow = next((key for key, size in section.items() if size == 1), None)
    if narrow is not None:  # it drops dimensions of 1 from all weights
        raise InvalidSeries(
            f"model.{config.mixer}.{narrow}", "1 is too small for the rwkv package; nearest: 2"
        )
    return config


def _cost(config: ModelConfig, series: Series, context_tokens: int, batch_size: int) -> Cost:
    chunk = chunk_tokens(series, context_tokens)
    return accounting.cost(config, Storage(series.dtype), context_tokens, batch_size, chunk)


def _strategy(series: Series, limits: Limits) -> str:
    return f"{limits.device} {STRATEGY_DTYPES[series.dtype]}"


def _checkpoint(series: Series, config: ModelConfig, seed: int) -> Path:
    """The series' own file, or random weights that are drawn once and kept."""
    if catalog.is_pth(series.model):
        return Path(str(series.model)).resolve()

    def write(folder: Path) -> None:
        import torch

        from ctxsweep.models.weights_rwkv import write_random

        write_random(folder / "model.pth", config, seed, getattr(torch, series.dtype))

    identity = {"rwkv": config.model_dump(mode="json"), "dtype": series.dtype}
    return checkpoints.kept(identity, seed, write) / "model.pth"


def _package_file() -> str | None:
    """The source file of ``rwkv.model``; finding it imports nothing."""
    package = find_spec("rwkv")
    folders = package.submodule_search_locations if package is not None else None
    files = (os.path.join(folder, "model.py") for folder in folders or ())
    return next((file for file in files if os.path.isfile(file)), None)


def _package(version: int) -> Any:
    """A copy of the package's module for a version of the model.

    The version, the dtype and the device are globals of that module, the first fixed on import;
    a module for each load lets models of both versions and all dtypes live in one process.
    """
    file = _package_file()
    assert file is not None
    # The package's CUDA kernels are compiled on import and write into the state they are given.
    os.environ |= {
        "RWKV_V7_ON": "1" if version == 7 else "0",
        "RWKV_JIT_ON": "1",
        "RWKV_CUDA_ON": "0",
    }
    spec = spec_from_file_location(f"ctxsweep_rwkv{version}", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # TorchScript looks there for what it compiles
    spec.loader.exec_module(module)
    return module
