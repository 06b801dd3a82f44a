"""Models as folders that every engine reads: one random checkpoint for each configuration and seed.

The weights are those that the native backend draws on a CPU for the same seed, so that engines can
be compared by their logits. Light to import: torch comes with the first checkpoint written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ctxsweep.backends.base import InvalidSeries, Unsupported, refuse_sinks
from ctxsweep.models import catalog
from ctxsweep.models import hf_config as transformers_config
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_config import FAMILIES, BadModelFolder
from ctxsweep.models.hf_write import NoFamily, hf_config
from ctxsweep.models.inline import BadInlineModel
from ctxsweep.models.pretrained import cache_folder
from ctxsweep.records import DType, Series

MISSPELT = 0.88
"""How alike a word is to a known one that it is taken for."""
FORMAT = 2
"""Raised when the same configuration and seed would give other files."""


class NotBuilt(InvalidSeries):
    """A family that native models know, with a setting that they do not have."""


def model_type(model: str | Mapping[str, Any]) -> str | None:
    """What a folder, or a model in the words of a ``config.json``, says it is; None for others.

    Raises ``InvalidSeries`` for a folder that says nothing.
    """
    if catalog.is_folder(model):
        try:
            return transformers_config.model_type(catalog.weights_of(model))
        except BadModelFolder as error:
            raise InvalidSeries("model", str(error)) from error
    if isinstance(model, Mapping) and "model_type" in model:
        return str(model["model_type"])
    return None


def model_config(series: Series, sinks: bool = False) -> ModelConfig | None:
    """The series' model, window and sinks overridden; None for one that only engines know.

    ``sinks``: whether the engine has attention sinks. Raises ``InvalidSeries``.
    """
    if not sinks:
        refuse_sinks(series)
    family = model_type(series.model)
    if family is not None and family not in FAMILIES:
        return None
    try:
        config = catalog.load_config(series.model)
    except BadInlineModel as error:
        raise InvalidSeries(f"model.{error.key}".rstrip("."), error.message) from error
    except ValueError as error:
        refusal = InvalidSeries if family is None else NotBuilt
        raise refusal("model", str(error)) from error
    return _overridden(config, series)


def _overridden(config: ModelConfig, series: Series) -> ModelConfig:
    settings = {"window": series.window, "sinks": series.sinks}
    over = {key: tokens for key, tokens in settings.items() if tokens is not None}
    if not over:
        return config
    if config.attention is None:
        key, tokens = next(iter(over.items()))
        raise InvalidSeries(
            key,
            f"model '{config.name}' has no attention, so {key} = {tokens} means nothing; "
            "leave it out",
        )
    attention = config.attention.model_copy(update=over)
    problem = attention.sinks_problem()
    if problem is not None:
        raise InvalidSeries("sinks", problem)
    return config.model_copy(update={"attention": attention})


def known_config(series: Series) -> ModelConfig | None:
    """``model_config`` for engines that read a ``config.json`` themselves.

    None also for what native models do not build of a family that they know: it is theirs to judge.
    """
    try:
        return model_config(series)
    except NotBuilt:
        return None


def check_model(series: Series) -> ModelConfig | None:
    """``known_config``, and that the model has a form that other engines read."""
    config = known_config(series)
    if config is not None:
        check_form(series, config)
    return config


def check_form(series: Series, config: ModelConfig) -> None:
    """Raise ``InvalidSeries`` for a model that no architecture of transformers is."""
    if not catalog.is_folder(series.model):
        try:
            hf_config(config, series.dtype)
        except NoFamily as error:
            raise InvalidSeries("model", str(error)) from error


def check_kv_dtype(series: Series, config: ModelConfig) -> None:
    """Raise ``InvalidSeries`` for a type of keys and values that a model does not have."""
    if config.attention is None and series.kv_dtype != "auto":
        raise InvalidSeries(
            "kv_dtype",
            f"model '{config.name}' has no attention and so no keys and values; leave "
            f"kv_dtype = {series.kv_dtype} out",
        )


def model_folder(series: Series, seed: int) -> Path:
    """A folder with ``config.json`` and weights of the series' model.

    A folder that the series names is given back as it is. Anything else is written in the series'
    dtype, once, and kept in ``cache_folder()``: the weights of a GGUF file, or those drawn with
    ``seed``. RoPE scaling is the caller's to lay over. Raises ``InvalidSeries``, ``Unsupported``
    and what writing raises.
    """
    if catalog.is_folder(series.model):
        return catalog.weights_of(series.model)
    config = check_model(series)
    if config is None:
        assert isinstance(series.model, Mapping)
        return _foreign_folder(series.model, seed, series.dtype)
    fields = hf_config(config, series.dtype, endless=True)
    if catalog.is_gguf(series.model):
        return _folder_of_gguf(catalog.weights_of(series.model), fields, config, series.dtype)
    return kept(fields, seed, lambda folder: _write(folder, fields, config, seed, series.dtype))


def weights_name(series: Series, seed: int) -> str:
    """What tells whether two engines ran the same weights (of one model); for the record."""
    path = catalog.path_of(series.model)
    if path is not None:
        named = series.model in catalog.all_names()
        return str(series.model) if named else str(path.resolve())
    return f"random, seed {seed}, drawn on cpu"


def kept(identity: Mapping[str, Any], seed: int, write: Callable[[Path], None]) -> Path:
    """The folder of this identity and seed; ``write`` fills a new one, which appears when whole."""
    drawn_by = [FORMAT, version("torch")]
    text = json.dumps([drawn_by, seed, identity], sort_keys=True)
    folder = cache_folder() / hashlib.sha256(text.encode()).hexdigest()[:20]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        write(unfinished)
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # somebody else has finished it first
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _folder_of_gguf(
    path: Path, fields: Mapping[str, Any], config: ModelConfig, dtype: DType
) -> Path:
    """The model of a GGUF file, dequantised, with its tokenizer where that is built."""
    from ctxsweep.models.gguf_index import read_index
    from ctxsweep.models.gguf_tokenizer import BadTokenizer, token_ids, tokenizer_from

    index, stat = read_index(path), path.stat()
    fields = {**fields, **token_ids(index)}
    identity = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, fields]

    def write(folder: Path) -> None:
        import torch

        from ctxsweep.models.gguf_file import load_gguf
        from ctxsweep.models.weights import save_weights

        model = load_gguf(path, getattr(torch, dtype), torch.device("cpu"), config)
        (folder / "config.json").write_text(json.dumps(fields, indent=1))
        save_weights(model, fields["model_type"], folder / "model.safetensors")
        with suppress(BadTokenizer):
            tokenizer_from(index).save(str(folder / "tokenizer.json"))

    return kept({"gguf": identity}, 0, write)


def _write(
    folder: Path, fields: Mapping[str, Any], config: ModelConfig, seed: int, dtype: DType
) -> None:
    import torch

    from ctxsweep.models.language_model import build
    from ctxsweep.models.weights import save_weights

    (folder / "config.json").write_text(json.dumps(fields, indent=1))
    model = build(config, seed, getattr(torch, dtype), torch.device("cpu"))
    save_weights(model, fields["model_type"], folder / "model.safetensors")


def _check_words(raw: Mapping[str, Any], default: Any) -> None:
    """Refuse misspelt words: its configurations take any, and pass over those that mean nothing.

    Only near misses are: some models read words that their configuration does not declare.
    """
    known = {*vars(default), *default.attribute_map}
    for word in raw:
        near = get_close_matches(word, known, n=1, cutoff=MISSPELT)
        if near and word not in known and not hasattr(default, word):
            raise InvalidSeries(
                f"model.{word}", f"{raw['model_type']} has no such key; nearest valid: {near[0]}"
            )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _foreign_folder(raw: Mapping[str, Any], seed: int, dtype: DType) -> Path:
    """An architecture that only transformers builds, drawn by it."""
    identity = {**raw, "dtype": dtype, "drawn_by": _version("transformers")}

    def write(folder: Path) -> None:
        try:
            import transformers
        except ImportError as error:
            raise Unsupported(
                f"model_type '{raw['model_type']}' is drawn by transformers, which is not "
                "installed",
                "make setup installs it",
            ) from error
        import torch

        transformers.utils.logging.disable_progress_bar()
        known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if raw["model_type"] not in known:
            near = get_close_matches(str(raw["model_type"]), known, n=1, cutoff=0.0)
            raise InvalidSeries(
                "model.model_type",
                f"'{raw['model_type']}' is no causal language model of transformers; nearest "
                f"valid: {near[0]}",
            )
        _check_words(raw, transformers.AutoConfig.for_model(raw["model_type"]))
        try:
            config = transformers.AutoConfig.for_model(**raw)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = transformers.AutoModelForCausalLM.from_config(config)
        except Exception as error:
            # Its configurations check little: a wrong field fails wherever it is used first.
            why = " ".join(str(error).split())[:200]
            raise InvalidSeries(
                "model", f"transformers cannot build this {raw['model_type']}: {why}"
            ) from error
        model.to(getattr(torch, dtype)).save_pretrained(folder)

    return kept(identity, seed, write)
