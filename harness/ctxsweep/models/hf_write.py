"""A ``ModelConfig`` as the ``config.json`` of transformers. Never imports torch.

Every family that has the model's kinds of layers writes it in its words; the first whose file reads
back as the same model is taken. So a setting that no family has a word for is never left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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
    endless_rope,
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


class Family(NamedTuple):
    """``model_type``, architecture, what writes the family's own fields, and its norms in words.

    ``pads``: its embedding has a row for padding, which a small vocabulary must hold.
    """

    model_type: str
    architecture: str
    write: Callable[[ModelConfig], Fields]
    norms: str = "RMS norms"
    pads: bool = False


def hf_config(config: ModelConfig, dtype: DType, endless: bool = False) -> dict[str, Any]:
    """The fields of ``config.json`` for a model that ``hf_config.config_from`` reads back.

    The longest context is the trained one, stretched where it is; ``endless`` is for the folders
    that engines are given in a sweep: none at all, and tokens of the random weights' own.

    Raises:
        NoFamily: no family of transformers has this shape.
    """
    apart: list[tuple[Family, list[str]]] = []
    for family in _candidates(config):
        fields = {
            "architectures": [family.architecture],
            "model_type": family.model_type,
            "dtype": dtype,
            "vocab_size": config.vocab_size,
            "tie_word_embeddings": config.tied_embeddings,
            **family.write(config),
        }
        found = _differences(config, fields)
        if not found:
            return fields | (_endless(config, family) if endless else {})
        apart.append((family, found))
    nearest, found = min(apart, key=lambda pair: len(pair[1]))
    raise NoFamily(
        f"model '{config.name}' is no architecture of transformers: the nearest, "
        f"{nearest.model_type} with its {nearest.norms}, has {', '.join(found[:_SHOWN])}"
    )


def _endless(config: ModelConfig, family: Family) -> Fields:
    ids = {"bos_token_id": 0, "eos_token_id": 1, **({"pad_token_id": 0} if family.pads else {})}
    return {**ids, **endless_rope(config)}


def _candidates(config: ModelConfig) -> tuple[Family, ...]:
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
_LAYER = "layer norms"
# kinds of layers -> the families that have them
_FAMILIES: Mapping[frozenset[Mixer], tuple[Family, ...]] = {
    frozenset({"attention"}): (
        Family("llama", "LlamaForCausalLM", write_llama),
        Family("mistral", "MistralForCausalLM", write_mistral),
        Family("qwen2", "Qwen2ForCausalLM", write_qwen2),
        Family("phi3", "Phi3ForCausalLM", write_phi3, pads=True),
        Family("mixtral", "MixtralForCausalLM", write_mixtral),
        Family("gemma", "GemmaForCausalLM", write_gemma, pads=True),
        Family("gpt2", "GPT2LMHeadModel", write_gpt2, _LAYER),
        Family("gpt_bigcode", "GPTBigCodeForCausalLM", write_gpt_bigcode, _LAYER),
        Family("gpt_neox", "GPTNeoXForCausalLM", write_gpt_neox, _LAYER),
        Family("phi", "PhiForCausalLM", write_phi, _LAYER),
        Family("falcon", "FalconForCausalLM", write_falcon, _LAYER),
        Family("mpt", "MptForCausalLM", write_mpt, _LAYER),
        Family("bloom", "BloomForCausalLM", write_bloom, _LAYER),
    ),
    frozenset({"mamba1"}): (Family("mamba", "MambaForCausalLM", write_mamba),),
    frozenset({"mamba2"}): (Family("mamba2", "Mamba2ForCausalLM", write_mamba2),),
    frozenset({"mamba2", "attention"}): (
        Family("granitemoehybrid", "GraniteMoeHybridForCausalLM", write_granite_hybrid),
    ),
    frozenset({"mamba1", "attention"}): (
        Family("jamba", "JambaForCausalLM", write_jamba, pads=True),
    ),
}
