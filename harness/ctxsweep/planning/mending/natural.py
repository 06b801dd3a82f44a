"""What a key that is missing most likely is, told by those that are there; and its other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]

# Words of config.json and of papers -> where we have it.
ALIASES: dict[str, Path] = {
    "d_model": ("hidden_size",),
    "n_embd": ("hidden_size",),
    "dim": ("hidden_size",),
    "hidden_dim": ("hidden_size",),
    "num_hidden_layers": ("num_layers",),
    "n_layer": ("num_layers",),
    "n_layers": ("num_layers",),
    "layers": ("num_layers",),
    "vocab": ("vocab_size",),
    "tie_word_embeddings": ("tied_embeddings",),
    "max_position_embeddings": ("trained_context",),
    "n_positions": ("max_positions",),
    "rms_norm_eps": ("norm_eps",),
    "layer_norm_eps": ("norm_eps",),
    "layer_norm_epsilon": ("norm_eps",),
    "num_attention_heads": ("attention", "heads"),
    "num_heads": ("attention", "heads"),
    "n_head": ("attention", "heads"),
    "n_heads": ("attention", "heads"),
    "num_key_value_heads": ("attention", "kv_heads"),
    "num_kv_heads": ("attention", "kv_heads"),
    "n_kv_heads": ("attention", "kv_heads"),
    "head_size": ("attention", "head_dim"),
    "sliding_window": ("attention", "window"),
    "attention_bias": ("attention", "bias"),
    "intermediate_size": ("ffn", "size"),
    "ffn_dim": ("ffn", "size"),
    "d_ff": ("ffn", "size"),
    "mlp_bias": ("ffn", "bias"),
    "num_local_experts": ("ffn", "experts"),
    "num_experts": ("ffn", "experts"),
    "num_experts_per_tok": ("ffn", "experts_per_token"),
    "top_k": ("ffn", "experts_per_token"),
    "d_state": ("mamba", "state_size"),
    "d_conv": ("mamba", "conv_kernel"),
    "n_groups": ("mamba", "groups"),
}


def natural(path: Path, fields: Mapping[str, Any]) -> Any:
    """A value for a key or a whole section; None where nothing tells one."""
    hidden = _count(fields.get("hidden_size"))
    attention, ffn = _mapping(fields, "attention"), _mapping(fields, "ffn")
    heads, head_dim = _count(attention.get("heads")), _count(attention.get("head_dim"))
    match path:
        case ("name",):
            return "model"
        case ("mixer",):
            return _mixer(fields)
        case ("hidden_size",):
            return heads * head_dim or None
        case ("attention",):
            return _attention(hidden) if hidden else None
        case ("attention", "heads"):
            kv_heads = _count(attention.get("kv_heads"))
            return (hidden // head_dim if head_dim else 0) or kv_heads or None
        case ("attention", "kv_heads"):
            return heads or None
        case ("attention", "head_dim"):
            return (hidden // heads if heads else 0) or None
        case ("ffn", "size"):
            gated = ffn.get("kind", "swiglu") in ("swiglu", "geglu")
            return _ffn_size(hidden, gated) if hidden else None
        case ("retention",):
            return {"heads": _retention_heads(hidden)} if hidden else None
        case ("retention", "heads"):
            return _retention_heads(hidden) if hidden else None
        case ("mamba",):
            # All of it has defaults; heads of Mamba-2 must fill the inner width.
            return {} if hidden % 32 == 0 else {"head_dim": 2}
        case ("rwkv6",) | ("rwkv7",):
            fitting = [n for n in (64, 32, 16, 8, 4, 2, 1) if hidden % n == 0]
            return {} if fitting[0] == 64 else {"head_dim": fitting[0]}
    return None


def _mixer(fields: Mapping[str, Any]) -> str | None:
    """What the sections that are there belong to."""
    for kind in ("rwkv7", "rwkv6", "retention"):
        if kind in fields:
            return kind
    if "mamba" in fields:
        mamba = _mapping(fields, "mamba")
        second = _count(mamba.get("state_size")) > 16 or {"head_dim", "groups"} & set(mamba)
        return "mamba2" if second else "mamba1"
    return "attention" if "attention" in fields else None


def _attention(hidden: int) -> dict[str, int]:
    """All heads with keys and values of their own, as wide as most: 128, in small models less."""
    wide = next((n for n in (128, 64, 32, 16, 8, 4, 2) if hidden % n == 0 and hidden >= 4 * n), 2)
    heads = max(1, hidden // wide)
    return {"heads": heads, "kv_heads": heads, "head_dim": wide}


def _ffn_size(hidden: int, gated: bool) -> int:
    """4·d, or with a gate the 8/3·d that has as many parameters (arXiv 2002.05202)."""
    if not gated:
        return 4 * hidden
    step = 128 if hidden >= 128 else 2
    return max(step, round(8 * hidden / 3 / step) * step)


def _retention_heads(hidden: int) -> int:
    """Heads of 256, as published (arXiv 2307.08621), where they fit."""
    return next((hidden // n for n in (256, 128, 64, 32, 16, 8, 4, 2) if hidden % n == 0), 1)


def _mapping(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = fields.get(key)
    return section if isinstance(section, Mapping) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
