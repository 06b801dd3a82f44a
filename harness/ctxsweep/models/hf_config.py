"""A transformers ``config.json`` as a ``ModelConfig``. Never imports torch."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_families import FAMILIES, Json


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
    family = raw["model_type"]
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"model_type = {family!r} is not built; one of: {', '.join(FAMILIES)}")
    try:
        return ModelConfig(name=name, source=f"{family} folder", **FAMILIES[family](raw))
    except KeyError as error:
        raise ValueError(f"key {error} is missing") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'model'}: {e['msg']}" for e in error.errors()
        )
        raise ValueError(problems) from error
    except (TypeError, OverflowError) as error:
        raise ValueError(f"a value is not of the type that its key takes: {error}") from error


def model_type(folder: Path) -> str:
    """The family that ``folder/config.json`` names. Raises ``BadModelFolder``."""
    return str(_read(folder)["model_type"])


def _read(folder: Path) -> Json:
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadModelFolder(f"{path}: no such file; a model folder holds a config.json") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadModelFolder(f"{path}: cannot be read as JSON: {error}") from error
    family = raw.get("model_type") if isinstance(raw, dict) else None
    if not isinstance(family, str):
        raise BadModelFolder(
            f"{path}: model_type = {family!r} is not built; one of: {', '.join(FAMILIES)}"
        )
    return dict(raw)
