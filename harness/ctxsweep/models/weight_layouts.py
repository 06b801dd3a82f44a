"""The names under which transformers stores weights, one table for each family.

A layout maps our tensor to the stored tensors that it is made of. ``{i}`` stands for the layer,
``{e}`` for the expert (stacked in front). Several stored tensors are joined along their first
dimension, which is how the fused projections hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Form:
    """How a stored tensor becomes ours, and back."""

    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor], Tensor]


PLAIN = Form(lambda t: t, lambda t: t)
TRANSPOSED = Form(lambda t: t.t(), lambda t: t.t())  # GPT-2's Conv1D holds [in, out]
SHIFTED = Form(lambda t: t + 1, lambda t: t - 1)  # Gemma's norms multiply by 1 + weight


@dataclass(frozen=True)
class Stored:
    """The tensors of a file that one of ours is made of."""

    names: tuple[str, ...]
    form: Form = PLAIN


def stored(*names: str, form: Form = PLAIN) -> Stored:
    """A ``Stored`` of these names."""
    return Stored(names, form)


Layout = Mapping[str, Stored]


def with_and_without(prefix: str, layout: Layout) -> tuple[Layout, Layout]:
    """A layout, and the same with a prefix left out of the stored names."""
    bare = {
        ours: stored(*(name.removeprefix(prefix) for name in line.names), form=line.form)
        for ours, line in layout.items()
    }
    return layout, bare


_LLAMA_LAYER = "model.layers.{i}."
_LLAMA_ATTENTION: Layout = {
    "embedding.weight": stored("model.embed_tokens.weight"),
    "norm.weight": stored("model.norm.weight"),
    "head.weight": stored("lm_head.weight"),
    "layers.{i}.mixer_norm.weight": stored(_LLAMA_LAYER + "input_layernorm.weight"),
    "layers.{i}.ffn_norm.weight": stored(_LLAMA_LAYER + "post_attention_layernorm.weight"),
    **{
        f"layers.{{i}}.mixer.{ours}.{part}": stored(
            *(f"{_LLAMA_LAYER}self_attn.{name}_proj.{part}" for name in theirs)
        )
        for ours, theirs in (("qkv", "qkv"), ("out", "o"))
        for part in ("weight", "bias")
    },
}
_LLAMA: Layout = {
    **_LLAMA_ATTENTION,
    **{
        f"layers.{{i}}.ffn.{ours}.{part}": stored(
            *(f"{_LLAMA_LAYER}mlp.{name}_proj.{part}" for name in theirs)
        )
        for ours, theirs in (("gate_up", ("gate", "up")), ("down", ("down",)))
        for part in ("weight", "bias")
    },
}
_PHI3: Layout = {
    **_LLAMA,
    "layers.{i}.mixer.qkv.weight": stored(_LLAMA_LAYER + "self_attn.qkv_proj.weight"),
    "layers.{i}.ffn.gate_up.weight": stored(_LLAMA_LAYER + "mlp.gate_up_proj.weight"),
}
_GEMMA: Layout = {
    ours: Stored(line.names, SHIFTED) if "norm" in ours else line for ours, line in _LLAMA.items()
}
_PHI_LAYER = {  # ours and theirs; queries, keys and values as in Llama
    "norm": "model.final_layernorm",
    "head": "lm_head",
    "layers.{i}.mixer.out": _LLAMA_LAYER + "self_attn.dense",
    "layers.{i}.mixer_norm": _LLAMA_LAYER + "input_layernorm",
    "layers.{i}.ffn.up": _LLAMA_LAYER + "mlp.fc1",
    "layers.{i}.ffn.down": _LLAMA_LAYER + "mlp.fc2",
}
_PHI: Layout = {
    **_LLAMA_ATTENTION,
    **{
        f"{ours}.{part}": stored(f"{theirs}.{part}")
        for ours, theirs in _PHI_LAYER.items()
        for part in ("weight", "bias")
    },
}
_EXPERT = _LLAMA_LAYER + "block_sparse_moe.experts.{e}."
_MIXTRAL: Layout = {
    **_LLAMA_ATTENTION,
    "layers.{i}.ffn.router.weight": stored(_LLAMA_LAYER + "block_sparse_moe.gate.weight"),
    "layers.{i}.ffn.up": stored(_EXPERT + "w1.weight", _EXPERT + "w3.weight"),
    "layers.{i}.ffn.down": stored(_EXPERT + "w2.weight"),
}
# The names of transformers 5 in memory; its files keep the older ones.
_MIXTRAL_5: Layout = {
    **_LLAMA_ATTENTION,
    "layers.{i}.ffn.router.weight": stored(_LLAMA_LAYER + "mlp.gate.weight"),
    "layers.{i}.ffn.up": stored(_LLAMA_LAYER + "mlp.experts.gate_up_proj"),
    "layers.{i}.ffn.down": stored(_LLAMA_LAYER + "mlp.experts.down_proj"),
}
_GPT2_LAYER = "transformer.h.{i}."
_GPT2: Layout = {
    "embedding.weight": stored("transformer.wte.weight"),
    "positions.weight": stored("transformer.wpe.weight"),
    "head.weight": stored("lm_head.weight"),
    **{
        f"{ours}.{part}": stored(f"{theirs}.{part}")
        for ours, theirs in (
            ("norm", "transformer.ln_f"),
            ("layers.{i}.mixer_norm", _GPT2_LAYER + "ln_1"),
            ("layers.{i}.ffn_norm", _GPT2_LAYER + "ln_2"),
        )
        for part in ("weight", "bias")
    },
    **{
        f"layers.{{i}}.{ours}.{part}": stored(
            f"{_GPT2_LAYER}{theirs}.{part}", form=TRANSPOSED if part == "weight" else PLAIN
        )
        for ours, theirs in (
            ("mixer.qkv", "attn.c_attn"),
            ("mixer.out", "attn.c_proj"),
            ("ffn.up", "mlp.c_fc"),
            ("ffn.down", "mlp.c_proj"),
        )
        for part in ("weight", "bias")
    },
}


_MAMBA_LAYER = "backbone.layers.{i}."
_MAMBA_MIXERS = {  # our mixers bear transformers' names
    "mamba": ("x_proj.weight", "dt_proj.weight", "dt_proj.bias"),
    "mamba2": ("dt_bias", "norm.weight"),
}
_MAMBA_BOTH = ("in_proj.weight", "conv1d.weight", "conv1d.bias", "A_log", "D", "out_proj.weight")


def _mamba(family: str) -> Layout:
    return {
        "embedding.weight": stored("backbone.embeddings.weight"),
        "norm.weight": stored("backbone.norm_f.weight"),
        "head.weight": stored("lm_head.weight"),
        "layers.{i}.mixer_norm.weight": stored(_MAMBA_LAYER + "norm.weight"),
        **{
            "layers.{i}.mixer." + name: stored(_MAMBA_LAYER + "mixer." + name)
            for name in (*_MAMBA_BOTH, *_MAMBA_MIXERS[family])
        },
    }


_GRANITE_LAYER = _LLAMA_LAYER + "shared_mlp."
_GRANITE_HYBRID: Layout = {
    **_LLAMA_ATTENTION,
    "layers.{i}.ffn.gate_up.weight": stored(_GRANITE_LAYER + "input_linear.weight"),
    "layers.{i}.ffn.down.weight": stored(_GRANITE_LAYER + "output_linear.weight"),
    **{
        "layers.{i}.mixer." + name: stored(_LLAMA_LAYER + "mamba." + name)
        for name in (*_MAMBA_BOTH, *_MAMBA_MIXERS["mamba2"])
    },
}

_MPT_LAYER = "transformer.blocks.{i}."
_MPT: Layout = {
    "embedding.weight": stored("transformer.wte.weight"),
    "norm.weight": stored("transformer.norm_f.weight"),
    "head.weight": stored("lm_head.weight"),
    **{
        f"layers.{{i}}.{ours}.weight": stored(f"{_MPT_LAYER}{theirs}.weight")
        for ours, theirs in (
            ("mixer_norm", "norm_1"),
            ("mixer.qkv", "attn.Wqkv"),
            ("mixer.out", "attn.out_proj"),
            ("ffn_norm", "norm_2"),
            ("ffn.up", "ffn.up_proj"),
            ("ffn.down", "ffn.down_proj"),
        )
    },
}
_JAMBA_FFN = _LLAMA_LAYER + "feed_forward."
_JAMBA: Layout = {
    **_LLAMA_ATTENTION,
    "norm.weight": stored("model.final_layernorm.weight"),
    "layers.{i}.ffn_norm.weight": stored(_LLAMA_LAYER + "pre_ff_layernorm.weight"),
    "layers.{i}.ffn.gate_up.weight": stored(
        _JAMBA_FFN + "gate_proj.weight", _JAMBA_FFN + "up_proj.weight"
    ),
    "layers.{i}.ffn.down.weight": stored(_JAMBA_FFN + "down_proj.weight"),
    "layers.{i}.ffn.router.weight": stored(_JAMBA_FFN + "router.weight"),
    "layers.{i}.ffn.up": stored(
        _JAMBA_FFN + "experts.{e}.gate_proj.weight", _JAMBA_FFN + "experts.{e}.up_proj.weight"
    ),
    "layers.{i}.ffn.down": stored(_JAMBA_FFN + "experts.{e}.down_proj.weight"),
    **{
        "layers.{i}.mixer." + name: stored(_LLAMA_LAYER + "mamba." + name)
        for name in (*_MAMBA_BOTH, *_MAMBA_MIXERS["mamba"])
    },
    **{
        f"layers.{{i}}.mixer.inner_norms.{place}.weight": stored(
            f"{_LLAMA_LAYER}mamba.{name}_layernorm.weight"
        )
        for place, name in enumerate(("dt", "b", "c"))
    },
}

# model_type of config.json -> its layouts; the first is the one that is written
LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "llama": (_LLAMA,),
    "mistral": (_LLAMA,),
    "qwen2": (_LLAMA,),
    "phi3": (_PHI3,),
    "gemma": (_GEMMA,),
    "phi": (_PHI,),
    "mpt": (_MPT,),
    "mixtral": (_MIXTRAL, _MIXTRAL_5),
    "gpt2": with_and_without("transformer.", _GPT2),  # the hub's files are without
    "mamba": (_mamba("mamba"),),
    "mamba2": (_mamba("mamba2"),),
    "granitemoehybrid": (_GRANITE_HYBRID,),
    "jamba": (_JAMBA,),
}
