"""How each family of a transformers ``config.json`` is read. Never imports torch.

A line of ``FAMILIES`` gives the fields of ``ModelConfig``; it raises ``KeyError`` for a key that is
missing and ``ValueError`` for a setting that is not built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ctxsweep.models.hf_families_layernorm import (
    read_bloom,
    read_falcon,
    read_gpt2,
    read_gpt_bigcode,
    read_gpt_neox,
    read_mpt,
    read_phi,
)
from ctxsweep.models.hf_families_llama import read_gemma, read_llama, read_qwen2
from ctxsweep.models.hf_families_state import (
    read_granite_hybrid,
    read_jamba,
    read_mamba,
    read_mamba2,
)
from ctxsweep.models.hf_words import Fields, Json

__all__ = ["FAMILIES", "REFUSED", "Json"]

# model_type of config.json -> its reading
FAMILIES: dict[str, Callable[[Json], Fields]] = {
    "llama": read_llama,
    "mistral": read_llama,
    "mixtral": read_llama,
    "qwen2": read_qwen2,
    "phi3": read_llama,
    "gemma": read_gemma,
    "gpt2": read_gpt2,
    "gpt_bigcode": read_gpt_bigcode,
    "gpt_neox": read_gpt_neox,
    "phi": read_phi,
    "falcon": read_falcon,
    "mpt": read_mpt,
    "bloom": read_bloom,
    "mamba": read_mamba,
    "mamba2": read_mamba2,
    "granitemoehybrid": read_granite_hybrid,
    "jamba": read_jamba,
}

_ENCODER = "it does not generate; its footprint alone is planned (ctxsweep inspect)"
REFUSED: Mapping[str, str] = {
    "bert": _ENCODER,
    "t5": _ENCODER,
    "zamba2": "its shared block reads the embedding beside the layer's input, and every place has "
    "low-rank weights of its own; attention_shared has neither",
}
"""Families that are near to what is built, and why they are not."""
