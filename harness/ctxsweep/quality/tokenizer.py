"""Texts as tokens of the model that is measured: its own tokenizer, or bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ctxsweep.models import catalog

if TYPE_CHECKING:
    import tokenizers

REMEDY = "take a folder with a tokenizer.json, a .gguf file, or a model of: ctxsweep fetch --list"


class NoTokenizer(ValueError):
    """A model whose text cannot be made tokens of: says why, and what would do."""


class Tokenizer(Protocol):
    """Text to token ids and back. No token that stands for nothing in the text is added."""

    name: str
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; what is no whole character becomes U+FFFD."""


class Bytes:
    """One token a byte of UTF-8."""

    name = "bytes"
    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")


class Pieces:
    """A tokenizer of the tokenizers package."""

    def __init__(self, name: str, pieces: tokenizers.Tokenizer) -> None:
        self.name = name
        self.vocab_size: int = pieces.get_vocab_size()
        self._pieces = pieces
        pieces.encode_special_tokens = True  # "<|end|>" in a text is text
        pieces.no_truncation()
        pieces.no_padding()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._pieces.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._pieces.decode(list(ids), skip_special_tokens=False)
        return text


def tokenizer_of(model: str | Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a scenario's ``model``.

    Raises:
        NoTokenizer: the model has none, or one that is not built.
    """
    path = catalog.path_of(model)
    if path is None or path.suffix == ".pth":
        name = model if isinstance(model, str) else "a model that is written out"
        raise NoTokenizer(f"{name} has no tokenizer, so no text can be read; {REMEDY}")
    if not path.exists():
        raise NoTokenizer(f"'{model}' is not here yet: ctxsweep fetch {model}")
    if _says_bytes(path / "tokenizer_config.json"):
        return Bytes()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise NoTokenizer(f"{file}: no such file; {REMEDY}")
    return _read(file, file.stat().st_mtime_ns)


def _says_bytes(path: Path) -> bool:
    """Whether ``tokenizer_config.json`` says ``{"ctxsweep_tokenizer": "bytes"}``."""
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise NoTokenizer(f"{path}: cannot be read as JSON: {error}") from error
    return isinstance(words, dict) and words.get("ctxsweep_tokenizer") == "bytes"


@lru_cache(maxsize=4)
def _read(path: Path, stamp: int) -> Tokenizer:
    """``stamp`` tells a file that was written anew."""
    if path.suffix == ".gguf":
        return Pieces(path.stem, _gguf_pieces(path))
    import tokenizers

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NoTokenizer(f"{path}: cannot be read as text in UTF-8: {error}") from error
    try:
        return Pieces(path.parent.resolve().name, tokenizers.Tokenizer.from_str(text))
    except Exception as error:  # the package raises nothing narrower
        raise NoTokenizer(f"{path}: the tokenizers package cannot read it: {error}") from error


def _gguf_pieces(path: Path) -> tokenizers.Tokenizer:
    from ctxsweep.models.gguf_index import BadGguf, read_index
    from ctxsweep.models.gguf_tokenizer import BadTokenizer, tokenizer_from

    try:
        return tokenizer_from(read_index(path))
    except (BadGguf, BadTokenizer) as error:
        raise NoTokenizer(f"{error}; {REMEDY}") from error
