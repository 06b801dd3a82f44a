"""Families of transformers with layer norms and GELU blocks, as read from a ``config.json``."""

from __future__ import annotations

from typing import Any

from ctxsweep.models.hf_words import (
    Fields,
    Json,
    count,
    gelu_of,
    head_dim_of,
    named,
    only,
    trained_length,
    whole_rope,
)
from ctxsweep.models.rope_words import read_rope


def _stack(raw: Json, hidden: int, tied: bool, eps: str) -> Fields:
    """What all of them have."""
    return {
        "mixer": "attention",
        "vocab_size": raw["vocab_size"],
        "hidden_size": hidden,
        "num_layers": named(raw, "num_hidden_layers", "n_layer", "n_layers"),
        "norm": "layernorm",
        "norm_eps": raw.get(eps, 1e-5),
        "tied_embeddings": raw.get("tie_word_embeddings", tied),
    }


def read_gpt2(raw: Json) -> Fields:
    """GPT-2: learned positions, LayerNorm, GELU, biases, MHA."""
    raw = {"activation_function": "gelu_new", **raw}
    only(raw, "scale_attn_by_inverse_layer_idx", False)
    return _learned(raw, kv_heads=count(raw, "n_head", "num_attention_heads"))


def read_gpt_bigcode(raw: Json) -> Fields:
    """StarCoder: GPT-2 with one key/value head, or with all of them."""
    raw = {"activation_function": "gelu_pytorch_tanh", "multi_query": True, **raw}
    only(raw, "add_cross_attention", False)
    heads = count(raw, "n_head", "num_attention_heads")
    return _learned(raw, kv_heads=1 if raw["multi_query"] else heads)


def _learned(raw: Json, kv_heads: int) -> Fields:
    only(raw, "scale_attn_weights", True)
    hidden = count(raw, "n_embd", "hidden_size")
    heads = count(raw, "n_head", "num_attention_heads")
    positions = named(raw, "n_positions", "max_position_embeddings")
    return {
        **_stack(raw, hidden, tied=True, eps="layer_norm_epsilon"),
        "max_positions": positions,
        "trained_context": positions,  # learned positions are trained, each of them
        "attention": {
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim_of(raw, hidden, heads),
            "position": "learned",
            "bias": True,
        },
        "ffn": {
            "kind": gelu_of(raw, "activation_function"),
            "size": raw.get("n_inner") or 4 * hidden,
            "bias": True,
        },
    }


def read_gpt_neox(raw: Json) -> Fields:
    """GPT-NeoX, Pythia: rotary positions in a part of a head, two norms side by side."""
    base = {"rope_theta": raw.get("rotary_emb_base", raw.get("rope_theta"))}
    partial = {"partial_rotary_factor": raw.get("rotary_pct", 0.25)}
    raw = {"hidden_act": "gelu", "max_position_embeddings": 2048, **partial, **raw, **base}
    hidden, heads = count(raw, "hidden_size"), count(raw, "num_attention_heads")
    head_dim = head_dim_of(raw, hidden, heads)
    rope, trained = read_rope(raw, head_dim, 1e4)
    parallel = raw.get("use_parallel_residual", True)
    return {
        **_stack(raw, hidden, tied=False, eps="layer_norm_eps"),
        "trained_context": trained,
        "residual": "parallel" if parallel else "sequential",
        "attention": {
            "heads": heads,
            "kv_heads": heads,
            "head_dim": head_dim,
            **rope,
            "bias": raw.get("attention_bias", True),
        },
        "ffn": {"kind": gelu_of(raw, "hidden_act"), "size": raw["intermediate_size"], "bias": True},
    }


def read_phi(raw: Json) -> Fields:
    """Phi-1 to Phi-2: partial rotary positions, one norm for both blocks, all biases."""
    defaults = {"hidden_act": "gelu_new", "max_position_embeddings": 2048}
    raw = {**defaults, "partial_rotary_factor": 0.5, **raw}
    only(raw, "qk_layernorm", False)
    hidden, heads = count(raw, "hidden_size"), count(raw, "num_attention_heads")
    head_dim = raw.get("head_dim") or head_dim_of(raw, hidden, heads)
    rope, trained = read_rope(raw, head_dim, 1e4)
    return {
        **_stack(raw, hidden, tied=False, eps="layer_norm_eps"),
        "trained_context": trained,
        "residual": "parallel_shared_norm",
        "head_bias": True,
        "attention": {
            "heads": heads,
            "kv_heads": raw.get("num_key_value_heads") or heads,
            "head_dim": head_dim,
            **rope,
            "bias": True,
        },
        "ffn": {"kind": gelu_of(raw, "hidden_act"), "size": raw["intermediate_size"], "bias": True},
    }


_FALCON: Json = {
    "activation": "gelu",
    "max_position_embeddings": 2048,
    "multi_query": True,
    "parallel_attn": True,
    "new_decoder_architecture": False,
}


def read_falcon(raw: Json) -> Fields:
    """Falcon-7B (MQA, one norm for both blocks), Falcon-40B and 180B (GQA, a norm each)."""
    raw = {**_FALCON, **raw}
    if raw.get("alibi"):
        raise ValueError(
            "alibi = True is not built for falcon, which divides the penalties by "
            "√head_dim; valid: False"
        )
    hidden, heads = count(raw, "hidden_size", "n_embed"), count(raw, "num_attention_heads")
    head_dim = head_dim_of(raw, hidden, heads)
    rope, trained = whole_rope(raw, head_dim)
    residual, kv_heads = _falcon_kind(raw, heads)
    biased = raw.get("bias", False)
    return {
        **_stack(raw, hidden, tied=True, eps="layer_norm_epsilon"),
        "trained_context": trained,
        "residual": residual,
        "attention": {
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            **rope,
            "bias": biased,
        },
        "ffn": {
            "kind": gelu_of(raw, "activation"),
            "size": raw.get("ffn_hidden_size") or 4 * hidden,
            "bias": biased,
        },
    }


def _falcon_kind(raw: Json, heads: int) -> tuple[str, int]:
    """How a layer's parts are joined, and its key/value heads."""
    norms = raw.get("num_ln_in_parallel_attn")
    if raw["new_decoder_architecture"]:
        only(raw, "parallel_attn", True)
        only(raw, "num_ln_in_parallel_attn", None, 1, 2)
        shared = "parallel_shared_norm" if norms == 1 else "parallel"
        return shared, raw.get("num_kv_heads") or heads
    only(raw, "num_ln_in_parallel_attn", None, 1)
    joined = "parallel_shared_norm" if raw["parallel_attn"] else "sequential"
    # Without multi_query the older ones have all heads, whatever num_kv_heads says.
    return joined, 1 if raw["multi_query"] else heads


_MPT_ATTENTION: Json = {"attn_type": "multihead_attention", "alibi": True, "alibi_bias_max": 8}


def read_mpt(raw: Json) -> Fields:
    """MPT: ALiBi, no biases in anything, an exact GELU of four times the width."""
    only(raw, "no_bias", True)
    only(raw, "expansion_ratio", 4)
    only(raw, "logit_scale", None)
    hidden = count(raw, "d_model", "hidden_size")
    heads = count(raw, "n_heads", "num_attention_heads")
    _check_mpt_attention(raw.get("attn_config"))
    return {
        **_stack(raw, hidden, tied=True, eps="layer_norm_epsilon"),
        "norm_bias": False,
        "trained_context": trained_length({"max_seq_len": 2048, **raw}, "max_seq_len"),
        "attention": {
            "heads": heads,
            "kv_heads": heads,
            "head_dim": head_dim_of(raw, hidden, heads),
            "position": "alibi",
        },
        "ffn": {"kind": "gelu_exact", "size": 4 * hidden},
    }


def _check_mpt_attention(given: Any) -> None:
    if given is not None and not isinstance(given, dict):
        raise ValueError(f"attn_config = {given!r} must be a mapping")
    words = {**_MPT_ATTENTION, **(given or {})}
    built: dict[str, tuple[object, ...]] = {
        "attn_type": ("multihead_attention",),
        "clip_qkv": (None,),
        "softmax_scale": (None,),
        "prefix_lm": (False,),
        "qk_ln": (False,),
        "attn_uses_sequence_id": (False,),
        "alibi": (True,),
        "alibi_bias_max": (8,),
    }
    for key, allowed in built.items():
        try:
            only(words, key, *allowed)
        except ValueError as error:
            raise ValueError(f"attn_config.{error}") from error


def read_bloom(raw: Json) -> Fields:
    """BLOOM: ALiBi, a norm after the embedding, biases, GELU of four times the width."""
    only(raw, "apply_residual_connection_post_layernorm", False)
    hidden = count(raw, "hidden_size", "n_embed")
    heads = count(raw, "n_head", "num_attention_heads")
    return {
        **_stack(raw, hidden, tied=True, eps="layer_norm_epsilon"),
        "trained_context": trained_length(raw, "seq_length"),
        "embedding_norm": True,
        "attention": {
            "heads": heads,
            "kv_heads": heads,
            "head_dim": head_dim_of(raw, hidden, heads),
            "position": "alibi",
            "bias": True,
        },
        "ffn": {"kind": "gelu", "size": 4 * hidden, "bias": True},
    }
