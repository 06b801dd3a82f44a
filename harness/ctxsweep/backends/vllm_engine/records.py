"""What is read from a running vLLM: its logits, its own clock, the bytes of its weights."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxsweep.backends.base import Logits

if TYPE_CHECKING:
    import torch
    from vllm import LLMEngine, RequestOutput

GAUGE = "vllm:kv_cache_usage_perc"


class LogitsTap:
    """Keeps hold of the logits that the model computed last; copies nothing until asked.

    Only for an engine in this process.
    """

    def __init__(self, engine: LLMEngine) -> None:
        self._last: torch.Tensor | None = None
        self._runner: Any = engine.model_executor.driver_worker.worker.model_runner
        engine.apply_model(self._tap)

    def _tap(self, model: Any) -> None:
        compute = model.compute_logits

        def kept(*arguments: Any, **named: Any) -> torch.Tensor:
            self._last = compute(*arguments, **named)
            return self._last

        model.compute_logits = kept

    def rows(self, ids: Sequence[str]) -> Logits:
        """Logits ``[B, V]`` after the last step, in the order of the requests."""
        if self._last is None or not ids:
            raise RuntimeError("there are no logits yet: prefill first")
        row_of = self._runner.input_batch.req_id_to_index
        order = [row_of[one] for one in ids]
        return np.ascontiguousarray(self._last[order].float().cpu().numpy())


class Latency:
    """Latencies by the engine's own clock, less the time that passed between our steps.

    The engine's clock runs on while the caller reads memory between two steps; both clocks are
    ``time.monotonic``.
    """

    def __init__(self) -> None:
        self._left: float | None = None
        self._paused: list[tuple[float, float]] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one engine step."""
        now = time.monotonic()
        if self._left is not None:
            self._paused.append((now, now - self._left))
        yield
        self._left = time.monotonic()

    def of(self, outputs: Sequence[RequestOutput]) -> dict[str, float | None]:
        """``ttft_s`` (queueing, prefill, first sample) and ``tpot_s`` of the slowest row."""
        found = [output.metrics for output in outputs if output.metrics is not None]
        if not found:
            return {"ttft_s": None, "tpot_s": None}
        queued = min(one.queued_ts for one in found)
        first = max(one.first_token_ts for one in found)
        last = max(one.last_token_ts for one in found)
        steps = max(one.num_generation_tokens for one in found) - 1
        return {
            "ttft_s": first - queued - self._between(queued, first),
            "tpot_s": (last - first - self._between(first, last)) / steps if steps > 0 else None,
        }

    def _between(self, start: float, end: float) -> float:
        return sum(pause for at, pause in self._paused if start < at <= end)


def weight_bytes(folder: str, element_bytes: int) -> int:
    """Bytes of a checkpoint's weights in the type that they are loaded in.

    Not from the model's tensors: on a CPU vLLM repacks them and empties the originals.
    """
    from safetensors import safe_open

    elements = 0
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            names = tensors.keys()
            elements += sum(prod(tensors.get_slice(name).get_shape()) for name in names)
    return elements * element_bytes
