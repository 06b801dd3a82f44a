"""What the schema's validator says, put into words for the person who wrote the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ctxsweep.scenario_yaml import Document, KeyPath, dotted

_KINDS = {
    "int": "a whole number",
    "float_": "a number",
    "string_type": "text",
    "bool": "true or false",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
# A key may be missing because it is misspelt, and a list too short because its items are wrong.
_CONSEQUENCES = {"missing": 1, "too_short": 2}
_NOT_IN_FILES = {"device", "name"}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def nearest(word: str, choices: Sequence[str]) -> str:
    """``did you mean 'x'?``, or the choices there are if none is near."""
    near = difflib.get_close_matches(word.lower(), choices, n=1)
    near = near or [choice for choice in choices if word and choice.startswith(word.lower())]
    if near:
        return f"did you mean '{near[0]}'?"
    return f"there are: {', '.join(sorted(choices))}" if choices else "there are none"


def first_error(
    error: ValidationError, model: type[BaseModel], document: Document, series: Sequence[str]
) -> tuple[str, str, str]:
    """Place, key path and message of the first mistake (by line).

    ``series`` are the names of the series in the order in which they were validated.
    """
    by_path: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_path.setdefault(_path(details["loc"], model, series), []).append(details)

    def order(path: KeyPath) -> tuple[int, int, int]:
        """Causes before consequences, then by line, inner before outer."""
        number = re.search(r":(\d+)$", document.place(path))
        kind = by_path[path][0]["type"]
        return _CONSEQUENCES.get(kind, 0), int(number[1]) if number else 0, -len(path)

    path = min(by_path, key=order)
    return document.place(path), dotted(path), _combined(by_path[path], path, model)


def _combined(found: list[ErrorDetails], path: KeyPath, model: type[BaseModel]) -> str:
    """One message for a key, of which each branch of a union may have complained."""
    exact = [one for one in found if not _expected(one)]
    if len(found) == 1 or exact:
        return _message((exact or found)[0], path, model)
    choices = " or ".join(filter(None, map(_expected, found)))
    return f"must be {choices}, not {_short(found[0]['input'])}"


def _expected(details: ErrorDetails) -> str | None:
    """What a value of the right kind would have been, if the kind is what was wrong."""
    if details["type"] == "literal_error":
        return str(details.get("ctx", {})["expected"])
    return next((words for kind, words in _KINDS.items() if details["type"].startswith(kind)), None)


def _path(loc: tuple[int | str, ...], model: type[BaseModel], series: Sequence[str]) -> KeyPath:
    """The validator's location as the file's key path: names for numbers, no union branches."""
    path: list[int | str] = []
    here: type[BaseModel] | None = model
    for i, part in enumerate(loc):
        if here is None and not (isinstance(part, int) and i > 0):
            break
        if len(path) == 1 and path[0] == "series" and isinstance(part, int):
            path.append(series[part])
            here = _inner(model, "series")
            continue
        path.append(part)
        here = _inner(here, part) if here and isinstance(part, str) else None
        if path == ["series"]:
            here = model
    return tuple(path)


def _inner(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model that a field holds, if it holds one."""
    field = model.model_fields.get(key)
    pending: list[Any] = [field.annotation] if field else []
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        pending.extend(get_args(kind))
    return None


def known_keys(path: KeyPath, model: type[BaseModel]) -> list[str]:
    """The keys that may stand at a path, names of series and the like passed over."""
    here: type[BaseModel] | None = model
    for part in path:
        here = _inner(here, str(part)) if here and str(part) in here.model_fields else here
    return sorted(here.model_fields) if here else []


def describe(details: ErrorDetails, model: type[BaseModel]) -> str:
    """One complaint of the validator in words; its location is taken as the key path."""
    return _message(details, details["loc"], model)


def _message(details: ErrorDetails, path: KeyPath, model: type[BaseModel]) -> str:
    kind, context, value = details["type"], details.get("ctx", {}), _short(details["input"])
    if kind == "extra_forbidden":
        keys = [key for key in known_keys(path[:-1], model) if key not in _NOT_IN_FILES]
        return f"unknown key; {nearest(str(path[-1]), keys)}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", str(context["expected"]))
        hint = nearest(str(details["input"]), choices)
        hint = f"; {hint}" if hint.startswith("did") else ""
        return f"must be {context['expected']}, not {value}{hint}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"must be {words} {context[key]}, not {value}{_near_bound(kind, context[key])}"
    if kind == "string_pattern_mismatch":
        return f"must be made of letters, digits and . _ -, not {value}; set 'name:'"
    if kind == "too_short":
        return "must hold at least one"
    if expected := _expected(details):
        return f"must be {expected}, not {value}"
    return f"{details['msg'][:1].lower()}{details['msg'][1:]}"


def _near_bound(kind: str, bound: Any) -> str:
    return f"; nearest valid: {bound}" if kind.endswith("equal") else ""


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 42 else f"{text[:40]}…"
