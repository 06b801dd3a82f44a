"""Names of weights in families whose files depend on the model: fused heads, one norm or two.

``grouped`` undoes how GPT-NeoX, BLOOM, Falcon and StarCoder fuse queries, keys and values: heads
that share a key/value head lie together, then that head's keys, then its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.sections import Attention
from ctxsweep.models.weight_layouts import LAYOUTS, PLAIN, Form, Layout, stored, with_and_without

_BOTH = ("weight", "bias")
Names = tuple[tuple[str, str], ...]
"""Ours and theirs, without the part."""


def grouped(attention: Attention) -> Form:
    """``[kv_heads, heads / kv_heads + 2, head_dim, ...]`` as all queries, all keys, all values."""
    per_group, width = attention.heads // attention.kv_heads, attention.head_dim
    rows = (attention.heads + 2 * attention.kv_heads) * width

    def read(fused: Tensor) -> Tensor:
        if fused.shape[0] != rows:  # another model's; its shape is told as it is
            return fused
        groups = fused.unflatten(0, (attention.kv_heads, per_group + 2, width))
        split = groups.split([per_group, 1, 1], dim=1)
        return torch.cat([part.flatten(0, 2) for part in split])

    def write(ours: Tensor) -> Tensor:
        heads = [attention.heads, attention.kv_heads, attention.kv_heads]
        split = ours.split([n * width for n in heads])
        groups = [part.unflatten(0, (attention.kv_heads, -1, width)) for part in split]
        return torch.cat(groups, dim=1).flatten(0, 2)

    return Form(read, write)


def _named(names: Names, form: Form = PLAIN) -> Layout:
    """Weights and biases of every pair; biases that a model does not have are never asked for."""
    return {
        f"{ours}.{part}": stored(f"{theirs}.{part}", form=form)
        for ours, theirs in names
        for part in _BOTH
    }


def _fused(config: ModelConfig, name: str) -> Layout:
    assert config.attention is not None
    return _named((("layers.{i}.mixer.qkv", name),), grouped(config.attention))


def gpt_neox(config: ModelConfig) -> tuple[Layout, ...]:
    """Under ``lm_head``, and under the older name of the head."""
    layer = "gpt_neox.layers.{i}."
    names: Names = (
        ("norm", "gpt_neox.final_layer_norm"),
        ("layers.{i}.mixer_norm", layer + "input_layernorm"),
        ("layers.{i}.ffn_norm", layer + "post_attention_layernorm"),
        ("layers.{i}.mixer.out", layer + "attention.dense"),
        ("layers.{i}.ffn.up", layer + "mlp.dense_h_to_4h"),
        ("layers.{i}.ffn.down", layer + "mlp.dense_4h_to_h"),
    )
    body: Layout = {
        "embedding.weight": stored("gpt_neox.embed_in.weight"),
        **_named(names),
        **_fused(config, layer + "attention.query_key_value"),
    }
    heads = ("lm_head.weight", "embed_out.weight")
    return tuple({**body, "head.weight": stored(head)} for head in heads)


def _megatron(config: ModelConfig, own: Names) -> Layout:
    """What BLOOM and Falcon have in common."""
    layer = "transformer.h.{i}."
    names: Names = (
        ("norm", "transformer.ln_f"),
        ("layers.{i}.mixer.out", layer + "self_attention.dense"),
        ("layers.{i}.ffn.up", layer + "mlp.dense_h_to_4h"),
        ("layers.{i}.ffn.down", layer + "mlp.dense_4h_to_h"),
    )
    return {
        "embedding.weight": stored("transformer.word_embeddings.weight"),
        "head.weight": stored("lm_head.weight"),
        **_named(names + tuple((ours, layer + theirs) for ours, theirs in own)),
        **_fused(config, layer + "self_attention.query_key_value"),
    }


def falcon(config: ModelConfig) -> tuple[Layout, ...]:
    """Norms bear other names where each block has its own."""
    parallel = config.residual == "parallel"
    norms = ("ln_attn", "ln_mlp") if parallel else ("input_layernorm", "post_attention_layernorm")
    ours = ("layers.{i}.mixer_norm", "layers.{i}.ffn_norm")
    return (_megatron(config, tuple(zip(ours, norms, strict=True))),)


def bloom(config: ModelConfig) -> tuple[Layout, ...]:
    """With the prefix that transformers writes, and without, as the hub's files are."""
    layout = _megatron(
        config,
        (
            ("layers.{i}.mixer_norm", "input_layernorm"),
            ("layers.{i}.ffn_norm", "post_attention_layernorm"),
        ),
    )
    outer = _named((("embedding_norm", "transformer.word_embeddings_layernorm"),))
    return with_and_without("transformer.", {**layout, **outer})


def gpt_bigcode(config: ModelConfig) -> tuple[Layout, ...]:
    """GPT-2's names over plain matrices."""
    layer = "transformer.h.{i}."
    names: Names = (
        ("norm", "transformer.ln_f"),
        ("layers.{i}.mixer_norm", layer + "ln_1"),
        ("layers.{i}.ffn_norm", layer + "ln_2"),
        ("layers.{i}.mixer.out", layer + "attn.c_proj"),
        ("layers.{i}.ffn.up", layer + "mlp.c_fc"),
        ("layers.{i}.ffn.down", layer + "mlp.c_proj"),
    )
    layout: Layout = {
        "embedding.weight": stored("transformer.wte.weight"),
        "positions.weight": stored("transformer.wpe.weight"),
        "head.weight": stored("lm_head.weight"),
        **_named(names),
        **_fused(config, layer + "attn.c_attn"),
    }
    return (layout,)


# model_type of config.json -> its layouts for a model; the first is the one that is written
LAYOUTS_OF: Mapping[str, Callable[[ModelConfig], tuple[Layout, ...]]] = {
    "gpt_neox": gpt_neox,
    "falcon": falcon,
    "bloom": bloom,
    "gpt_bigcode": gpt_bigcode,
}


def layouts_of(family: str, config: ModelConfig) -> tuple[Layout, ...]:
    """The layouts of a family's files for a model."""
    return LAYOUTS_OF[family](config) if family in LAYOUTS_OF else LAYOUTS[family]
