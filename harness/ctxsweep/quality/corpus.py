"""Real text as tokens: finding it, reading it, and the stretches of it that a model is fed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ctxsweep.backends.base import Tokens
from ctxsweep.records_quality import CellQuality, PassPlan, TextSource

if TYPE_CHECKING:
    from ctxsweep.quality.tokenizer import Tokenizer

TEXTS = Path(__file__).parent / "texts"
LOSS_DECIMALS = 5


class BadText(ValueError):
    """A text cannot be found or read: which, why, and what would be right."""


class TextTooShort(BadText):
    """A text has fewer tokens than are needed."""


@dataclass(frozen=True)
class Corpus:
    """A whole text as ``tokens`` ``[N]``, and where it came from."""

    tokens: Tokens
    source: TextSource


def text_names() -> list[str]:
    """The shipped texts, sorted."""
    return sorted(path.stem for path in TEXTS.glob("*.txt"))


def find_text(name_or_path: str) -> Path:
    """The file of a shipped text's name or of a path.

    Raises ``BadText`` if there is neither; names the nearest shipped text.
    """
    names = text_names()
    if name_or_path in names:
        return TEXTS / f"{name_or_path}.txt"
    try:
        path = Path(name_or_path).expanduser()
    except RuntimeError as error:  # ~nobody
        raise BadText(f"text '{name_or_path}': {error}") from error
    if path.is_dir():
        raise BadText(f"text '{name_or_path}' is a folder; give a file of plain text in UTF-8")
    if path.is_file():
        return path
    near = get_close_matches(name_or_path, names, n=1, cutoff=0.0)
    hint = f"; nearest shipped text: '{near[0]}' (of {', '.join(names)})" if near else ""
    raise BadText(f"text '{name_or_path}' is neither a shipped text nor a file{hint}")


def read_corpus(text: str, tokenizer: Tokenizer, needed_tokens: int) -> Corpus:
    """All tokens of a shipped text or of a UTF-8 file, no special tokens among them.

    Raises ``BadText`` if it cannot be found or read, ``TextTooShort`` if it has fewer than
    ``needed_tokens`` tokens.
    """
    path = find_text(text)
    data, content = _read(path)
    tokens = np.asarray(tokenizer.encode(content), dtype=np.int64)
    name = path.stem if path.parent == TEXTS else path.name
    if len(tokens) < needed_tokens:
        raise TextTooShort(
            f"text '{name}' has {len(tokens)} tokens under tokenizer {tokenizer.name}; "
            f"{needed_tokens} are needed (the longest context and the stretches beyond it). "
            "Take a longer text, shorter contexts (--contexts), or fewer stretches"
        )
    source = TextSource(
        name=name,
        sha256=hashlib.sha256(data).hexdigest(),
        tokens=len(tokens),
        tokens_sha256=hashlib.sha256(tokens.tobytes()).hexdigest(),
    )
    return Corpus(tokens, source)


def _read(path: Path) -> tuple[bytes, str]:
    """The bytes and the text of a file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadText(f"text {path} cannot be read: {error.strerror}") from error
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadText(
            f"text {path} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; "
            "convert it, for instance: iconv -f latin1 -t utf-8"
        ) from error
    if not content.strip():
        raise BadText(f"text {path} is empty; give a file of plain text in UTF-8")
    return data, content


def stretch(corpus: Corpus, plan: CellQuality, index: int, loss_pass: PassPlan) -> Tokens:
    """The tokens ``[context_tokens + 1]`` of a pass over stretch ``index`` of ``plan``.

    The model is fed all but the last, and predicts all but the first. They end ``end_offset``
    tokens before the stretch does. Raises ``TextTooShort`` if they do not lie within the text.
    """
    end = plan.stretch_ends[index] - loss_pass.end_offset
    start = end - loss_pass.context_tokens - 1
    if start < 0 or end > len(corpus.tokens):
        raise TextTooShort(
            f"text '{corpus.source.name}' has tokens 0 to {len(corpus.tokens)}; a pass over "
            f"{loss_pass.context_tokens} tokens of stretch {index} needs {start} to {end}. "
            "Take a longer text or shorter contexts (--contexts)"
        )
    return corpus.tokens[start:end]


def block_losses(losses: npt.ArrayLike, block_tokens: int) -> tuple[float, ...]:
    """Mean loss in nats of every block of ``losses`` ``[T]``, counted from the end.

    A first part that fills no block is left out. Rounded to 1e-5.
    """
    values = np.asarray(losses, dtype=np.float64)
    blocks = values[len(values) % block_tokens :].reshape(-1, block_tokens)
    return tuple(float(mean) for mean in blocks.mean(axis=1).round(LOSS_DECIMALS))
