"""A ``ModelConfig`` as the ``config.json`` of transformers. Never imports torch."""

from __future__ import annotations

from typing import Any

from ctxsweep.models.config import Attention, FeedForward, ModelConfig
from ctxsweep.models.rope import resolve
from ctxsweep.models.rope_words import write_rope
from ctxsweep.records import DType


class NoFamily(ValueError):
    """No architecture of transformers is this model: says which part of it is not."""


def hf_config(config: ModelConfig, dtype: DType) -> dict[str, Any]:
    """The fields of ``config.json`` for a model that ``hf_config.config_from`` reads back.

    Raises:
        NoFamily: no family of transformers has this shape.
    """
    family, architecture, fields = _FAMILIES[_family(config)](config)
    return {
        "architectures": [architecture],
        "model_type": family,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **fields,
    }


def _family(config: ModelConfig) -> str:
    kinds = set(config.layer_mixers())
    if kinds == {"mamba2", "attention"}:
        return "granitemoehybrid"
    if len(kinds) > 1 or kinds & {"rwkv6", "rwkv7", "retention"}:
        what = " + ".join(sorted(kinds))
        raise NoFamily(f"model '{config.name}' is {what}, which no architecture of theirs is")
    (kind,) = kinds
    if kind != "attention":
        if config.ffn is not None:
            raise NoFamily(f"model '{config.name}': their {kind} has no feed-forward blocks")
        if config.norm != "rmsnorm":
            raise NoFamily(f"model '{config.name}': their {kind} has RMS norms")
        return kind
    return "gpt2" if config.norm == "layernorm" else "llama"


def _attention(config: ModelConfig) -> tuple[Attention, FeedForward]:
    if config.attention is None or config.ffn is None:
        raise NoFamily(f"model '{config.name}': their transformers have feed-forward blocks")
    if config.attention.sinks is not None:
        raise NoFamily(
            f"model '{config.name}' keeps attention sinks, as none of theirs does; take backend "
            "native, and weights: drawn"
        )
    return config.attention, config.ffn


def _llama(config: ModelConfig) -> tuple[str, str, dict[str, Any]]:
    """Llama and those that differ from it in a few settings."""
    attention, ffn = _attention(config)
    if attention.position != "rope" or ffn.kind != "swiglu":
        raise NoFamily(
            f"model '{config.name}' has {attention.position} positions and a {ffn.kind} block; "
            "with RMS norms theirs have rope and swiglu"
        )
    family, architecture, own = _like_llama(config, attention, ffn)
    return (
        family,
        f"{architecture}ForCausalLM",
        {
            "hidden_size": config.hidden_size,
            "intermediate_size": ffn.size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": attention.heads,
            "num_key_value_heads": attention.kv_heads,
            "head_dim": attention.head_dim,
            "rms_norm_eps": config.norm_eps,
            "hidden_act": "silu",
            **_rope(config, attention),
            **own,
        },
    )


def _like_llama(
    config: ModelConfig, attention: Attention, ffn: FeedForward
) -> tuple[str, str, dict[str, Any]]:
    """Which family has these biases, window, experts and turned dimensions, and its own fields."""
    biases = (attention.bias, attention.biased_output, ffn.bias)
    partial = attention.turned.rotary_dim != attention.head_dim
    window = {"sliding_window": attention.window}
    if ffn.experts and not (any(biases) or partial):
        per_token = ffn.experts_per_token
        experts = {"num_local_experts": ffn.experts, "num_experts_per_tok": per_token}
        return "mixtral", "Mixtral", {**experts, **window}
    if partial and not (any(biases) or ffn.experts):
        return "phi3", "Phi3", {**window, "pad_token_id": 0}
    if biases == (True, False, False) and not (ffn.experts or partial):
        on = attention.window is not None
        layers = {"use_sliding_window": on, "max_window_layers": 0 if on else config.num_layers}
        return "qwen2", "Qwen2", {**window, **layers}
    if attention.window and not (any(biases) or partial):
        return "mistral", "Mistral", window
    if biases[0] == biases[1] and not (attention.window or ffn.experts or partial):
        return "llama", "Llama", {"attention_bias": attention.bias, "mlp_bias": ffn.bias}
    raise NoFamily(
        f"model '{config.name}': of theirs with RMS norms only Llama and Qwen2 have biases, "
        "without experts, Llama without a window; and only Phi-3, which has neither, turns a part "
        "of a head's dimensions"
    )


def _gpt2(config: ModelConfig) -> tuple[str, str, dict[str, Any]]:
    attention, ffn = _attention(config)
    fits = (
        attention.position == "learned"
        and attention.bias
        and attention.heads == attention.kv_heads
        and attention.heads * attention.head_dim == config.hidden_size
        and not attention.window
        and ffn.kind == "gelu"
        and ffn.bias
    )
    if not fits:
        raise NoFamily(
            f"model '{config.name}' has layer norms, so it would be their GPT-2, but that has "
            "learned positions, biases, all heads of their own, and GELU"
        )
    fields = {
        "n_embd": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": attention.heads,
        "n_inner": ffn.size,
        "n_positions": config.max_positions,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": "gelu_new",
    }
    return "gpt2", "GPT2LMHeadModel", fields


def _mamba1(config: ModelConfig) -> tuple[str, str, dict[str, Any]]:
    assert config.mamba is not None
    fields = {**_mamba_stack(config), "time_step_rank": config.mamba.dt_rank or "auto"}
    return "mamba", "MambaForCausalLM", fields


def _mamba2(config: ModelConfig) -> tuple[str, str, dict[str, Any]]:
    mamba = config.mamba
    assert mamba is not None
    fields = {
        **_mamba_stack(config),
        "head_dim": mamba.head_dim,
        "num_heads": mamba.expand * config.hidden_size // mamba.head_dim,
        "n_groups": mamba.groups,
        "rms_norm": True,
        "chunk_size": 64,
    }
    return "mamba2", "Mamba2ForCausalLM", fields


def _mamba_stack(config: ModelConfig) -> dict[str, Any]:
    mamba = config.mamba
    assert mamba is not None
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


def _granite_hybrid(config: ModelConfig) -> tuple[str, str, dict[str, Any]]:
    """Granite 4 without experts and with all multipliers 1."""
    attention, ffn = _attention(config)
    mamba = config.mamba
    assert mamba is not None
    if attention.position != "rope" or attention.window or ffn.kind != "swiglu" or ffn.experts:
        raise NoFamily(
            f"model '{config.name}' is a hybrid, so it would be their Granite hybrid, but that has "
            "rope, no window and a dense swiglu block"
        )
    if ffn.bias or config.norm != "rmsnorm":
        raise NoFamily(f"model '{config.name}': their Granite hybrid has RMS norms and no biases")
    fields = {
        "hidden_size": config.hidden_size,
        "intermediate_size": ffn.size,
        "shared_intermediate_size": ffn.size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "attention_bias": attention.bias,
        "attention_multiplier": attention.head_dim**-0.5,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "position_embedding_type": "rope",
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
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
        **_rope(config, attention),
    }
    return "granitemoehybrid", "GraniteMoeHybridForCausalLM", fields


def _rope(config: ModelConfig, attention: Attention) -> dict[str, Any]:
    scaling = attention.rope and resolve(attention.rope, config.trained_context)
    return write_rope(scaling, attention.turned, config.trained_context)


_FAMILIES = {
    "llama": _llama,
    "gpt2": _gpt2,
    "mamba1": _mamba1,
    "mamba2": _mamba2,
    "granitemoehybrid": _granite_hybrid,
}
