"""Families of transformers with RMS norms and gated blocks, as read from a ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctxsweep.models.hf_words import TANH_GELU, Fields, Json, count, head_dim_of, only, whole_rope
from ctxsweep.models.rope_words import read_rope

# What transformers takes for a key that is absent, where the families differ.
_DEFAULTS: Mapping[str, Json] = {
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


WINDOWED = frozenset({"mistral", "mixtral", "phi3", "qwen2"})
"""Those whose layers have a window; a Llama has none, whatever its file says."""


def read_llama(raw: Json) -> Fields:
    """Llama, Mistral, Mixtral, Phi-3: RoPE, RMSNorm, SwiGLU, GQA; a window; experts."""
    raw = {**_DEFAULTS[raw["model_type"]], **raw}
    only(raw, "hidden_act", "silu")
    heads, hidden = count(raw, "num_attention_heads"), count(raw, "hidden_size")
    experts = raw.get("num_local_experts", 0)
    head_dim = raw.get("head_dim") or head_dim_of(raw, hidden, heads)
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
            "window": raw.get("sliding_window") if raw["model_type"] in WINDOWED else None,
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


def read_qwen2(raw: Json) -> Fields:
    """Qwen2: Llama with biases of q, k and v alone; a window only where it is switched on."""
    raw = {**_DEFAULTS["qwen2"], **raw}
    fields = read_llama({**raw, "sliding_window": _qwen2_window(raw), "attention_bias": True})
    fields["attention"]["out_bias"] = False
    return fields


def _qwen2_window(raw: Json) -> object:
    """The window of all layers, or None; layers of both kinds are not built."""
    if not raw["use_sliding_window"]:
        return None
    layers, below = count(raw, "num_hidden_layers"), raw["max_window_layers"]
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


_GEMMA: Json = {
    "hidden_act": "gelu_pytorch_tanh",
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
}


def read_gemma(raw: Json) -> Fields:
    """Gemma: Llama with GeGLU, the embedding scaled by √hidden_size, heads of their own width."""
    raw = {**_GEMMA, **raw}
    # Its first files said gelu and meant the tanh form, which is what they are run with.
    only(raw, "hidden_act", "gelu", *TANH_GELU)
    only(raw, "hidden_activation", None, *TANH_GELU)
    only(raw, "use_bidirectional_attention", None, False)
    heads, hidden = count(raw, "num_attention_heads"), count(raw, "hidden_size")
    rope, trained = whole_rope(raw, count(raw, "head_dim"))
    attention: dict[str, Any] = {
        "heads": heads,
        "kv_heads": raw["num_key_value_heads"] or heads,
        "head_dim": raw["head_dim"],
        **rope,
        "bias": raw.get("attention_bias", False),
    }
    return {
        "mixer": "attention",
        "trained_context": trained,
        "vocab_size": raw["vocab_size"],
        "hidden_size": hidden,
        "num_layers": raw["num_hidden_layers"],
        "norm": "rmsnorm",
        "norm_eps": raw.get("rms_norm_eps", 1e-6),
        "tied_embeddings": raw.get("tie_word_embeddings", True),
        "embedding_scale": hidden**0.5,
        "attention": attention,
        "ffn": {"kind": "geglu", "size": raw["intermediate_size"]},
    }
