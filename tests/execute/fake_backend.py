"""An engine without a model, with faults on demand, for tests of what runs engines.

Options of the series: ``chunk_s`` and ``decode_s`` (sleeps), ``load_s``, ``snapshot`` (bool),
``bytes_per_token``, ``cached_tokens``, and ``fault`` = [kind, position]: what happens in the
prefill call that passes the position (``load`` instead of a position: in load); ``FAULTS`` are the
kinds.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ctxsweep.backends.base import Capabilities, HeldMemory, Limits, Tokens, Unsupported
from ctxsweep.records import Cost, Series

HELD: list[Any] = []


def allocate(step_bytes: int, pause_s: float) -> None:
    """Touch memory until the limit refuses it; far beyond any limit of the tests it gives up."""
    for _ in range((4 << 30) // step_bytes):
        HELD.append(np.ones(step_bytes, dtype=np.uint8))
        time.sleep(pause_s)
    raise AssertionError("no limit stopped the allocation")


def raise_error(error: BaseException) -> None:
    raise error


FAULTS: dict[str, Callable[[], None]] = {
    "hang": lambda: time.sleep(3600),
    "doze": lambda: time.sleep(1.5),
    "abort": os.abort,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "memory_error": lambda: raise_error(MemoryError("refused")),
    "torch_memory": lambda: raise_error(RuntimeError("DefaultCPUAllocator: can't allocate memory")),
    "allocate": lambda: allocate(1 << 30, 0.0),
    "grow": lambda: allocate(8 << 20, 0.001),
    "raise": lambda: raise_error(ValueError("the engine is unwell")),
    "unsupported": lambda: raise_error(Unsupported("no such kernel here", "Install it")),
}


class FakeBackend:
    """Counts its context; everything else is made up from the options."""

    vocab_size = 100

    def __init__(self, series: Series, limits: Limits) -> None:
        self.options = series.options
        self.limits = limits
        self.capabilities = Capabilities(snapshot=bool(self.options.get("snapshot", True)))
        self.context = 0
        self.calls: list[tuple[str, int]] = []
        print("this line of the engine goes to the log, not to the parent")

    @classmethod
    def availability(cls) -> Unsupported | None:
        return None

    @classmethod
    def check(cls, series: Series) -> None:
        pass

    @classmethod
    def estimate(cls, series: Series, context_tokens: int, batch_size: int) -> Cost | None:
        return None

    @classmethod
    def load(cls, series: Series, limits: Limits) -> FakeBackend:
        time.sleep(series.options.get("load_s", 0.0))
        kind, position = series.options.get("fault", (None, None))
        if position == "load" and limits.max_context_tokens > series.options.get("load_limit", 0):
            FAULTS[kind]()
        return cls(series, limits)

    def prefill(self, tokens: Tokens) -> None:
        assert tokens.shape[0] == self.limits.batch_size
        assert tokens.dtype == np.int64 and tokens.max() < self.vocab_size
        before, self.context = self.context, self.context + tokens.shape[1]
        assert self.context <= self.limits.max_context_tokens
        self.calls.append(("prefill", self.context))
        kind, position = self.options.get("fault", (None, None))
        if isinstance(position, int) and before < position <= self.context:
            self._fault(kind)
        time.sleep(self.options.get("chunk_s", 0.0))

    def _fault(self, kind: str) -> None:
        """A fault with ``once`` = path happens in the first child only."""
        once = self.options.get("once")
        if once is not None:
            if os.path.exists(once):
                return
            with open(once, "w"):
                pass
        print("about to fail", file=sys.stderr, flush=True)
        FAULTS[kind]()

    def decode(self) -> None:
        self.context += 1
        assert self.context <= self.limits.max_context_tokens
        self.calls.append(("decode", self.context))
        time.sleep(self.options.get("decode_s", 0.0))

    def reset(self) -> None:
        self.context = 0
        self.calls.append(("reset", 0))

    def memory(self) -> HeldMemory:
        used = self.context * self.options.get("bytes_per_token", 1000) * self.limits.batch_size
        return HeldMemory(weights_bytes=5000, cache_used_bytes=used, cache_reserved_bytes=used)

    def cost(self, context_tokens: int) -> Cost:
        each = self.options.get("bytes_per_token", 1000)
        return Cost(
            parameters=1250,
            prefill_flops=1.0 * context_tokens,
            prefill_bytes=1.0,
            decode_flops=1.0,
            decode_bytes=1.0,
            cache_bytes=each * context_tokens,
            cache_bytes_per_token=each,
        )

    def synchronize(self) -> None:
        pass

    def engine(self) -> dict[str, Any]:
        return {
            "cached_tokens": self.options.get("cached_tokens", 0),
            "threads_seen": os.environ.get("OMP_NUM_THREADS"),
            "pid": os.getpid(),
        }

    def snapshot(self) -> object:
        self.calls.append(("snapshot", self.context))
        return self.context

    def restore(self, mark: object) -> None:
        assert isinstance(mark, int)
        self.context = mark
        self.calls.append(("restore", mark))

    def close(self) -> None:
        self.calls.append(("close", self.context))
