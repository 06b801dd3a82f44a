"""All settings that decide what a model computes, for comparing two. Never imports torch."""

from __future__ import annotations

from typing import Any

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.sections import Attention, FeedForward, Mamba

_OF_NO_EFFECT = frozenset({"name", "source", "published", "max_positions", "trained_context"})
_TOLD_APART = frozenset({"attention", "ffn", "mamba", "attention_every", "attention_offset"})
_LENGTHS = (1, 1 << 12, 1 << 17)
"""Contexts at which positions must turn alike: stretched ones may depend on the length."""
Settings = dict[str, Any]


def settings(config: ModelConfig) -> Settings:
    """Every setting by its key, defaults written out, what has no effect left out.

    Two configurations with equal settings are one model, however they are written.
    """
    found = config.model_dump(exclude=set(_OF_NO_EFFECT | _TOLD_APART))
    scale = config.embedding_scale
    found["embedding_scale"] = scale and _rounded(scale)
    mixers = config.layer_mixers()
    found["attention layers"] = [i for i, kind in enumerate(mixers) if kind == "attention"]
    found |= _attention(config, config.attention)
    found |= _feed_forward(config, config.ffn)
    found |= _mamba(config, config.mamba)
    return found


def _attention(config: ModelConfig, section: Attention | None) -> Settings:
    keys = "heads kv_heads head_dim window sinks position bias biased_output"
    found = {f"attention.{key}": section and getattr(section, key) for key in keys.split()}
    learned = section is not None and section.position == "learned"
    rotary = section is not None and section.position == "rope"
    found["max_positions"] = config.max_positions if learned else None
    found["attention.rotary_dim"] = section.turned.rotary_dim if rotary and section else None
    for length in _LENGTHS:
        turning = config.turning(length) if rotary else None
        found[f"turning of positions at {length} tokens"] = turning and (
            [_rounded(frequency) for frequency in turning.inv_freq.tolist()],
            _rounded(turning.attention_factor),
        )
    return found


def _feed_forward(config: ModelConfig, section: FeedForward | None) -> Settings:
    layers = range(config.num_layers if section else 0)
    chosen = section.experts_per_token if section and section.experts else None
    return {
        **{f"ffn.{key}": section and getattr(section, key) for key in ("kind", "size", "bias")},
        "ffn.experts": section.experts if section else None,
        "ffn.experts_per_token": chosen,
        "ffn.router": section.router if section else None,
        "ffn in layers": [i for i in layers if config.has_ffn(i)],
        "experts in layers": [i for i in layers if section and section.has_experts(i)],
    }


def _mamba(config: ModelConfig, section: Mamba | None) -> Settings:
    own = {
        "mamba1": ("state_size", "expand", "conv_kernel", "dt_rank", "inner_norms"),
        "mamba2": ("state_size", "expand", "conv_kernel", "head_dim", "groups"),
    }
    keys = own.get(config.mixer, ())
    found = {f"mamba.{key}": section and getattr(section, key) for key in keys}
    if section is not None and "dt_rank" in keys:
        found["mamba.dt_rank"] = config.dt_rank
    return found


def _rounded(number: float) -> str:
    """To as many digits as people write into files."""
    return f"{number:.6g}"
