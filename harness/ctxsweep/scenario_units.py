"""What a scenario file may write for context lengths (``1k-128k*2``) and memory (``8GiB``)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

MAX_CONTEXT_TOKENS = 1 << 24
MAX_LENGTHS = 10_000

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}
_TOKENS = r"(\d{1,9})([km]?)"
_RANGE = re.compile(rf"{_TOKENS}(?:-{_TOKENS}([*+]){_TOKENS})?", re.IGNORECASE)
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[KkMGT]i?B)")


def parse_contexts(value: Any) -> tuple[int, ...]:
    """Context lengths in tokens, ascending and without repetition; ``k`` is 1024.

    Takes a number, a text of items parted by commas (``4k``, ``1k-128k*2``, ``1k-16k+1k``; a
    range stops at the last step that does not pass its end), or a list of these. Raises
    ``ValueError``.
    """
    items = value if isinstance(value, list | tuple) else [value]
    lengths: set[int] = set()
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise ValueError(f"{item!r} is not a context length; write 4096, 4k or 1k-128k*2")
        for text in str(item).split(","):
            lengths.update(_range(text.strip()))
    if not lengths:
        raise ValueError("no context length is given; write for example 1k-128k*2")
    if min(lengths) < 1:
        raise ValueError("a context has at least 1 token; nearest valid: 1")
    if max(lengths) > MAX_CONTEXT_TOKENS:
        raise ValueError(f"{max(lengths)} tokens is too long; nearest valid: {MAX_CONTEXT_TOKENS}")
    return tuple(sorted(lengths))


def _range(text: str) -> Iterator[int]:
    match = _RANGE.fullmatch(text)
    if not match:
        hint = f"; say how to step, as in {text}*2" if re.fullmatch(r"\w+-\w+", text) else ""
        raise ValueError(
            f"'{text[:40]}' is not a context length{hint or '; write 4k, 1k-128k*2 or 1k-16k+1k'}"
        )
    start = int(match[1]) * _UNITS[match[2].lower()]
    if match[5] is None:
        yield start
        return
    stop = int(match[3]) * _UNITS[match[4].lower()]
    step = int(match[6]) * _UNITS[match[7].lower()]
    if stop < start:
        raise ValueError(f"'{text}' ends below its start; nearest valid: {match[1]}{match[2]}")
    if step < (2 if match[5] == "*" else 1) or start < 1:
        raise ValueError(f"'{text}' does not step forward; nearest valid step: *2")
    if match[5] == "+" and (stop - start) // step > MAX_LENGTHS:
        raise ValueError(f"'{text}' holds more than {MAX_LENGTHS} lengths; take a larger step")
    while start <= stop:
        yield start
        start = start * step if match[5] == "*" else start + step


def _tokens(value: Any) -> int:
    lengths = parse_contexts(value)
    if len(lengths) != 1:
        raise ValueError("must be one context length, such as 4k")
    return lengths[0]


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _BYTES.fullmatch(value.strip())
    if not match:
        raise ValueError(f"'{value[:40]}' is not an amount of memory; write 8GiB or 500MB")
    unit = match[2].upper()
    factor = (1024 if "I" in unit else 1000) ** "BKMGT".index(unit[0])
    return int(float(match[1]) * factor)


_CONTEXT_SCHEMA = {"type": ["integer", "string"], "minimum": 1, "examples": ["4k", "1k-128k*2"]}
_CONTEXTS_SCHEMA = {"anyOf": [_CONTEXT_SCHEMA, {"type": "array", "items": _CONTEXT_SCHEMA}]}
_BYTES_SCHEMA = {"type": ["integer", "string"], "minimum": 1 << 20, "pattern": _BYTES.pattern}

Contexts = Annotated[
    tuple[int, ...], BeforeValidator(parse_contexts), WithJsonSchema(_CONTEXTS_SCHEMA)
]
ContextTokens = Annotated[int, BeforeValidator(_tokens), WithJsonSchema(_CONTEXT_SCHEMA)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=1 << 20), WithJsonSchema(_BYTES_SCHEMA)]
