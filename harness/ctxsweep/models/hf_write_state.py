"""State-space models and hybrids in the words of a transformers ``config.json``."""

from __future__ import annotations

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_words import Fields
from ctxsweep.models.hf_write_llama import parts, rope_fields
from ctxsweep.models.rope_words import MAX_POSITIONS
from ctxsweep.models.sections import Mamba


def _mamba(config: ModelConfig) -> Mamba:
    assert config.mamba is not None
    return config.mamba


def write_mamba(config: ModelConfig) -> Fields:
    """Mamba-1."""
    return {**_stack(config), "time_step_rank": _mamba(config).dt_rank or "auto"}


def write_mamba2(config: ModelConfig) -> Fields:
    """Mamba-2."""
    mamba = _mamba(config)
    return {
        **_stack(config),
        "head_dim": mamba.head_dim,
        "num_heads": mamba.expand * config.hidden_size // mamba.head_dim,
        "n_groups": mamba.groups,
        "rms_norm": True,
        "chunk_size": 64,
    }


def _stack(config: ModelConfig) -> Fields:
    mamba = _mamba(config)
    return {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "state_size": mamba.state_size,
        "expand": mamba.expand,
        "conv_kernel": mamba.conv_kernel,
        "intermediate_size": mamba.expand * config.hidden_size,
        "layer_norm_epsilon": config.norm_eps,
        "use_bias": False,
        "use_conv_bias": True,
        "hidden_act": "silu",
        "residual_in_fp32": False,
    }


def _hybrid(config: ModelConfig) -> Fields:
    """What hybrids have of a transformer."""
    attention, ffn = parts(config)
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": ffn.size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
    }


def write_granite_hybrid(config: ModelConfig) -> Fields:
    """Granite 4 without experts and with all multipliers 1."""
    attention, ffn = parts(config)
    mamba = _mamba(config)
    return {
        **_hybrid(config),
        "shared_intermediate_size": ffn.size,
        "attention_bias": attention.bias,
        "attention_multiplier": attention.head_dim**-0.5,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "position_embedding_type": "rope",
        "layer_types": [
            "full_attention" if kind == "attention" else "linear_attention"
            for kind in config.layer_mixers()
        ],
        "mamba_n_heads": mamba.expand * config.hidden_size // mamba.head_dim,
        "mamba_d_head": mamba.head_dim,
        "mamba_n_groups": mamba.groups,
        "mamba_d_state": mamba.state_size,
        "mamba_d_conv": mamba.conv_kernel,
        "mamba_expand": mamba.expand,
        "mamba_chunk_size": 64,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        **rope_fields(config),
    }


def write_jamba(config: ModelConfig) -> Fields:
    """Jamba; one expert is a dense block."""
    ffn = parts(config)[1]
    mamba, every = _mamba(config), config.attention_every
    assert every is not None
    return {
        **_hybrid(config),
        "attn_layer_period": every,
        "attn_layer_offset": config.layer_mixers().index("attention"),
        "num_experts": ffn.experts or 1,
        "num_experts_per_tok": ffn.experts_per_token if ffn.experts else 1,
        "expert_layer_period": ffn.experts_every,
        "expert_layer_offset": ffn.experts_every - 1,
        "max_position_embeddings": config.trained_context or MAX_POSITIONS,
        "mamba_d_state": mamba.state_size,
        "mamba_d_conv": mamba.conv_kernel,
        "mamba_expand": mamba.expand,
        "mamba_dt_rank": mamba.dt_rank or "auto",
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
    }
