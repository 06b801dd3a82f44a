"""The index of a GGUF file: its metadata, and where each tensor lies. Never imports torch.

GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. The gguf package
reads the same, tensor data too, but takes seconds over a tokenizer's lists.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from ctxsweep.models.hf_config import BadModelFolder

_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Types of metadata, as ``struct`` names them."""
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


class BadGguf(BadModelFolder):
    """A GGUF file that cannot be read, or a model in it that is not built."""


@dataclass(frozen=True)
class StoredAt:
    """A tensor of the file: its shape (outermost dimension first), its type, its first byte."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GgufIndex:
    """What a file says of itself."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredAt]


def read_index(path: Path) -> GgufIndex:
    """The index of a file. Raises ``BadGguf``."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise BadGguf(f"{path}: {error.strerror}") from error
    return _read_once(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _read_once(path: Path, size: int, stamp: int) -> GgufIndex:
    """``size`` and ``stamp`` tell a file that was written anew."""
    try:
        with path.open("rb") as file:
            return _Reader(file, size).index(path)
    except (struct.error, EOFError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BadGguf(f"{path}: not a whole GGUF file: {error or 'it ends early'}") from error
    except OSError as error:
        raise BadGguf(f"{path}: {error.strerror}") from error


class _Reader:
    """Reads values in the order in which they lie."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def index(self, path: Path) -> GgufIndex:
        if self._take(4) != b"GGUF":
            raise BadGguf(f"{path}: not a GGUF file (it does not begin with 'GGUF')")
        version = self._number("I")
        if version not in (2, 3):
            raise BadGguf(f"{path}: GGUF version {version} is not built; valid: 2 and 3")
        tensors, pairs = self._number("Q"), self._number("Q")
        metadata = {self._string(): self._value(self._number("I")) for _ in range(pairs)}
        found = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise BadGguf(f"{path}: general.alignment = {alignment!r} must be a number from 1 on")
        start = -(-self._file.tell() // alignment) * alignment
        table = {name: StoredAt(shape, kind, start + at) for name, shape, kind, at in found}
        return GgufIndex(path, metadata, table)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._string(), self._number("I")
        shape = [self._number("Q") for _ in range(dimensions)]  # innermost first
        return name, tuple(reversed(shape)), self._number("I"), self._number("Q")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY and kind not in _NUMBERS:
            raise TypeError(f"a value has type {kind}, which GGUF does not have")
        if kind != _ARRAY:
            return self._number(_NUMBERS[kind])
        of, count = self._number("I"), self._number("Q")
        if of in _NUMBERS:
            code = _NUMBERS[of]
            return struct.unpack(f"<{count}{code}", self._take(count * struct.calcsize(code)))
        return tuple(self._value(of) for _ in range(count))

    def _string(self) -> str:
        return self._take(self._number("Q")).decode()

    def _number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))[0]

    def _take(self, count: int) -> bytes:
        if count > self._size:
            raise EOFError(f"it has {self._size} bytes, and asks for {count} more")
        taken = self._file.read(count)
        if len(taken) < count:
            raise EOFError("it ends early")
        return taken
