"""A ``ModelConfig`` as the ``config.json`` of transformers. Never imports torch.

Every family that has the model's kinds of layers writes it in its words; the first whose file reads
back as the same model is taken. So a setting that no family has a word for is never left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ctxsweep.models.config import Mixer, ModelConfig
from ctxsweep.models.hf_config import config_from
from ctxsweep.models.hf_settings import settings
from ctxsweep.models.hf_words import Fields
from ctxsweep.models.hf_write_layernorm import (
    write_bloom,
    write_falcon,
    write_gpt2,
    write_gpt_bigcode,
    write_gpt_neox,
    write_mpt,
    write_phi,
)
from ctxsweep.models.hf_write_llama import (
    write_gemma,
    write_llama,
    write_mistral,
    write_mixtral,
    write_phi3,
    write_qwen2,
)
from ctxsweep.models.hf_write_state import (
    write_granite_hybrid,
    write_jamba,
    write_mamba,
    write_mamba2,
)
from ctxsweep.records import DType


class NoFamily(ValueError):
    """No architecture of transformers is this model: says which part of it is not."""


def hf_config(config: ModelConfig, dtype: DType) -> dict[str, Any]:
    """The fields of ``config.json`` for a model that ``hf_config.config_from`` reads back.

    Raises:
        NoFamily: no family of transformers has this shape.
    """
    apart: list[tuple[str, list[str]]] = []
    for family, architecture, write in _candidates(config):
        fields = {
            "architectures": [architecture],
            "model_type": family,
            "dtype": dtype,
            "vocab_size": config.vocab_size,
            "tie_word_embeddings": config.tied_embeddings,
            "bos_token_id": 0,
            "eos_token_id": 1,
            **write(config),
        }
        found = _differences(config, fields)
        if not found:
            return fields
        apart.append((family, found))
    nearest, found = min(apart, key=lambda pair: len(pair[1]))
    norms = "layer norms" if nearest in _LAYER_NORMS else "RMS norms"
    raise NoFamily(
        f"model '{config.name}' is no architecture of transformers: the nearest, {nearest} with "
        f"its {norms}, has {', '.join(found[:_SHOWN])}"
    )


Candidate = tuple[str, str, Callable[[ModelConfig], Fields]]
"""``model_type``, architecture, and what writes the family's own fields."""


def _candidates(config: ModelConfig) -> tuple[Candidate, ...]:
    """Families with layers of the model's kinds."""
    kinds = frozenset(config.layer_mixers())
    if kinds not in _FAMILIES:
        what = " + ".join(sorted(kinds))
        raise NoFamily(f"model '{config.name}' is {what}, which no architecture of theirs is")
    if config.attention is not None and config.ffn is None:
        raise NoFamily(f"model '{config.name}': their transformers have feed-forward blocks")
    if config.attention is not None and config.attention.sinks is not None:
        raise NoFamily(
            f"model '{config.name}' keeps attention sinks, as none of theirs does; take backend "
            "native, and weights: drawn"
        )
    return _FAMILIES[kinds]


def _differences(config: ModelConfig, fields: Fields) -> list[str]:
    """What of the model a ``config.json`` says otherwise, in words."""
    ours = settings(config)
    try:
        theirs = settings(config_from(fields, config.name))
    except ValueError as error:  # the family cannot be so: farther than any that can
        return [f"other limits: {error}", *[""] * len(ours)][: len(ours) + 1]
    return [_said(key, theirs[key], ours[key]) for key in ours if theirs[key] != ours[key]]


def _said(key: str, theirs: object, ours: object) -> str:
    both = f"{key} = {theirs}, not {ours}"
    return both if len(both) <= _LINE else f"another {key}"


_SHOWN, _LINE = 3, 80
_LAYER_NORMS = ("gpt2", "gpt_bigcode", "gpt_neox", "phi", "falcon", "mpt", "bloom")
# kinds of layers -> the families that have them
_FAMILIES: Mapping[frozenset[Mixer], tuple[Candidate, ...]] = {
    frozenset({"attention"}): (
        ("llama", "LlamaForCausalLM", write_llama),
        ("mistral", "MistralForCausalLM", write_mistral),
        ("qwen2", "Qwen2ForCausalLM", write_qwen2),
        ("phi3", "Phi3ForCausalLM", write_phi3),
        ("mixtral", "MixtralForCausalLM", write_mixtral),
        ("gemma", "GemmaForCausalLM", write_gemma),
        ("gpt2", "GPT2LMHeadModel", write_gpt2),
        ("gpt_bigcode", "GPTBigCodeForCausalLM", write_gpt_bigcode),
        ("gpt_neox", "GPTNeoXForCausalLM", write_gpt_neox),
        ("phi", "PhiForCausalLM", write_phi),
        ("falcon", "FalconForCausalLM", write_falcon),
        ("mpt", "MptForCausalLM", write_mpt),
        ("bloom", "BloomForCausalLM", write_bloom),
    ),
    frozenset({"mamba1"}): (("mamba", "MambaForCausalLM", write_mamba),),
    frozenset({"mamba2"}): (("mamba2", "Mamba2ForCausalLM", write_mamba2),),
    frozenset({"mamba2", "attention"}): (
        ("granitemoehybrid", "GraniteMoeHybridForCausalLM", write_granite_hybrid),
    ),
    frozenset({"mamba1", "attention"}): (("jamba", "JambaForCausalLM", write_jamba),),
}
