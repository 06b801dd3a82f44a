"""BERT and T5 in the words of a ``config.json``: their footprint can be told, though not built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ctxsweep.models.encoder import EncoderConfig


def encoder_from_words(raw: Mapping[str, Any], name: str) -> EncoderConfig | None:
    """The encoder that a ``config.json`` holds; None if it holds something else.

    Raises:
        ValueError: a key is missing or wrong, or a variant whose parts are counted otherwise.
    """
    family = raw.get("model_type")
    reader = {"bert": _bert, "t5": _t5}.get(family) if isinstance(family, str) else None
    if reader is None:
        return None
    try:
        return EncoderConfig.model_validate(
            {"name": name, "source": f"config.json of {name}", **reader(raw)}, strict=True
        )
    except KeyError as error:
        raise ValueError(f"key {error} is missing") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{key} = {str(first['input'])[:40]}: {first['msg']}") from None


def _bert(raw: Mapping[str, Any]) -> dict[str, Any]:
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise ValueError("is_decoder and add_cross_attention are not counted; valid: false")
    heads = raw["num_attention_heads"]
    return {
        "vocab_size": raw["vocab_size"],
        "hidden_size": raw["hidden_size"],
        "encoder_layers": raw["num_hidden_layers"],
        "heads": heads,
        "head_dim": _divided(raw["hidden_size"], heads),
        "ffn_size": raw["intermediate_size"],
        "max_positions": raw["max_position_embeddings"],
        "token_types": raw.get("type_vocab_size", 2),
        "pooler": True,
    }


def _t5(raw: Mapping[str, Any]) -> dict[str, Any]:
    if str(raw.get("feed_forward_proj", "relu")).startswith("gated"):
        raise ValueError(
            f"feed_forward_proj = {raw['feed_forward_proj']!r} is not counted; valid: relu"
        )
    if raw.get("tie_word_embeddings") is False:
        raise ValueError("tie_word_embeddings = false is not counted; valid: true")
    return {
        "vocab_size": raw["vocab_size"],
        "hidden_size": raw["d_model"],
        "encoder_layers": raw["num_layers"],
        "decoder_layers": raw.get("num_decoder_layers") or raw["num_layers"],
        "heads": raw["num_heads"],
        "head_dim": raw["d_kv"],
        "ffn_size": raw["d_ff"],
        "norm": "rmsnorm",
        "bias": False,
        "relative_buckets": raw.get("relative_attention_num_buckets", 32),
        "trained_input": raw.get("n_positions"),  # T5's first files name it, later ones do not
    }


def _divided(hidden: Any, heads: Any) -> Any:
    """The width of a head; numbers that are none are left to the validator."""
    if not isinstance(hidden, int) or not isinstance(heads, int) or heads < 1:
        return heads
    if hidden % heads:
        raise ValueError(f"num_attention_heads = {heads} must divide hidden_size = {hidden}")
    return hidden // heads
