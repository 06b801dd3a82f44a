"""The words of a transformers ``config.json`` that its families share, and what they may hold.

Never imports torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ctxsweep.models.rope_words import MAX_POSITIONS, read_rope
from ctxsweep.models.sections import nearest_divisors

Json = Mapping[str, Any]
Fields = dict[str, Any]
"""Fields of ``ModelConfig``."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
"""Names of GELU's tanh form; ``gelu`` alone is the one with erf."""
_COUNTS = _words(
    "vocab_size hidden_size d_model n_embd n_embed num_hidden_layers n_layer n_layers "
    "num_attention_heads n_head n_heads num_key_value_heads num_kv_heads head_dim "
    "intermediate_size ffn_hidden_size n_inner shared_intermediate_size sliding_window "
    "max_position_embeddings original_max_position_embeddings n_positions max_seq_len seq_length "
    "state_size expand conv_kernel n_groups expert_layer_period "
    "attn_layer_period mamba_d_state mamba_d_conv mamba_d_head mamba_expand mamba_n_groups"
)
_FROM_ZERO = _words(
    "num_local_experts num_experts num_experts_per_tok max_window_layers attn_layer_offset "
    "expert_layer_offset"
)
_NUMBERS = _words(
    "rms_norm_eps layer_norm_eps layer_norm_epsilon rope_theta rotary_emb_base rotary_pct "
    "partial_rotary_factor attention_multiplier"
)
_SWITCHES = _words(
    "tie_word_embeddings attention_bias mlp_bias bias use_sliding_window multi_query alibi "
    "parallel_attn new_decoder_architecture use_parallel_residual"
)
_MOST = 1 << 40
"""Beyond any count in a model; sizes have nearer bounds, which ``ModelConfig`` checks."""
OUR_WORDS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model", "n_embed"),
    "num_layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "max_positions": ("n_positions",),
    "trained_context": ("max_position_embeddings", "max_seq_len", "seq_length"),
    "norm_eps": ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps"),
    "tied_embeddings": ("tie_word_embeddings",),
    "attention_every": ("attn_layer_period", "layer_types"),
    "attention_offset": ("attn_layer_offset",),
    "attention.heads": ("num_attention_heads", "n_head", "n_heads"),
    "attention.kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "attention.head_dim": ("head_dim",),
    "attention.window": ("sliding_window",),
    "attention.rope_theta": ("rope_theta", "rotary_emb_base"),
    "attention.rotary_dim": ("partial_rotary_factor", "rotary_pct"),
    "ffn.size": ("intermediate_size", "ffn_hidden_size", "n_inner", "shared_intermediate_size"),
    "ffn.experts": ("num_local_experts", "num_experts"),
    "ffn.experts_per_token": ("num_experts_per_tok",),
    "mamba.state_size": ("state_size", "mamba_d_state"),
    "mamba.expand": ("expand", "mamba_expand"),
    "mamba.conv_kernel": ("conv_kernel", "mamba_d_conv"),
    "mamba.head_dim": ("head_dim", "mamba_d_head"),
    "mamba.groups": ("n_groups", "mamba_n_groups"),
    "mamba.dt_rank": ("time_step_rank", "mamba_dt_rank"),
}
"""A field of ``ModelConfig`` and the keys that it is read from."""


_PREFIXED = frozenset({"jamba", "granitemoehybrid"})
"""Hybrids, whose keys of the state-space layers begin with ``mamba_``."""


def check_types(raw: Json) -> None:
    """Raise ``ValueError`` for a value that its key cannot have in any family; null is absent."""
    for key, value in raw.items():
        if value is None:
            continue
        if key in ("rope_parameters", "rope_scaling") and isinstance(value, Mapping):
            check_types(value)
        if key in _COUNTS or key in _FROM_ZERO:
            _check_whole(key, value, 0 if key in _FROM_ZERO else 1)
        elif key in _NUMBERS and not (_is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{key} = {value!r} must be a number above 0")
        elif key in _SWITCHES and not isinstance(value, bool):
            raise ValueError(f"{key} = {value!r} must be true or false")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_whole(key: str, value: object, least: int) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MOST:
        return
    near = round(max(-1, min(value, _MOST))) if isinstance(value, int | float) else least
    raise ValueError(
        f"{key} = {value!r:.40} must be a whole number of at least {least}; nearest valid: "
        f"{max(least, near)}"
    )


def named(raw: Json, *keys: str) -> Any:
    """The value under the first of ``keys`` that is there: one setting's names.

    Raises:
        KeyError: none of them is.
        ValueError: two of them differ.
    """
    found = [key for key in keys if raw.get(key) is not None]
    if not found:
        raise KeyError(keys[0])
    for other in found[1:]:
        if raw[other] != raw[found[0]]:
            raise ValueError(
                f"{other} = {raw[other]!r} contradicts {found[0]} = {raw[found[0]]!r}, which is "
                "the same setting; remove one"
            )
    return raw[found[0]]


def only(raw: Json, key: str, *allowed: object) -> None:
    """A setting that is built in one way only."""
    if key in raw and raw[key] not in allowed:
        raise ValueError(
            f"{key} = {raw[key]!r} is not built; valid: {', '.join(map(str, allowed))}"
        )


def count(raw: Json, *keys: str) -> int:
    """A whole number that others are computed from, under one of its names."""
    value = named(raw, *keys)
    _check_whole(keys[0], value, 1)
    return int(value)


def their_key(field: str, raw: Json) -> str:
    """The key of a file that a field of ``ModelConfig`` came from, or would have come from.

    The field itself if its family has no key for it.
    """
    keys = OUR_WORDS.get(field, ())
    prefixed = raw.get("model_type") in _PREFIXED
    usual = [key for key in keys if key.startswith("mamba_") == prefixed] or keys
    return next((key for key in keys if key in raw), next(iter(usual), field))


def in_their_words(said: str, raw: Json) -> str:
    """A message of ``ModelConfig`` with the keys of the file in place of its fields."""
    for field in OUR_WORDS:
        name = f"(?:{re.escape(field)}|{re.escape(field.rpartition('.')[2])})"
        said = re.sub(rf"(?<![\w.]){name}(?= =|:)", their_key(field, raw), said)
    return said


def head_dim_of(raw: Json, hidden: int, heads: int) -> int:
    """A head's width where all heads together are as wide as the model."""
    if hidden % heads:
        raise ValueError(
            f"{their_key('attention.heads', raw)} = {heads} must divide "
            f"{their_key('hidden_size', raw)} = {hidden}; nearest valid: "
            f"{nearest_divisors(hidden, heads)}"
        )
    return hidden // heads


def gelu_of(raw: Json, key: str) -> str:
    """Which form of GELU a key names."""
    name = raw[key]
    if name in TANH_GELU:
        return "gelu"
    if name == "gelu":
        return "gelu_exact"
    raise ValueError(f"{key} = {name!r} is not built; valid: gelu, {', '.join(TANH_GELU)}")


def trained_length(raw: Json, key: str) -> int | None:
    """The longest context of the training, of positions that themselves have no end."""
    tokens = raw.get(key)
    return None if tokens is None or tokens >= MAX_POSITIONS else int(tokens)


def whole_rope(raw: Json, head_dim: int) -> tuple[Fields, int | None]:
    """``read_rope`` of a family that turns all dimensions of a head."""
    fields, trained = read_rope(raw, head_dim, 1e4)
    if "rotary_dim" in fields:
        raise ValueError(
            f"partial_rotary_factor is not built for {raw['model_type']}, which turns all "
            "dimensions; remove it"
        )
    return fields, trained
