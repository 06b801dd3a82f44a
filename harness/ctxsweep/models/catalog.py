"""Models by name: the catalogue's YAML files, the folder of a model, or a checkpoint of RWKV.

Never imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_config import BadModelFolder, config_from, config_from_folder
from ctxsweep.models.inline import inline_config
from ctxsweep.models.rwkv_checkpoint import BadCheckpoint, config_from_pth

CATALOG = Path(__file__).parent / "catalog"


class UnknownModel(ValueError):
    """Neither a name of the catalogue nor the folder of a model; names the nearest."""


def names() -> list[str]:
    """The catalogue's names, sorted."""
    return sorted(path.stem for path in CATALOG.glob("*.yaml"))


def load_config(model: str | Mapping[str, Any]) -> ModelConfig:
    """The configuration of a catalogue name, of a folder with a ``config.json``, of an RWKV
    checkpoint, or written out (in our words, or with a ``model_type`` in those of ``config.json``).

    Raises:
        UnknownModel: there is no such name or folder, or the folder cannot be read.
        BadInlineModel: a model that is written out cannot be.
    """
    if isinstance(model, Mapping):
        if "model_type" in model:
            return _foreign(model)
        return inline_config(model, load_config)
    if model in names():
        return _read(CATALOG / f"{model}.yaml")
    if is_folder(model):
        try:
            return config_from_folder(Path(model))
        except BadModelFolder as error:
            raise UnknownModel(str(error)) from error
    if is_pth(model):
        try:
            return config_from_pth(Path(model))
        except BadCheckpoint as error:
            raise UnknownModel(str(error)) from error
    near = get_close_matches(model, names(), n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UnknownModel(
        f"'{model}' is not in the catalogue and not a model folder or .pth file; "
        f"{hint}"
        f"Known: {', '.join(names())}"
    )


def _foreign(model: Mapping[str, Any]) -> ModelConfig:
    """A model written out in the words of transformers' ``config.json``."""
    try:
        return config_from(model, str(model["model_type"]))
    except ValueError as error:
        raise UnknownModel(str(error)) from error


def is_folder(model: str | Mapping[str, Any]) -> bool:
    """Whether a model's name is the path of a folder (a catalogue name wins)."""
    return isinstance(model, str) and model not in names() and os.path.isdir(model)


def is_pth(model: str | Mapping[str, Any]) -> bool:
    """Whether a model's name is the path of a ``.pth`` file."""
    return isinstance(model, str) and model.endswith(".pth") and os.path.isfile(model)


def _read(path: Path) -> ModelConfig:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        return ModelConfig(name=path.stem, **fields)
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise UnknownModel(f"{path}: {error}") from error
