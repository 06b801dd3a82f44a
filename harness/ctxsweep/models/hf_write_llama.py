"""Models with RMS norms and gated blocks in the words of a transformers ``config.json``.

Like all writers of ``hf_write``: each gives what its family has words for, and whether that is the
whole model is checked there.
"""

from __future__ import annotations

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_words import Fields
from ctxsweep.models.rope import resolve
from ctxsweep.models.rope_words import endless, write_rope
from ctxsweep.models.sections import Attention, FeedForward

PHI3_PAD = 32000
"""The padding that transformers takes for Phi-3 where a file names none."""


def parts(config: ModelConfig) -> tuple[Attention, FeedForward]:
    """Attention and feed-forward block of a model that has both."""
    assert config.attention is not None and config.ffn is not None
    return config.attention, config.ffn


def rope_fields(config: ModelConfig) -> Fields:
    """How positions turn, and the longest context; nothing for positions that do not."""
    attention = config.attention
    if attention is None or attention.position != "rope":
        return {}
    scaling = attention.rope and resolve(attention.rope, config.trained_context)
    return write_rope(scaling, attention.turned, config.trained_context)


def endless_rope(config: ModelConfig) -> Fields:
    """The longest context of ``rope_fields`` for a file that is to have no end."""
    attention = config.attention
    if attention is None or attention.position != "rope":
        return {}
    scaling = attention.rope and resolve(attention.rope, config.trained_context)
    return dict(endless(scaling, config.trained_context))


def _common(config: ModelConfig) -> Fields:
    attention, ffn = parts(config)
    rope = rope_fields(config)
    if rope:  # only Phi-3 turns a part of a head's dimensions
        rope["rope_parameters"].pop("partial_rotary_factor", None)
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": ffn.size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        **rope,
    }


def write_llama(config: ModelConfig) -> Fields:
    """Biases in all four projections or none, and in the block."""
    attention, ffn = parts(config)
    return {**_common(config), "attention_bias": attention.bias, "mlp_bias": ffn.bias}


def write_mistral(config: ModelConfig) -> Fields:
    """A window."""
    return {**_common(config), "sliding_window": parts(config)[0].window}


def write_qwen2(config: ModelConfig) -> Fields:
    """Biases of queries, keys and values; a window in all layers."""
    window = parts(config)[0].window
    below = 0 if window else config.num_layers
    words = {"use_sliding_window": window is not None, "max_window_layers": below}
    return {**_common(config), "sliding_window": window, **words}


def write_phi3(config: ModelConfig) -> Fields:
    """A window; positions that turn a part of a head's dimensions."""
    own = {} if config.vocab_size > PHI3_PAD else {"pad_token_id": 0}
    return {**write_mistral(config), **rope_fields(config), **own}


def write_mixtral(config: ModelConfig) -> Fields:
    """Experts in every layer."""
    ffn = parts(config)[1]
    experts = {"num_local_experts": ffn.experts, "num_experts_per_tok": ffn.experts_per_token}
    return {**write_mistral(config), **experts}


def write_gemma(config: ModelConfig) -> Fields:
    """GeGLU and a scaled embedding."""
    return {
        **_common(config),
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": parts(config)[0].bias,
    }
