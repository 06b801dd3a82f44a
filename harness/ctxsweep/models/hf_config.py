"""A transformers ``config.json`` as a ``ModelConfig``. Never imports torch."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_families import FAMILIES, REFUSED
from ctxsweep.models.hf_words import Json, check_types, in_their_words, their_key


class BadModelFolder(ValueError):
    """A model folder that cannot be read: names the file and what was wrong."""


def config_from_folder(folder: Path) -> ModelConfig:
    """Read ``folder/config.json``.

    Raises:
        BadModelFolder: no such file, not JSON, an architecture or setting that is not built.
    """
    path, raw = folder / "config.json", _read(folder)
    try:
        return config_from(raw, folder.resolve().name)
    except ValueError as error:
        raise BadModelFolder(f"{path}: {error}") from error


def config_from(raw: Json, name: str) -> ModelConfig:
    """The ``ModelConfig`` of a ``config.json``'s content; ``ValueError`` says what is not built."""
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(_not_built(family))
    check_types(raw)
    try:
        return ModelConfig(name=name, source=f"{family} folder", **FAMILIES[family](raw))
    except KeyError as error:
        raise ValueError(f"key {error} is missing") from error
    except ValidationError as error:
        raise ValueError("; ".join(_problem(e, raw) for e in error.errors())) from error
    except (TypeError, OverflowError) as error:
        empty = ", ".join(key for key, value in raw.items() if value is None)
        nulls = f" (null: {empty})" if empty else ""
        raise ValueError(
            f"a value is not of the type that its key takes{nulls}: {error}"
        ) from error


def _not_built(family: object) -> str:
    why = REFUSED.get(family) if isinstance(family, str) else None
    said = f": {why}" if why else f"; one of: {', '.join(FAMILIES)}"
    return f"model_type = {family!r} is not built{said}"


def _problem(error: ErrorDetails, raw: Json) -> str:
    """One problem under the key of the file that it came from, where there is one."""
    field = ".".join(map(str, error["loc"]))
    said = in_their_words(error["msg"].removeprefix("Value error, "), raw)
    if error["type"] == "value_error":  # the message names the keys itself
        return said
    return f"{their_key(field, raw)} = {error['input']!r:.40}: {said}"


def model_type(folder: Path) -> str:
    """The family that ``folder/config.json`` names. Raises ``BadModelFolder``."""
    return str(_read(folder)["model_type"])


def _read(folder: Path) -> Json:
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadModelFolder(f"{path}: no such file; a model folder holds a config.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadModelFolder(f"{path}: cannot be read as JSON: {error}") from error
    family = raw.get("model_type") if isinstance(raw, dict) else None
    if not isinstance(family, str):
        raise BadModelFolder(f"{path}: {_not_built(family)}")
    return dict(raw)
