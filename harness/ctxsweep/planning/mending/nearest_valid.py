"""The valid configuration nearest to one that is not, and what had to change for it."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.mending.edits import (
    REMOVED,
    CannotMend,
    Change,
    Edit,
    Fields,
    Path,
    Problem,
    leaves,
    mended,
    neighbours,
    read,
)
from ctxsweep.planning.mending.natural import ALIASES, natural
from ctxsweep.scenario_messages import describe

__all__ = ["CannotMend", "Change", "nearest_valid"]

# What it costs to believe that a key was meant otherwise, over one octave of a number.
WEIGHTS = {
    "hidden_size": 64.0,
    "vocab_size": 64.0,
    "num_layers": 8.0,
    "expand": 8.0,
    "heads": 1.5,
    "head_dim": 1.5,
}
FLIP, REMOVE, OTHER_WORD, ADD_SECTION, REMOVE_SECTION, LAST_RESORT = 0.9, 1.0, 2.0, 2.0, 2.5, 6.0
RENAME = 0.1


def nearest_valid(raw_fields: Mapping[str, Any]) -> tuple[ModelConfig, tuple[Change, ...]]:
    """The nearest valid configuration, and every change with the rule that asked for it.

    A configuration that is valid comes back without changes.

    Raises:
        CannotMend: nothing tells what was meant; says the key and what is wrong with it.
    """
    fields, changes = mended({"name": "model", **raw_fields}, _problem, _edits)
    return _validated(fields), changes


def _validated(fields: Mapping[str, Any]) -> ModelConfig:
    return ModelConfig.model_validate(_tuples(fields), strict=True)


def _tuples(value: Any) -> Any:
    """YAML's lists as the tuples of frozen types."""
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _problem(fields: Fields) -> Problem | None:
    """The first thing that is wrong: keys that nobody knows first, for they may be misspelt."""
    try:
        _validated(fields)
    except ValidationError as error:
        found = error.errors(include_url=False)
        order = {"extra_forbidden": 0, "missing": 2, "value_error": 3}
        first = min(found, key=lambda details: order.get(details["type"], 1))
        return Problem(
            path=_key_path(first),
            message=describe(first, ModelConfig),
            count=len({one["loc"] for one in found}),
            kind=first["type"],
            context=first.get("ctx", {}),
        )
    return None


def _key_path(details: ErrorDetails) -> Path:
    """Down to the key: neither branches of unions nor numbers of items."""
    path: list[str] = []
    here: type[BaseModel] | None = ModelConfig
    for part in details["loc"]:
        if here is None or not isinstance(part, str):
            break
        path.append(part)
        here = _section(here, part)
    return tuple(path)


def _edits(fields: Fields, problem: Problem) -> Iterator[Edit]:
    path = problem.path
    if problem.kind == "value_error":
        yield from _near_edits(fields, path)
        return
    if problem.kind == "extra_forbidden":
        yield from _renamings(fields, path)
        yield Edit(REMOVE_SECTION, ((path, REMOVED),))
        return
    value = read(fields, path)
    for cost, likely in _meant(value, path, problem):
        yield Edit(cost, ((path, likely),))
    if (guess := natural(path, fields)) is not None:
        yield Edit(REMOVE, ((path, guess),))
    if problem.kind != "missing" and not _required(path):
        yield Edit(REMOVE, ((path, REMOVED),))
    for depth in range(len(path) - 1, 0, -1):  # a section that nobody can complete
        yield Edit(LAST_RESORT * (len(path) - depth), ((path[:depth], REMOVED),))


def _renamings(fields: Fields, path: Path) -> Iterator[Edit]:
    """What a key that nobody knows may have been meant to be: another spelling, another place."""
    *inside, key = path
    value = read(fields, path)
    places: list[Path] = []
    if key.lower() in ALIASES:
        places.append(ALIASES[key.lower()])
    here = _model_at(tuple(inside))
    free = [name for name in here.model_fields if name not in (read(fields, tuple(inside)) or {})]
    places += [(*inside, near) for near in get_close_matches(key.lower(), free, n=2, cutoff=0.7)]
    for name in ((), *(section for section, _ in _sections())):
        if key in _model_at(name).model_fields and name != tuple(inside):
            places.append((*name, key))
    for rank, place in enumerate(places):
        if read(fields, place) is None and not _blocked(fields, place):
            yield Edit(RENAME * (1 + rank), ((path, REMOVED), (place, value)))


def _blocked(fields: Fields, place: Path) -> bool:
    """Whether a value that is no mapping stands where a section would have to."""
    return (
        len(place) > 1
        and read(fields, place[:1]) is not None
        and not isinstance(read(fields, place[:1]), Mapping)
    )


def _meant(value: Any, path: Path, problem: Problem) -> Iterator[tuple[float, Any]]:
    """What a value of the wrong kind, beyond a bound or misspelt is likely to have meant."""
    if problem.kind == "missing":
        return
    if isinstance(value, str):
        yield from ((RENAME, parsed) for parsed in _parsed(value))
        words = _words(path)
        near = get_close_matches(value.lower(), words, n=1, cutoff=0.4)
        yield from ((RENAME, word) for word in near)
    if isinstance(value, float) and math.isfinite(value) and abs(value) < 1 << 53:
        yield RENAME, round(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        yield RENAME / 2, -value
    if problem.kind.startswith("bool") and value in (0, 1):
        yield RENAME, bool(value)
    for bound in ("ge", "le"):
        if bound in problem.context:
            yield 2 * RENAME, problem.context[bound]
    for word in _words(path):
        yield LAST_RESORT, word


def _parsed(text: str) -> Iterator[Any]:
    plain = text.strip().replace("_", "").replace(",", "")
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if plain.lower() in words:
        yield words[plain.lower()]
    for kind in (int, float):
        try:
            number = kind(plain)
        except ValueError:
            continue
        if math.isfinite(number):
            yield number


def _near_edits(fields: Fields, under: Path) -> Iterator[Edit]:
    """Every single edit of the part in which a rule is broken: numbers, words, keys, sections."""
    inside = read(fields, under) if under else fields
    numbers = {v for _, v in leaves(fields) if _is_count(v)}
    for path, value in leaves(inside, under):
        if path[:1] in (("name",), ("source",), ("published",)):
            continue
        weight = WEIGHTS.get(path[-1], 1.0)
        if _is_count(value):
            for cost, number in neighbours(value, numbers, weight):
                yield Edit(cost, ((path, number),))
        if isinstance(value, bool):
            yield Edit(FLIP, ((path, not value),))
        for word in _words(path):
            if word != value:
                yield Edit(OTHER_WORD, ((path, word),))
        if not _required(path):
            yield Edit(REMOVE, ((path, REMOVED),))
    if not under:
        for (name,), _ in _sections():
            if fields.get(name) is not None:
                yield Edit(REMOVE_SECTION, (((name,), REMOVED),))
            elif (guess := natural((name,), fields)) is not None:
                yield Edit(ADD_SECTION, (((name,), guess),))
    for inner in ("rope",):
        if isinstance(read(fields, ("attention", inner)), Mapping):
            yield Edit(REMOVE_SECTION, ((("attention", inner), REMOVED),))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _sections() -> Iterator[tuple[Path, type[BaseModel]]]:
    for name in ModelConfig.model_fields:
        if (inner := _section(ModelConfig, name)) is not None:
            yield (name,), inner


def _section(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model that a field holds, if it holds one."""
    known = model.model_fields.get(key)
    for kind in _alternatives(known.annotation) if known else ():
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _model_at(path: Path) -> type[BaseModel]:
    here: type[BaseModel] = ModelConfig
    for part in path:
        here = _section(here, part) or here
    return here


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _words(path: Path) -> list[str]:
    """The words that a key may have, if it has words."""
    known = _model_at(path[:-1]).model_fields.get(path[-1])
    kinds = _alternatives(known.annotation) if known else ()
    return [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]


def _required(path: Path) -> bool:
    known = _model_at(path[:-1]).model_fields.get(path[-1])
    return known is not None and known.is_required()
