"""Finds the model that a person means: by name, by file, or written out; valid or nearly so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ctxsweep.cli.errors import BadInput
from ctxsweep.models import catalog
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.encoder import EncoderConfig
from ctxsweep.models.hf_config import config_from
from ctxsweep.models.inline import BadInlineModel, inline_config
from ctxsweep.models.sections import Attention, FeedForward, Mamba, Retention, Rwkv6, Rwkv7
from ctxsweep.planning.inspection.encoder_words import encoder_from_words
from ctxsweep.planning.mending.edits import CannotMend, Change
from ctxsweep.planning.mending.natural import ALIASES
from ctxsweep.planning.mending.nearest_valid import nearest_valid
from ctxsweep.planning.mending.nearest_valid_hf import nearest_valid_hf
from ctxsweep.scenario_messages import nearest
from ctxsweep.scenario_yaml import ScenarioError, merge, parse_value, read_document

YAML = (".yaml", ".yml")
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Found:
    """A model, and what had to change for it to be one.

    ``content``: of a mended ``config.json``, on its own keys.
    """

    config: ModelConfig | EncoderConfig
    place: str
    changes: tuple[Change, ...] = ()
    content: dict[str, Any] | None = None


def find_model(model: str, settings: Sequence[str]) -> Found:
    """The model of a name or path, with ``key=value`` laid over; the nearest if it is not valid.

    Raises:
        BadInput: there is no such model, it cannot be read, or nothing tells what was meant.
    """
    over = _settings(settings)
    named = model in catalog.encoder_names()
    found = Found(catalog.load_encoder(model), model) if named else _found(model)
    if not over:
        return found
    if isinstance(found.config, EncoderConfig):
        raise BadInput(f"--set is for models that can be swept; {model} is an encoder")
    if found.changes:
        raise BadInput(f"{found.place} is not valid by itself: mend it with --fix, then --set")
    for text in settings:
        _check_key(text.partition("=")[0].strip().split("."))
    fields = found.config.model_dump(exclude_unset=True, exclude={"published"})
    fields |= {"name": f"{found.config.name} varied", "source": f"varies {found.config.name}"}
    return _valid_or_nearest(merge(fields, over), f"{model} with {', '.join(settings)}")


def _found(model: str) -> Found:
    path = catalog.path_of(model) or Path(model)
    if path.suffix in YAML and model not in catalog.names():
        return _from_yaml(path)
    if path.is_dir() and (path / "config.json").is_file():
        return _from_json(path / "config.json", path.resolve().name)
    if path.suffix == ".json":
        folder = path.resolve().parent.name
        return _from_json(path, folder if path.name == "config.json" else path.stem)
    try:
        return Found(catalog.load_config(model), model)
    except catalog.UnknownModel as error:
        raise BadInput(str(error)) from None


def _from_yaml(path: Path) -> Found:
    """A model in our words, whole or ``like`` another."""
    _check_file(path)
    fields = _document(path)
    if isinstance(fields.get("model_type"), str):
        return _from_words(fields, path, path.stem)
    fields = {"name": path.stem, **fields}
    try:
        return Found(inline_config(fields, _load), str(path))
    except BadInlineModel as error:
        like, scale = fields.get("like"), fields.get("scale")
        if scale is not None or not isinstance(like, str | None):
            raise BadInput(f"{path}: {error}") from None
    base = _load(like).model_dump(exclude_unset=True, exclude={"published"}) if like else {}
    rest = {key: value for key, value in fields.items() if key not in ("like", "scale")}
    return _valid_or_nearest(merge(base, rest), str(path))


def _document(path: Path) -> dict[str, Any]:
    try:
        return read_document(path).data
    except ScenarioError as error:  # speaks of scenarios, which this is none of
        message = error.message.replace("scenario", "model configuration")
        if message.startswith("must be a mapping"):
            message = "must be a mapping of keys such as 'mixer: attention'"
        raise BadInput(f"{error.place}: {message}") from None


def _load(name: str) -> ModelConfig:
    try:
        return catalog.load_config(name)
    except catalog.UnknownModel as error:
        raise BadInput(str(error)) from None


def _from_json(path: Path, name: str) -> Found:
    _check_file(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: cannot be read as JSON: {str(error)[:120]}") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path}: must be an object with a model_type, as config.json is")
    if "model_type" not in raw and isinstance(raw.get("mixer"), str):
        return _valid_or_nearest({"name": name, **raw}, str(path))
    return _from_words(raw, path, name)


def _from_words(raw: dict[str, Any], path: Path, name: str) -> Found:
    """A model in the words of config.json."""
    try:
        if (encoder := encoder_from_words(raw, name)) is not None:
            return Found(encoder, str(path))
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None
    try:
        return Found(config_from(raw, name), str(path))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        pass
    try:
        config, content, changes = nearest_valid_hf(raw, name)
    except CannotMend as error:
        raise BadInput(f"{path}: {error}") from None
    return Found(config, str(path), changes, content)


def _valid_or_nearest(fields: Mapping[str, Any], place: str) -> Found:
    try:
        config, changes = nearest_valid(fields)
    except CannotMend as error:
        raise BadInput(f"{place}: {error}") from None
    except ValidationError as error:  # never: what is mended is valid
        raise BadInput(f"{place}: {error.errors()[0]['msg']}") from None
    return Found(config, place, changes)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise BadInput(f"{path}: no such file; a model is a name, a folder, or a file")
    if path.stat().st_size > MOST_BYTES:
        raise BadInput(f"{path}: larger than {MOST_BYTES >> 10} KiB: not a model's configuration")
    if not path.read_bytes().strip():
        raise BadInput(f"{path}: is empty; a model has at least mixer, sizes and their section")


def _check_key(parts: Sequence[str]) -> None:
    """A key that no configuration has is a slip: say which was meant."""
    sections = {
        "attention": Attention,
        "ffn": FeedForward,
        "mamba": Mamba,
        "rwkv6": Rwkv6,
        "rwkv7": Rwkv7,
        "retention": Retention,
    }
    known = {f"{name}.{key}" for name, kind in sections.items() for key in kind.model_fields}
    known |= set(ModelConfig.model_fields) - {"source", "published"}
    key = ".".join(parts)
    if ".".join(parts[:2]) in known or key in known:
        return
    within = sorted(one for one in known if one.endswith(f".{key}"))
    meant = ".".join(ALIASES.get(parts[-1].lower(), ())) or "' or '".join(within)
    hint = f"did you mean '{meant}'?" if meant else nearest(key, sorted(known))
    raise BadInput(f"--set {key[:60]}: no such key; {hint}")


def _settings(texts: Sequence[str]) -> dict[str, Any]:
    """``attention.kv_heads=8`` as nested mappings."""
    result: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise BadInput(f"--set '{text[:60]}': write key=value, as in attention.kv_heads=8")
        nested: Any = parse_value(value, f"--set {key}")
        for part in reversed(parts):
            nested = {part: nested}
        result = merge(result, nested) if nested is not None else result
    return result
