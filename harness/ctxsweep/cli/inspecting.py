"""What ``ctxsweep inspect`` does: finds the model, looks into it, prints and writes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import typer
import yaml

from ctxsweep.cli.errors import EXIT_BAD_INPUT, BadInput
from ctxsweep.cli.inspect_model import Found, find_model
from ctxsweep.cli.planned import contexts_of, kv_dtype_of
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.encoder import EncoderConfig
from ctxsweep.models.hf_write import NoFamily, hf_config
from ctxsweep.models.scaling_down import tiny
from ctxsweep.planning.inspection.decoder import inspect_model
from ctxsweep.planning.inspection.encoder import inspect_encoder
from ctxsweep.planning.inspection.scaling_up import scaled_up
from ctxsweep.planning.inspection.shape_words import shape_line
from ctxsweep.records import DType
from ctxsweep.report.inspect_terminal import print_encoder, print_inspection
from ctxsweep.scenario_messages import nearest

DTYPES: tuple[DType, ...] = get_args(DType)
SHORT_DTYPES: dict[str, DType] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
MOST_SCALE = 1000.0
STDOUT = "-"


@dataclass(frozen=True)
class Asked:
    """What was typed."""

    model: str
    contexts: str = "1k,8k,32k,128k"
    batch_size: int = 1
    dtype: str = "bfloat16"
    kv_dtype: str = "auto"
    scale: str | None = None
    settings: tuple[str, ...] = ()
    hf_config: str | None = None
    yaml: str | None = None
    fix: str | None = None
    as_json: bool = False


def inspect_asked(asked: Asked) -> int:
    """Print and write what was asked for; the exit code. Raises ``BadInput``."""
    dtype = _dtype(asked.dtype)
    found = find_model(asked.model, asked.settings)
    if found.changes:
        _print_mended(found, asked, dtype)
        return EXIT_BAD_INPUT
    if asked.fix is not None:
        raise BadInput(f"--fix: {asked.model} is valid, there is nothing to mend")
    if isinstance(found.config, EncoderConfig):
        _inspect_encoder(found.config, asked, dtype)
        return 0
    config = _scaled(found.config, asked.scale)
    texts = _files(config, asked, dtype)
    for target, text in texts.items():
        if target != STDOUT:
            _write(target, text)
    if STDOUT in texts:
        typer.echo(texts[STDOUT], nl=False)
        return 0
    _print_inspection(config, asked, dtype)
    for target in texts:
        typer.echo(f"Written: {target}", err=asked.as_json)
    return 0


def _print_inspection(config: ModelConfig, asked: Asked, dtype: DType) -> None:
    seen = inspect_model(
        config,
        contexts_of(asked.contexts),
        asked.batch_size,
        dtype,
        kv_dtype_of(asked.kv_dtype),
    )
    if asked.as_json:
        typer.echo(seen.model_dump_json(indent=1))
    else:
        print_inspection(seen)


def _inspect_encoder(config: EncoderConfig, asked: Asked, dtype: DType) -> None:
    for option, given in (("hf-config", asked.hf_config), ("yaml", asked.yaml)):
        if given is not None:
            raise BadInput(f"--{option} is for models that can be swept; {config.name} is not one")
    if asked.scale is not None:
        raise BadInput(f"--scale is for models that can be swept; {config.name} is not one")
    seen = inspect_encoder(config, contexts_of(asked.contexts), asked.batch_size, dtype)
    if asked.as_json:
        typer.echo(seen.model_dump_json(indent=1))
    else:
        print_encoder(seen)


def _files(config: ModelConfig, asked: Asked, dtype: DType) -> dict[str, str]:
    """What is to be written, by target."""
    texts: dict[str, str] = {}
    if asked.hf_config is not None:
        texts[asked.hf_config] = _json_text(_hf(config, dtype))
    if asked.yaml is not None:
        if asked.yaml in texts:
            raise BadInput(f"--yaml and --hf-config both go to {asked.yaml}; give each its own")
        texts[asked.yaml] = yaml_text(config)
    return texts


def _hf(config: ModelConfig, dtype: DType) -> dict[str, Any]:
    try:
        return hf_config(config, dtype)
    except NoFamily as error:
        raise BadInput(str(error)) from None


def yaml_text(config: ModelConfig) -> str:
    """A model in our words: every field that is not as it is by default."""
    fields = config.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)


def _json_text(fields: dict[str, Any]) -> str:
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def _write(target: str, text: str) -> None:
    path = Path(target)
    if not path.parent.is_dir():
        raise BadInput(f"{path}: there is no folder {path.parent}; make it first")
    path.write_text(text, encoding="utf-8")


def _print_mended(found: Found, asked: Asked, dtype: DType) -> None:
    """What is wrong and the nearest valid model; written only if that was asked for."""
    config = found.config
    assert isinstance(config, ModelConfig)
    if asked.fix is not None:
        if Path(asked.fix).exists() and Path(asked.fix).resolve() == Path(asked.model).resolve():
            raise BadInput(f"--fix {asked.fix}: is the file to be mended; name another")
        _write(asked.fix, _mended_text(found, config, asked.fix, dtype))
    if asked.as_json:
        changes = [change.model_dump() for change in found.changes]
        nearest_fields = config.model_dump(mode="json", exclude_defaults=True)
        said = {"valid": False, "changes": changes, "nearest": nearest_fields}
        typer.echo(json.dumps(said, indent=1, ensure_ascii=False))
        return
    keys = "one change" if len(found.changes) == 1 else f"{len(found.changes)} changes"
    typer.echo(f"ctxsweep: {found.place}: not a valid model; the nearest is {keys} away:", err=True)
    for change in found.changes:
        typer.echo(f"  {change}", err=True)
    typer.echo(f"It would be: {shape_line(config)}", err=True)
    hint = "To write it: --fix FILE.yaml"
    typer.echo(f"Written: {asked.fix}" if asked.fix else hint, err=True)


def _mended_text(found: Found, config: ModelConfig, target: str, dtype: DType) -> str:
    suffix = Path(target).suffix
    if suffix in (".yaml", ".yml"):
        return yaml_text(config)
    if suffix == ".json":
        return _json_text(found.content if found.content is not None else _hf(config, dtype))
    raise BadInput(f"--fix {target}: write FILE.yaml, or FILE.json for a config.json")


def _scaled(config: ModelConfig, scale: str | None) -> ModelConfig:
    if scale is None:
        return config
    if scale == "tiny":
        return tiny(config)
    match = re.fullmatch(r"(\d{1,4}(?:\.\d{1,3})?)[x×]", scale)
    factor = float(match[1]) if match else 0.0
    if not 1 < factor <= MOST_SCALE:
        raise BadInput(f"--scale '{scale[:40]}': write tiny, 2x or 10x (at most 1000x)")
    larger = scaled_up(config, factor)
    if larger is None:
        raise BadInput(
            f"--scale {scale}: no model near {factor:g} times the size keeps the ratios of "
            f"{config.name}; try 2x, 10x, or --set"
        )
    return larger


def _dtype(text: str) -> DType:
    wanted = SHORT_DTYPES.get(text.lower(), text.lower())
    for known in DTYPES:
        if wanted == known:
            return known
    raise BadInput(f"--dtype '{text[:40]}' is not known; {nearest(text, DTYPES)}")
