"""The project's own models in torch. Light to import: torch comes with ``load``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import (
    Capabilities,
    HeldMemory,
    InvalidSeries,
    Limits,
    Logits,
    Scores,
    Tokens,
    Unsupported,
    check_options,
    chunk_tokens,
)
from ctxsweep.backends.rope_scaling import applied, stretched
from ctxsweep.backends.torch_device import check_device, out_of_memory, synchronize
from ctxsweep.models import accounting, catalog, rope
from ctxsweep.models.accounting import Storage
from ctxsweep.models.config import ModelConfig
from ctxsweep.records import Cost, DType, KVDType, Series

if TYPE_CHECKING:
    import torch

    from ctxsweep.models.language_model import LanguageModel, StateMark

TORCH_DTYPES = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "int8": "int8",
}
SCORED = 256
"""Positions whose logits are held at a time: a vocabulary in fp32 each."""
OPTIONS = {"impl": ("auto", "torch", "triton"), "weights": ("drawn", "checkpoint")}


class NativeBackend:
    """One native model with its cache or state for a batch."""

    capabilities = Capabilities(snapshot=True, chunked_prefill=True, logits=True, scores=True)

    def __init__(
        self, series: Series, limits: Limits, config: ModelConfig, model: LanguageModel
    ) -> None:
        import torch

        from ctxsweep.models.language_model import weight_bytes
        from ctxsweep.models.layers import StateSpec

        self.vocab_size = config.vocab_size
        self._series = series
        self._limits = limits
        self._config = config
        self._model = model
        if config.attention is not None and rope.depends_on_length(config.attention.rope):
            # Keys are turned for the whole prompt, so its length comes first.
            self.capabilities = replace(self.capabilities, whole_prompt=True)
        self._weights_bytes = weight_bytes(model)
        self._weights_name = _weights_name(series, limits)
        self._device = torch.device(limits.device)
        self._token_by_token = series.prefill_chunk == "recurrent"
        self._hidden: torch.Tensor | None = None
        self._next: torch.Tensor | None = None
        self._logits: torch.Tensor | None = None
        model.impl = series.options.get("impl", "auto")
        self._implementations = _implementations(model, self._device)
        dtype, kv_dtype = _torch_dtype(series.dtype), _torch_dtype(_kv_dtype(series))
        self._state = model.new_state(
            StateSpec(
                batch_size=limits.batch_size,
                max_tokens=limits.max_context_tokens,
                max_call_tokens=chunk_tokens(series, limits.max_context_tokens),
                page_size=series.page_size,
                kv_dtype=kv_dtype,
                dtype=dtype,
                device=self._device,
            )
        )

    @classmethod
    def availability(cls) -> Unsupported | None:
        if find_spec("torch") is None:
            return Unsupported("torch is not installed", "pip install torch")
        return None

    @classmethod
    def check(cls, series: Series) -> None:
        _config(series)
        chunk = series.prefill_chunk
        if isinstance(chunk, int) and chunk < 1:
            raise InvalidSeries(
                "prefill_chunk", f"{chunk} must be at least 1, 'whole' or 'recurrent'"
            )
        check_options(series, OPTIONS)
        if series.options.get("weights") == "checkpoint":
            checkpoints.check_model(_stored(series))

    @classmethod
    def estimate(cls, series: Series, context_tokens: int, batch_size: int) -> Cost | None:
        chunk = chunk_tokens(series, context_tokens)
        return accounting.cost(_config(series), _storage(series), context_tokens, batch_size, chunk)

    @classmethod
    def load(cls, series: Series, limits: Limits) -> NativeBackend:
        import torch

        cls.check(series)
        config = _config(series)
        _check_limits(config, limits)
        torch.set_num_threads(limits.threads)
        device, dtype = torch.device(limits.device), _torch_dtype(series.dtype)
        with out_of_memory(f"loading {config.name}"):
            stored = series.options.get("weights") == "checkpoint"
            if stored or catalog.is_folder(series.model):
                from ctxsweep.models.weights import load_folder

                folder = checkpoints.model_folder(_stored(series), limits.seed)
                model = load_folder(folder, dtype, device, config)
            elif catalog.is_gguf(series.model):
                from ctxsweep.models.gguf_file import load_gguf

                model = load_gguf(catalog.weights_of(series.model), dtype, device, config)
            elif catalog.is_pth(series.model):
                from ctxsweep.models.weights_rwkv import load_rwkv

                model = load_rwkv(catalog.weights_of(series.model), config, dtype, device)
            else:
                from ctxsweep.models.language_model import build

                model = build(config, limits.seed, dtype, device)
            return cls(series, limits, config, model)

    def begin(self, prompt: Tokens) -> None:
        self._state.horizon = self._state.length + prompt.shape[1]

    def prefill(self, tokens: Tokens) -> None:
        import torch

        self._limits.check_room(self._state.length + tokens.shape[1])
        ids = torch.as_tensor(tokens, device=self._device)
        pieces = ids.split(1, dim=1) if self._token_by_token else (ids,)
        for piece in pieces:
            self._forward(piece)

    def decode(self) -> None:
        if self._next is None:
            raise RuntimeError("decode needs a context: prefill first")
        self._limits.check_room(self._state.length + 1)
        self._forward(self._next)

    def _forward(self, tokens: torch.Tensor) -> None:
        import torch

        from ctxsweep_kernels.dispatch import noting

        doing = f"at {self._state.length} tokens"
        noted = noting(self._implementations)
        self._hidden = None  # before the next is made: one at a time
        with torch.inference_mode(), out_of_memory(doing), _supported(), noted:
            self._hidden = self._model.hidden(tokens, self._state)
            self._logits = self._model.logits(self._hidden[:, -1])
            self._next = self._logits.argmax(dim=-1, keepdim=True)

    def logits(self) -> Logits:
        if self._logits is None:
            raise RuntimeError("there are no logits yet: prefill first")
        return cast("Logits", self._logits.float().cpu().numpy())

    def scores(self, targets: Tokens) -> Scores:
        import torch

        if self._hidden is None or self._hidden.shape[:2] != targets.shape:
            raise RuntimeError("scores need a prefill of as many tokens as there are targets")
        losses, likeliest = [], []
        with torch.inference_mode(), out_of_memory("scoring"):
            wanted = torch.as_tensor(targets, device=self._device)
            pieces = zip(self._hidden.split(SCORED, 1), wanted.split(SCORED, 1), strict=True)
            for hidden, target in pieces:
                logits = self._model.logits(hidden).float()
                of_target = logits.gather(-1, target.unsqueeze(-1)).squeeze(-1)
                losses.append(logits.logsumexp(-1) - of_target)
                likeliest.append(logits.argmax(-1) == target)
        return Scores(torch.cat(losses, 1).cpu().numpy(), torch.cat(likeliest, 1).cpu().numpy())

    def reset(self) -> None:
        self._state.clear()
        self._next = self._logits = self._hidden = None

    def memory(self) -> HeldMemory:
        return HeldMemory(
            weights_bytes=self._weights_bytes,
            cache_used_bytes=self._state.used_bytes,
            cache_reserved_bytes=self._state.reserved_bytes,
        )

    def cost(self, context_tokens: int) -> Cost:
        chunk = chunk_tokens(self._series, context_tokens)
        storage, batch = _storage(self._series), self._limits.batch_size
        return accounting.cost(self._config, storage, context_tokens, batch, chunk)

    def synchronize(self) -> None:
        synchronize(self._limits.device)

    def engine(self) -> dict[str, Any]:
        import torch

        return {
            "torch": torch.__version__,
            "implementations": self._implementations,
            "threads": torch.get_num_threads(),
            "model": self._config.model_dump(mode="json", exclude_none=True),
            "kv_dtype": _kv_dtype(self._series) if self._config.attention else None,
            "weights": self._weights_name,
            "parameters": accounting.parameters(self._config),
            "cached_tokens": 0,  # there is no prefix cache: every token given is computed
            **applied(self._config, self._state.horizon or self._state.length),
            "next_tokens": [] if self._next is None else self._next.flatten().tolist(),
        }

    def snapshot(self) -> object:
        return self._state.snapshot(), self._next, self._logits

    def restore(self, mark: object) -> None:
        state, *after = cast("tuple[StateMark, torch.Tensor | None, torch.Tensor | None]", mark)
        self._state.restore(state)
        self._next, self._logits = after
        self._hidden = None

    def close(self) -> None:
        del self._model, self._state
        self._next = self._logits = self._hidden = None


def _config(series: Series) -> ModelConfig:
    """The series' model, with what the series says of its attention laid over."""
    config = checkpoints.model_config(series, sinks=True)
    if config is None:
        catalog_of = "a model of the catalogue, or a folder of a family that is built"
        raise InvalidSeries("model", f"native does not build this architecture; take {catalog_of}")
    checkpoints.check_kv_dtype(series, config)
    return config if series.rope is None else stretched(config, series.rope)


def _stored(series: Series) -> Series:
    """The series as its weights are kept: sinks change none, and no other engine has them."""
    return series.model_copy(update={"sinks": None})


def _weights_name(series: Series, limits: Limits) -> str:
    stored = catalog.path_of(series.model) is not None
    drawn = not stored and series.options.get("weights") != "checkpoint"
    if drawn and limits.device != "cpu":  # a GPU's generator gives other numbers
        return f"random, seed {limits.seed}, drawn on {limits.device}"
    return checkpoints.weights_name(series, limits.seed)


def _check_limits(config: ModelConfig, limits: Limits) -> None:
    learned = config.attention is not None and config.attention.position == "learned"
    if learned and limits.max_context_tokens > config.max_positions:
        raise Unsupported(
            f"model '{config.name}' has {config.max_positions} learned positions, fewer than "
            f"{limits.max_context_tokens}",
            "Take a shorter context or a model with rotary positions",
        )
    check_device(limits.device)


def _implementations(model: LanguageModel, device: torch.device) -> dict[str, str]:
    """What will run each op; asked at load, since asking may compile one."""
    from ctxsweep_kernels.dispatch import implementation_in_use

    with _supported():
        return {op: implementation_in_use(op, device, model.impl) for op in model.ops}


@contextmanager
def _supported() -> Iterator[None]:
    """An implementation that an op does not have, as ``Unsupported``."""
    from ctxsweep_kernels.dispatch import UnsupportedImplementation

    try:
        yield
    except UnsupportedImplementation as problem:
        raise Unsupported(str(problem), "Leave options.impl out, or set it to torch") from problem


def _storage(series: Series) -> Storage:
    return Storage(series.dtype, series.kv_dtype, series.page_size)


def _kv_dtype(series: Series) -> KVDType:
    return series.dtype if series.kv_dtype == "auto" else series.kv_dtype


def _torch_dtype(name: DType | KVDType) -> torch.dtype:
    import torch

    return cast("torch.dtype", getattr(torch, TORCH_DTYPES[name]))
