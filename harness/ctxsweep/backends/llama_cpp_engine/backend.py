"""llama.cpp through llama-cpp-python's ctypes binding: what CPU users would pick.

One context with a stream of cells for every row of the batch; llama.cpp cuts nothing and caches
nothing, so a chunk is one ``llama_decode`` of ``n_ubatch`` tokens a row. Written for
llama-cpp-python 0.3.36 (llama.h of that release); its binding changes with llama.cpp.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

import numpy as np

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import (
    Capabilities,
    HeldMemory,
    InvalidSeries,
    Limits,
    Logits,
    Tokens,
    Unsupported,
    chunk_tokens,
)
from ctxsweep.backends.llama_cpp_engine import checkpoint as gguf_checkpoint
from ctxsweep.backends.llama_cpp_engine import settings
from ctxsweep.backends.llama_cpp_engine.binding import PIP, Batch, failure, library, log
from ctxsweep.models.config import ModelConfig
from ctxsweep.records import Cost, Series

CELL_PAD = 256
"""llama.cpp rounds the cells of a sequence up to this."""


class LlamaCppEngine:
    """A model and a context of llama.cpp."""

    capabilities = Capabilities(snapshot=True, chunked_prefill=True, logits=True)

    def __init__(self, series: Series, limits: Limits, config: ModelConfig) -> None:
        self._lib = library()
        self._series, self._limits, self._config = series, limits, config
        self._flash = settings.flash(series, limits.device)
        path = gguf_checkpoint.gguf_file(series, config, limits.seed)
        log().clear()
        self._model = self._open(str(path))
        try:
            self._context = self._new_context()
        except BaseException:
            self._lib.llama_model_free(self._model)
            raise
        self._memory = self._lib.llama_get_memory(self._context)
        self._has_state = any(kind != "attention" for kind in config.layer_mixers())
        most = settings.ubatch(series, limits.max_context_tokens)
        self._batch = Batch(self._lib, limits.batch_size, most)
        self.vocab_size = config.vocab_size
        self._length = 0
        self._logits: Logits | None = None
        self._mark: Mark | None = None

    @classmethod
    def availability(cls) -> Unsupported | None:
        for package in ("llama_cpp", "gguf"):
            if find_spec(package) is None:
                return Unsupported(f"{package} is not installed", PIP)
        return None

    @classmethod
    def check(cls, series: Series) -> None:
        config = gguf_checkpoint.check(series)
        settings.check_cells(series, config)
        if series.rope is not None:
            raise InvalidSeries(
                "rope", "this adapter does not stretch RoPE; backend transformers or vllm does"
            )
        settings.check_options(series)

    @classmethod
    def estimate(cls, series: Series, context_tokens: int, batch_size: int) -> Cost | None:
        chunk = min(chunk_tokens(series, context_tokens), settings.ubatch(series, context_tokens))
        config = gguf_checkpoint.check(series)
        return settings.cost(series, config, context_tokens, batch_size, chunk)

    @classmethod
    def load(cls, series: Series, limits: Limits) -> LlamaCppEngine:
        cls.check(series)
        lib, config = library(), gguf_checkpoint.check(series)
        if limits.device != "cpu" and not lib.llama_supports_gpu_offload():
            raise Unsupported(
                "this build of llama.cpp has no GPU backend",
                f"{PIP.replace('GGML_NATIVE=ON', 'GGML_CUDA=ON')} --force-reinstall, or "
                "--device cpu",
            )
        most = lib.llama_max_parallel_sequences()
        if limits.batch_size > most:
            raise Unsupported(
                f"llama.cpp holds at most {most} sequences, fewer than {limits.batch_size}",
                f"Take batch sizes up to {most}",
            )
        return cls(series, limits, config)

    def prefill(self, tokens: Tokens) -> None:
        most = settings.ubatch(self._series, self._limits.max_context_tokens)
        for start in range(0, tokens.shape[1], most):
            end = start + most
            self._feed(tokens[:, start:end], logits=end >= tokens.shape[1])

    def decode(self) -> None:
        if self._logits is None:
            raise RuntimeError("decode needs a context: prefill first")
        self._feed(self._logits.argmax(axis=1)[:, None], logits=True)

    def logits(self) -> Logits:
        if self._logits is None:
            raise RuntimeError("there are no logits yet: prefill first")
        return self._logits

    def reset(self) -> None:
        self._lib.llama_memory_clear(self._memory, False)
        self._length, self._logits, self._mark = 0, None, None

    def memory(self) -> HeldMemory:
        lib, batch = self._lib, self._limits.batch_size
        held = [lib.llama_memory_seq_pos_max(self._memory, row) + 1 for row in range(batch)]
        cells = lib.llama_n_ctx_seq(self._context)
        return HeldMemory(
            weights_bytes=lib.llama_model_size(self._model),
            cache_used_bytes=sum(settings.cache_bytes(self._series, self._config, n) for n in held),
            cache_reserved_bytes=batch * settings.cache_bytes(self._series, self._config, cells),
        )

    def cost(self, context_tokens: int) -> Cost | None:
        return self.estimate(self._series, context_tokens, self._limits.batch_size)

    def synchronize(self) -> None:
        self._lib.llama_synchronize(self._context)

    def engine(self) -> dict[str, Any]:
        from importlib.metadata import version

        cell = settings.CELL_TYPES[settings.kv_dtype(self._series)]
        return {
            "llama_cpp_python": version("llama-cpp-python"),
            "system": self._lib.llama_print_system_info().decode().strip(),
            "architecture": gguf_checkpoint.architecture(self._config),
            "model": self._config.model_dump(mode="json", exclude_none=True),
            "parameters": self._lib.llama_model_n_params(self._model),
            "threads": self._lib.llama_n_threads(self._context),
            "n_ctx": self._lib.llama_n_ctx(self._context),
            "n_ubatch": self._lib.llama_n_ubatch(self._context),
            "flash_attn": self._flash if self._config.attention else None,
            "type_k": cell if self._config.attention else None,
            "type_v": cell if self._config.attention else None,
            "page_size": 1,  # cells of one token
            "weights": checkpoints.weights_name(self._series, self._limits.seed),
            "cached_tokens": 0,  # llama_decode computes every token that it is given
            "next_tokens": [] if self._logits is None else self._logits.argmax(axis=1).tolist(),
        }

    def snapshot(self) -> object:
        states = tuple(self._save(row) for row in self._rows()) if self._has_state else ()
        self._mark = Mark(self._length, self._logits, states)
        return self._mark

    def restore(self, mark: object) -> None:
        """Cells past the mark are given up; states, which cannot be cut, are written back."""
        if mark is not self._mark or not isinstance(mark, Mark):
            raise ValueError("this mark is void: a newer one was taken, or the context was reset")
        flags = self._lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        for row, state in zip(self._rows(), mark.states, strict=False):
            size = self._lib.llama_state_seq_set_data_ext(
                self._context, state, len(state), row, flags
            )
            if size != len(state):
                raise RuntimeError("llama.cpp did not take its own state back")
        for row in self._rows():
            if not self._lib.llama_memory_seq_rm(self._memory, row, mark.length, -1):
                raise RuntimeError(f"llama.cpp cannot return to {mark.length} tokens")
        self._length, self._logits = mark.length, mark.logits

    def close(self) -> None:
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)
        self._logits = self._mark = None

    def _open(self, path: str) -> Any:
        params = self._lib.llama_model_default_params()
        params.load_mode = self._lib.LLAMA_LOAD_MODE_NONE  # weights in memory before timing
        params.n_gpu_layers = 0 if self._limits.device == "cpu" else -1
        model = self._lib.llama_model_load_from_file(path.encode(), params)
        if not model:
            raise failure(f"loading {path}")
        return model

    def _new_context(self) -> Any:
        from gguf import GGMLQuantizationType

        lib, limits, series = self._lib, self._limits, self._series
        gpu, batch = limits.device != "cpu", limits.batch_size
        cells = -(-limits.max_context_tokens // CELL_PAD) * CELL_PAD
        params = lib.llama_context_default_params()
        params.n_ctx = cells * batch
        params.n_seq_max = batch
        params.n_batch = params.n_ubatch = batch * settings.ubatch(
            series, limits.max_context_tokens
        )
        params.n_outputs_max = batch
        params.n_threads = params.n_threads_batch = limits.threads
        params.flash_attn_type = int(self._flash)
        cell = GGMLQuantizationType[settings.CELL_TYPES[settings.kv_dtype(series)]]
        params.type_k = params.type_v = cell.value
        params.kv_unified = False
        params.offload_kqv = params.op_offload = gpu
        params.no_perf = True
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise failure(f"a context of {cells} tokens × {batch}")
        return context

    def _feed(self, tokens: Tokens, logits: bool) -> None:
        """Extend every row by ``tokens`` ``[B, T]``; logits of the last one where asked."""
        self._limits.check_room(self._length + tokens.shape[1])
        last = self._batch.fill(tokens, self._length, logits)
        status = self._lib.llama_decode(self._context, self._batch.struct)
        if status != 0:
            raise failure(f"llama_decode = {status} at {self._length} tokens")
        self._length += tokens.shape[1]
        if logits:
            self._logits = np.stack([self._logits_at(index) for index in last])

    def _logits_at(self, index: int) -> Logits:
        pointer = self._lib.llama_get_logits_ith(self._context, index)
        if not pointer:
            raise failure(f"logits at {self._length} tokens")
        return cast("Logits", np.ctypeslib.as_array(pointer, (self.vocab_size,)).copy())

    def _save(self, row: int) -> Any:
        flags = self._lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = self._lib.llama_state_seq_get_size_ext(self._context, row, flags)
        state = (ctypes.c_uint8 * size)()
        self._lib.llama_state_seq_get_data_ext(self._context, state, size, row, flags)
        return state

    def _rows(self) -> range:
        return range(self._limits.batch_size)


class Mark(NamedTuple):
    """A length to return to, and the recurrent state of each row there."""

    length: int
    logits: Logits | None
    states: tuple[Any, ...]
