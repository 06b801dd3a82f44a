"""What a series makes of a ``config.json``, and what of it transformers cannot run right.

Checks import nothing heavy; transformers comes with ``configuration``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ctxsweep.backends.base import InvalidSeries
from ctxsweep.backends.rope_scaling import check_fixed, checked, engine_words
from ctxsweep.models import catalog
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_config import FAMILIES
from ctxsweep.models.hf_write import hf_config
from ctxsweep.models.rope_words import plain_rope, trained_tokens
from ctxsweep.records import RopeScaling, Series

NO_MAMBA_STATE = "starts the Mamba-1 scan of a call of more than one token from an empty state"
WHOLE_ONLY = {
    "mamba": NO_MAMBA_STATE,
    "falcon_mamba": NO_MAMBA_STATE,
    "jamba": NO_MAMBA_STATE,
    "zamba": NO_MAMBA_STATE,
    "minimax": "masks a call of more than one token by its first layer, whose cache has no length",
}
"""Families that continue a context right one token at a time only, and what they do else."""
WINDOWED = ("mistral", "mixtral", "phi3")
"""Of the families of ``hf_config``, those that read ``sliding_window``."""


def fields(series: Series, config: ModelConfig | None) -> Mapping[str, Any]:
    """The model's ``config.json`` before the series' overrides; ``config`` as ``check_model``'s."""
    if catalog.is_folder(series.model):
        text = (catalog.weights_of(series.model) / "config.json").read_text(encoding="utf-8")
        read: Mapping[str, Any] = json.loads(text)
        return read
    if config is not None:
        return hf_config(config, series.dtype, endless=True)
    assert isinstance(series.model, Mapping)
    return series.model


def keeps_state(family: str, series: Series) -> bool:
    """Whether calls of the size that the series makes continue a context."""
    return family not in WHOLE_ONLY or series.prefill_chunk in (1, "recurrent")


def check_prefill(family: str, series: Series) -> None:
    """Raise ``InvalidSeries`` for chunks where calls of many tokens forget the context."""
    if series.prefill_chunk != "whole" and not keeps_state(family, series):
        raise forgets(family, str(series.prefill_chunk))


def forgets(family: str, given: str) -> InvalidSeries:
    """Why a prompt in parts cannot be fed to a family."""
    return InvalidSeries(
        "prefill_chunk",
        f"{given}: transformers' {family} {WHOLE_ONLY[family]}; nearest valid: whole "
        "(or recurrent)",
    )


def check_window(family: str, series: Series, config: ModelConfig | None) -> None:
    """Raise ``InvalidSeries`` for a window that a family of ours cannot have."""
    attention = config.attention if config else None
    window = attention.window if attention else series.window
    if window == 1:  # its cache keeps the last window - 1 tokens as the slice [-0:], which is all
        raise InvalidSeries("window", "1 is not built; nearest valid: 2")
    own_folder = catalog.is_folder(series.model) and family in FAMILIES
    if series.window is not None and own_folder and family not in WINDOWED:
        raise _no_window(family)


def check_rope(series: Series, config: ModelConfig | None) -> None:
    """Raise ``InvalidSeries`` for rotary positions that cannot be stretched so."""
    if series.prefill_chunk != "whole":
        check_fixed("transformers", series, config, ("dynamic", "longrope"))
    rope = series.rope
    if rope is None:
        return
    attention = config.attention if config else None
    if config is not None and (attention is None or attention.position != "rope"):
        raise InvalidSeries("rope", f"model '{config.name}' has no rotary positions; leave it out")
    checked(rope, trained_tokens(fields(series, config)), None)


def check_family(family: str) -> None:
    """Raise ``InvalidSeries`` if this transformers has no causal language model of that name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    if family not in KNOWN:
        (near,) = get_close_matches(family, KNOWN, n=1, cutoff=0.0)
        raise InvalidSeries(
            "model",
            f"transformers has no causal language model of model_type '{family}'; "
            f"nearest valid: {near}",
        )


def configuration(folder: Path, series: Series) -> Any:
    """The ``PreTrainedConfig`` of a model folder with the series' window and RoPE laid over.

    Raises ``InvalidSeries``.
    """
    import transformers

    read, _ = transformers.PreTrainedConfig.get_config_dict(folder, local_files_only=True)
    read = dict(read)
    if series.window is not None:
        read["sliding_window"] = series.window
    config_class = transformers.CONFIG_MAPPING[read["model_type"]]
    config = config_class.from_dict(dict(read))
    if series.window is not None:
        _check_slides(config, config_class, series.window)
    if series.rope is None:
        return config
    return config_class.from_dict(read | _stretched(config, series.rope, trained_tokens(read)))


def _check_slides(config: Any, config_class: Any, window: int) -> None:
    """That the family reads ``sliding_window``, and that a layer slides over that many tokens."""
    import transformers

    layers = transformers.DynamicCache(config=config).layers
    slides = any(getattr(layer, "sliding_window", None) == window for layer in layers)
    if not slides or not hasattr(config_class(), "sliding_window"):
        raise _no_window(config.model_type)


def _no_window(family: str) -> InvalidSeries:
    return InvalidSeries(
        "window",
        f"transformers' {family} has no sliding window to override; leave it out, or take a model "
        "that has (mistral, mixtral)",
    )


def _stretched(config: Any, rope: RopeScaling, trained: int | None) -> dict[str, Any]:
    """The fields that ``rope`` replaces."""
    plain = plain_rope(config.to_dict())
    if plain is None:
        raise InvalidSeries(
            "rope",
            f"transformers' {config.model_type} has no rotary positions of one kind for all "
            "layers; leave it out",
        )
    known = checked(rope, trained, plain)
    words = engine_words(rope, trained, plain)
    original = known.original_max_position_embeddings
    longest = int((original or config.max_position_embeddings) * words.get("factor", 1.0))
    return {
        "rope_parameters": words,
        "max_position_embeddings": max(config.max_position_embeddings, longest),
        # What stands here counts before what stands within.
        **({"original_max_position_embeddings": original} if original else {}),
    }
