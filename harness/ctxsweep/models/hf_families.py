"""How each family of a transformers ``config.json`` is read. Never imports torch.

A line of ``FAMILIES`` gives the fields of ``ModelConfig``; it raises ``KeyError`` for a key that is
missing and ``ValueError`` for a setting that is not built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ctxsweep.models.config import nearest_divisors
from ctxsweep.models.rope_words import read_rope

Json = Mapping[str, Any]


def _only(raw: Json, key: str, *allowed: object) -> None:
    """A setting that is built in one way only."""
    if key in raw and raw[key] not in allowed:
        raise ValueError(
            f"{key} = {raw[key]!r} is not built; valid: {', '.join(map(str, allowed))}"
        )


def _count(raw: Json, key: str) -> int:
    """A whole number that others are computed from."""
    value = raw[key]
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} = {value!r} must be a whole number of at least 1")
    return value


def _head_dim(hidden: int, heads: int) -> int:
    if hidden % heads:
        raise ValueError(
            f"{heads} heads must divide the hidden size of {hidden}; nearest valid: "
            f"{nearest_divisors(hidden, heads)}"
        )
    return hidden // heads


# What transformers takes for a key that is absent, where the families differ.
_LLAMA_DEFAULTS: Mapping[str, Json] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"num_key_value_heads": 8, "num_local_experts": 8, "rms_norm_eps": 1e-5},
    "qwen2": {
        "num_key_value_heads": 32,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "phi3": {"rms_norm_eps": 1e-5},
}


def _llama(raw: Json) -> dict[str, Any]:
    """Llama, Mistral, Mixtral, Phi-3: RoPE, RMSNorm, SwiGLU, GQA; a window; experts."""
    raw = {**_LLAMA_DEFAULTS[raw["model_type"]], **raw}
    _only(raw, "hidden_act", "silu")
    heads, hidden = _count(raw, "num_attention_heads"), _count(raw, "hidden_size")
    experts = raw.get("num_local_experts", 0)
    head_dim = raw.get("head_dim") or _head_dim(hidden, heads)
    rope, trained = read_rope(raw, head_dim, 1e6 if experts else 1e4)
    return {
        "mixer": "attention",
        "trained_context": trained,
        "vocab_size": raw["vocab_size"],
        "hidden_size": hidden,
        "num_layers": raw["num_hidden_layers"],
        "norm": "rmsnorm",
        "norm_eps": raw.get("rms_norm_eps", 1e-6),
        "tied_embeddings": raw.get("tie_word_embeddings", False),
        "attention": {
            "heads": heads,
            "kv_heads": raw.get("num_key_value_heads") or heads,
            "head_dim": head_dim,
            "window": raw.get("sliding_window"),
            **rope,
            "bias": raw.get("attention_bias", False),
        },
        "ffn": {
            "kind": "swiglu",
            "size": raw["intermediate_size"],
            "experts": experts,
            "experts_per_token": raw.get("num_experts_per_tok", 2) if experts else 2,
            "bias": raw.get("mlp_bias", False),
        },
    }


def _qwen2(raw: Json) -> dict[str, Any]:
    """Qwen2: Llama with biases of q, k and v alone; a window only where it is switched on."""
    raw = {**_LLAMA_DEFAULTS["qwen2"], **raw}
    fields = _llama({**raw, "sliding_window": _qwen2_window(raw), "attention_bias": True})
    fields["attention"]["out_bias"] = False
    return fields


def _qwen2_window(raw: Json) -> object:
    """The window of all layers, or None; layers of both kinds are not built."""
    if not raw["use_sliding_window"]:
        return None
    layers, below = _count(raw, "num_hidden_layers"), raw["max_window_layers"]
    if not isinstance(below, int):
        raise ValueError(f"max_window_layers = {below!r} must be a whole number")
    split = min(below, layers)
    kinds = ["full_attention"] * split + ["sliding_attention"] * (layers - split)
    kinds = raw.get("layer_types") or kinds
    if kinds == ["full_attention"] * layers:
        return None
    if kinds != ["sliding_attention"] * layers:
        raise ValueError(
            f"a window for some of the layers (max_window_layers = {below}) is not built; valid: "
            f"0 (all) or {layers} (none)"
        )
    return raw["sliding_window"]


def _gpt2(raw: Json) -> dict[str, Any]:
    """GPT-2: learned positions, LayerNorm, GELU, biases, MHA."""
    _only(raw, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    _only(raw, "scale_attn_by_inverse_layer_idx", False)
    _only(raw, "scale_attn_weights", True)
    hidden, heads = _count(raw, "n_embd"), _count(raw, "n_head")
    return {
        "mixer": "attention",
        "vocab_size": raw["vocab_size"],
        "hidden_size": hidden,
        "num_layers": raw["n_layer"],
        "max_positions": raw["n_positions"],
        "norm": "layernorm",
        "norm_eps": raw.get("layer_norm_epsilon", 1e-5),
        "tied_embeddings": raw.get("tie_word_embeddings", True),
        "attention": {
            "heads": heads,
            "kv_heads": heads,
            "head_dim": _head_dim(hidden, heads),
            "position": "learned",
            "bias": True,
        },
        "ffn": {"kind": "gelu", "size": raw.get("n_inner") or 4 * hidden, "bias": True},
    }


def _mamba(raw: Json) -> dict[str, Any]:
    """Mamba-1 as transformers stores it."""
    _only(raw, "hidden_act", "silu")
    _only(raw, "use_bias", False)
    _only(raw, "use_conv_bias", True)
    hidden = _count(raw, "hidden_size")
    rank = raw.get("time_step_rank", "auto")
    return {
        "mixer": "mamba1",
        **_mamba_stack(raw, tied=True),
        "mamba": {
            "state_size": raw.get("state_size", 16),
            "expand": raw.get("expand", 2),
            "conv_kernel": raw.get("conv_kernel", 4),
            "dt_rank": -(-hidden // 16) if rank == "auto" else rank,
        },
    }


def _mamba2(raw: Json) -> dict[str, Any]:
    """Mamba-2 as transformers stores it."""
    _only(raw, "hidden_act", "silu")
    _only(raw, "use_bias", False)
    _only(raw, "use_conv_bias", True)
    _only(raw, "rms_norm", True)
    _only_unlimited_steps(raw)
    return {
        "mixer": "mamba2",
        **_mamba_stack(raw, tied=False),
        "mamba": {
            "state_size": raw.get("state_size", 128),
            "expand": raw.get("expand", 2),
            "conv_kernel": raw.get("conv_kernel", 4),
            "head_dim": raw.get("head_dim", 64),
            "groups": raw.get("n_groups", 8),
        },
    }


# The same for a Granite hybrid: experts, and no rotary positions.
_GRANITE_DEFAULTS: Json = {
    "num_local_experts": 8,
    "position_embedding_type": None,
    "attention_multiplier": 1.0,
}


def _granite_hybrid(raw: Json) -> dict[str, Any]:
    """Granite 4 without experts: Mamba-2 or attention with RoPE in every layer, then SwiGLU."""
    raw = {**_GRANITE_DEFAULTS, **raw}
    _only(raw, "hidden_act", "silu")
    _only(raw, "num_local_experts", 0)
    _only(raw, "position_embedding_type", "rope")
    _only(raw, "mamba_conv_bias", True)
    _only(raw, "mamba_proj_bias", False)
    _only_unlimited_steps(raw)
    for key in ("embedding_multiplier", "logits_scaling", "residual_multiplier"):
        _only(raw, key, 1, 1.0)
    heads, hidden = _count(raw, "num_attention_heads"), _count(raw, "hidden_size")
    head_dim = raw.get("head_dim") or _head_dim(hidden, heads)
    if abs(raw["attention_multiplier"] - head_dim**-0.5) > 1e-6:
        raise ValueError(
            f"attention_multiplier = {raw['attention_multiplier']} is not built; valid: "
            f"{head_dim**-0.5:g} (head_dim ** -0.5)"
        )
    rope, trained = read_rope(raw, head_dim, 1e4)
    return {
        "mixer": "mamba2",
        "vocab_size": raw["vocab_size"],
        "hidden_size": hidden,
        "num_layers": raw["num_hidden_layers"],
        "norm": "rmsnorm",
        "norm_eps": raw.get("rms_norm_eps", 1e-6),
        "tied_embeddings": raw.get("tie_word_embeddings", False),
        "attention_every": _attention_every(raw["layer_types"]),
        "trained_context": trained,
        "attention": {
            "heads": heads,
            "kv_heads": raw.get("num_key_value_heads") or heads,
            "head_dim": head_dim,
            **rope,
            "bias": raw.get("attention_bias", False),
        },
        "ffn": {"kind": "swiglu", "size": raw["shared_intermediate_size"]},
        "mamba": {
            "state_size": raw["mamba_d_state"],
            "expand": raw.get("mamba_expand", 2),
            "conv_kernel": raw.get("mamba_d_conv", 4),
            "head_dim": raw["mamba_d_head"],
            "groups": raw.get("mamba_n_groups", 1),
        },
    }


def _attention_every(kinds: list[str]) -> int:
    """The step between attention layers; hybrids are built with one step only."""
    attends = [kind in ("attention", "full_attention") for kind in kinds]
    every = attends.index(True) + 1 if True in attends else 0
    if every < 2 or attends != [(i + 1) % every == 0 for i in range(len(kinds))]:
        raise ValueError(
            f"layer_types = {kinds} is not built; valid: attention in every k-th layer, k > 1"
        )
    return every


def _only_unlimited_steps(raw: Json) -> None:
    # JSON has no infinity; transformers 5 writes the second.
    _only(raw, "time_step_limit", [0.0, float("inf")], [0.0, {"__float__": "Infinity"}])


def _mamba_stack(raw: Json, tied: bool) -> dict[str, Any]:
    return {
        "vocab_size": raw["vocab_size"],
        "hidden_size": raw["hidden_size"],
        "num_layers": raw["num_hidden_layers"],
        "norm": "rmsnorm",
        "norm_eps": raw.get("layer_norm_epsilon", 1e-5),
        "tied_embeddings": raw.get("tie_word_embeddings", tied),
    }


# model_type of config.json -> its reading
FAMILIES: dict[str, Callable[[Json], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _llama,
    "mixtral": _llama,
    "qwen2": _qwen2,
    "phi3": _llama,
    "gpt2": _gpt2,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "granitemoehybrid": _granite_hybrid,
}
