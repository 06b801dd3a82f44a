"""Models by name: the catalogue's YAML files, those with weights (shipped or fetched), or a path.

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
from ctxsweep.models.encoder import EncoderConfig
from ctxsweep.models.gguf_config import config_from_gguf
from ctxsweep.models.hf_config import BadModelFolder, config_from, config_from_folder
from ctxsweep.models.inline import inline_config
from ctxsweep.models.pretrained import PRETRAINED
from ctxsweep.models.rwkv_checkpoint import BadCheckpoint, config_from_pth

CATALOG = Path(__file__).parent / "catalog"
ENCODERS = CATALOG / "encoders"
TRAINED = Path(__file__).parent / "trained"
"""Folders of models that come with the package, weights and all."""


class UnknownModel(ValueError):
    """Neither a name of the catalogue nor the folder of a model; names the nearest."""


def names() -> list[str]:
    """The catalogue's names, sorted."""
    return sorted(path.stem for path in CATALOG.glob("*.yaml"))


def families() -> dict[str, list[str]]:
    """The catalogue's names by family (of what was published, and ``tiny``), both sorted."""
    found: dict[str, list[str]] = {}
    for name in names():
        found.setdefault(str(_fields(CATALOG / f"{name}.yaml")["family"]), []).append(name)
    return dict(sorted(found.items()))


def encoder_names() -> list[str]:
    """The names of the encoders and encoder-decoders, of which only the footprint is known."""
    return sorted(path.stem for path in ENCODERS.glob("*.yaml"))


def load_encoder(name: str) -> EncoderConfig:
    """The encoder of this name. Raises ``UnknownModel``, which names the nearest."""
    if name not in encoder_names():
        raise UnknownModel(f"'{name}' is not an encoder; {_nearest(name, encoder_names())}")
    path = ENCODERS / f"{name}.yaml"
    try:
        return EncoderConfig(name=name, **_fields(path))
    except ValidationError as error:
        raise UnknownModel(f"{path}: {error}") from error


def trained_names() -> list[str]:
    """The names of the models that come with the package, weights and all, sorted."""
    return sorted(path.parent.name for path in TRAINED.glob("*/config.json"))


def all_names() -> list[str]:
    """Every name that a scenario may give: of the catalogue, shipped with weights, fetched."""
    return [*names(), *trained_names(), *PRETRAINED]


def load_config(model: str | Mapping[str, Any]) -> ModelConfig:
    """The configuration of a name, of a folder with a ``config.json``, of a GGUF file, of an RWKV
    checkpoint, or written out (in our words, or with a ``model_type`` in those of ``config.json``).

    Raises:
        UnknownModel: there is no such name or path, it was not fetched, or it cannot be read.
        BadInlineModel: a model that is written out cannot be.
    """
    if isinstance(model, Mapping):
        if "model_type" in model:
            return _foreign(model)
        return inline_config(model, load_config)
    if model in names():
        return _read(CATALOG / f"{model}.yaml")
    path = path_of(model)
    if path is not None and path.exists():
        return _at(path)
    if model in PRETRAINED:
        raise UnknownModel(f"'{model}' is not here yet: ctxsweep fetch {model}")
    if model in encoder_names():
        raise UnknownModel(
            f"'{model}' is an encoder: ctxsweep inspect {model} tells its footprint; it cannot be "
            "swept or predicted, it has no decode of its own over a context"
        )
    raise UnknownModel(
        f"'{model}' is not in the catalogue and not a model folder, .gguf or .pth file; "
        f"{_nearest(model, all_names())}"
    )


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}All names: ctxsweep list models"


def _at(path: Path) -> ModelConfig:
    """The configuration of a folder or file."""
    try:
        if path.is_dir():
            return config_from_folder(path)
        return config_from_pth(path) if path.suffix == ".pth" else config_from_gguf(path)
    except (BadModelFolder, BadCheckpoint) as error:
        raise UnknownModel(str(error)) from error


def _foreign(model: Mapping[str, Any]) -> ModelConfig:
    """A model written out in the words of transformers' ``config.json``."""
    try:
        return config_from(model, str(model["model_type"]))
    except ValueError as error:
        raise UnknownModel(str(error)) from error


def path_of(model: str | Mapping[str, Any]) -> Path | None:
    """The folder or file that a model's weights lie in, were they fetched or not.

    None for a name of the catalogue, for a model that is written out, and for anything else.
    """
    if not isinstance(model, str) or model in names():
        return None
    if model in trained_names():
        return TRAINED / model
    if model in PRETRAINED:
        return PRETRAINED[model].path
    is_model = os.path.isdir(model) or (model.endswith((".pth", ".gguf")) and os.path.isfile(model))
    return Path(model) if is_model else None


def weights_of(model: str | Mapping[str, Any]) -> Path:
    """``path_of`` a model that has one."""
    path = path_of(model)
    assert path is not None
    return path


def is_folder(model: str | Mapping[str, Any]) -> bool:
    """Whether a model is a folder with a ``config.json``."""
    path = path_of(model)
    return path is not None and path.is_dir()


def is_gguf(model: str | Mapping[str, Any]) -> bool:
    """Whether a model is a ``.gguf`` file."""
    path = path_of(model)
    return path is not None and path.suffix == ".gguf" and path.is_file()


def is_pth(model: str | Mapping[str, Any]) -> bool:
    """Whether a model is a ``.pth`` file."""
    path = path_of(model)
    return path is not None and path.suffix == ".pth" and path.is_file()


def _read(path: Path) -> ModelConfig:
    try:
        fields = _fields(path)
        del fields["family"]
        return ModelConfig(name=path.stem, **fields)
    except (ValidationError, KeyError, TypeError) as error:
        raise UnknownModel(f"{path}: {error}") from error


def _fields(path: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise UnknownModel(f"{path}: {error}") from error
