"""llama.cpp's C interface as its adapter uses it: library, log, failures, batches.

Light to import: llama-cpp-python comes with the first call of ``library``.
"""

from __future__ import annotations

import ctypes
from collections import deque
from functools import cache
from typing import Any

import numpy as np

from ctxsweep.backends.base import Tokens, Unsupported

PIP = 'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python==0.3.36 gguf==0.19.0'
OUT_OF_MEMORY = ("failed to allocate", "insufficient memory", "out of memory", "bad_alloc")


@cache
def library() -> Any:
    """The binding, initialised, its log taken. Raises ``Unsupported`` if it does not load."""
    try:
        from llama_cpp import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:  # the last where its .so is missing
        raise Unsupported(f"llama_cpp cannot be imported: {error}", PIP) from error
    llama_cpp.llama_log_set(_callback(llama_cpp), None)
    llama_cpp.llama_backend_init()
    return llama_cpp


@cache
def log() -> deque[str]:
    """What llama.cpp said last, in pieces of lines."""
    return deque(maxlen=2000)


@cache
def _callback(lib: Any) -> Any:
    """Kept by the cache: llama.cpp calls it for as long as the process lives."""

    def append(level: int, text: bytes, user: object) -> None:
        log().append(text.decode("utf-8", "replace"))

    return lib.llama_log_callback(append)


def failure(doing: str) -> Exception:
    """llama.cpp gives back nothing but null; the reason is in its log."""
    lines = [line.strip() for line in "".join(log()).split("\n")]
    said = "; ".join([line for line in lines if line][-4:])
    kind = MemoryError if any(t in said.lower() for t in OUT_OF_MEMORY) else RuntimeError
    return kind(f"llama.cpp: {doing}: {said}")


class Batch:
    """A ``llama_batch`` over arrays of our own, filled without a loop over tokens."""

    def __init__(self, lib: Any, rows: int, tokens: int) -> None:
        most = rows * tokens
        self._rows = rows
        self._row_ids = np.arange(rows, dtype=np.int32)
        self._tokens = np.zeros(most, np.int32)
        self._positions = np.zeros(most, np.int32)
        self._counts = np.ones(most, np.int32)
        self._ids = np.zeros(most, np.uintp)
        self._wanted = np.zeros(most, np.int8)
        fields: dict[str, np.ndarray] = {
            "token": self._tokens,
            "pos": self._positions,
            "n_seq_id": self._counts,
            "seq_id": self._ids,
            "logits": self._wanted,
        }
        self.struct = lib.llama_batch()
        kinds = dict(lib.llama_batch._fields_)
        for name, array in fields.items():
            pointer = ctypes.cast(array.ctypes.data, kinds[name])
            setattr(self.struct, name, pointer)

    def fill(self, tokens: Tokens, start: int, logits: bool) -> list[int]:
        """``tokens`` ``[B, T]`` at positions from ``start``; the indices of each row's last one,
        whose logits are computed where asked."""
        count = tokens.shape[1]
        total = tokens.size
        last = list(range(count - 1, total, count))
        addresses = self._row_ids.ctypes.data + self._row_ids.astype(np.uintp) * 4
        self.struct.n_tokens = total
        self._tokens[:total] = tokens.ravel()
        self._positions[:total] = np.tile(np.arange(start, start + count), self._rows)
        self._ids[:total] = np.repeat(addresses, count)
        self._wanted[:total] = 0
        self._wanted[last] = logits
        return last
