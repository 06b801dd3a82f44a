"""Models with layer norms and GELU blocks in the words of a transformers ``config.json``."""

from __future__ import annotations

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_words import Fields
from ctxsweep.models.hf_write_llama import parts, rope_fields
from ctxsweep.models.rope_words import MAX_POSITIONS


def _gelu(config: ModelConfig) -> str:
    return "gelu" if parts(config)[1].kind == "gelu_exact" else "gelu_new"


def write_gpt2(config: ModelConfig) -> Fields:
    """All heads of their own."""
    attention, ffn = parts(config)
    return {
        "n_embd": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": attention.heads,
        "n_inner": ffn.size,
        "n_positions": config.max_positions,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": _gelu(config),
    }


def write_gpt_bigcode(config: ModelConfig) -> Fields:
    """One key/value head, or all."""
    return {**write_gpt2(config), "multi_query": parts(config)[0].kv_heads == 1}


def _rotary(config: ModelConfig) -> Fields:
    attention, ffn = parts(config)
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": ffn.size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": attention.heads,
        "hidden_act": _gelu(config),
        "layer_norm_eps": config.norm_eps,
        **rope_fields(config),
    }


def write_gpt_neox(config: ModelConfig) -> Fields:
    """A norm for each block, side by side or not; heads as wide together as the model."""
    attention = parts(config)[0]
    turned = attention.turned
    return {
        **_rotary(config),
        "use_parallel_residual": config.residual == "parallel",
        "attention_bias": attention.bias,
        "rotary_emb_base": turned.theta,
        "rotary_pct": turned.rotary_dim / attention.head_dim,
    }


def write_phi(config: ModelConfig) -> Fields:
    """One norm for both blocks, biases everywhere."""
    attention = parts(config)[0]
    partial = attention.turned.rotary_dim / attention.head_dim
    return {
        **_rotary(config),
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "partial_rotary_factor": partial,
        "qk_layernorm": False,
    }


def write_falcon(config: ModelConfig) -> Fields:
    """GQA in its new decoder; the old one has one key/value head or all, and one norm."""
    attention, ffn = parts(config)
    shared = config.residual == "parallel_shared_norm"
    old = config.residual != "parallel" and attention.kv_heads in (1, attention.heads)
    return {
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": ffn.size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": attention.heads,
        "num_kv_heads": attention.kv_heads,
        "multi_query": attention.kv_heads == 1,
        "parallel_attn": config.residual != "sequential",
        "new_decoder_architecture": not old,
        "num_ln_in_parallel_attn": None if old else 1 if shared else 2,
        "bias": attention.bias,
        "alibi": False,
        "activation": _gelu(config),
        "layer_norm_epsilon": config.norm_eps,
        **rope_fields(config),
    }


def write_mpt(config: ModelConfig) -> Fields:
    """ALiBi without biases."""
    return {
        "d_model": config.hidden_size,
        "n_layers": config.num_layers,
        "n_heads": parts(config)[0].heads,
        "expansion_ratio": 4,
        "max_seq_len": config.trained_context or MAX_POSITIONS,
        "layer_norm_epsilon": config.norm_eps,
        "no_bias": True,
        "learned_pos_emb": False,
        "attn_config": {"attn_type": "multihead_attention", "alibi": True, "alibi_bias_max": 8},
    }


def write_bloom(config: ModelConfig) -> Fields:
    """ALiBi with biases, and a norm after the embedding."""
    return {
        "hidden_size": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": parts(config)[0].heads,
        "layer_norm_epsilon": config.norm_eps,
        "apply_residual_connection_post_layernorm": False,
        **({"seq_length": config.trained_context} if config.trained_context else {}),
    }
