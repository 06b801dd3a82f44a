"""The catalogue as files of transformers: complete, of the same size, read back as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from ctxsweep.models import catalog
from ctxsweep.models.accounting_parameters import parameters
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_config import config_from
from ctxsweep.models.hf_settings import settings
from ctxsweep.models.hf_write import NoFamily, hf_config

NATIVE_ONLY = ("retnet", "rwkv6", "rwkv7")
"""Beginnings of names of models that transformers has no architecture for."""
OWN_SHAPES = {
    "tiny-alibi": "attention.position = rope, not alibi",
    "tiny-gpt": "attention.head_dim = 64, not 32",
    "zamba2-2.7b-like": "attention_shared = False, not True",
}
"""Those whose parts it has, though not together."""


def known() -> dict[str, ModelConfig]:
    configs = {name: catalog.load_config(name) for name in catalog.names()}
    return {name: c for name, c in configs.items() if isinstance(c, ModelConfig)}


def has_family(name: str) -> bool:
    bare = name.removeprefix("tiny-")
    return name not in OWN_SHAPES and not bare.startswith(NATIVE_ONLY)


CONFIGS = known()


@pytest.mark.parametrize("name", [name for name in CONFIGS if has_family(name)])
def test_a_model_goes_out_and_comes_back(name: str) -> None:
    config = CONFIGS[name]
    again = config_from(hf_config(config, "bfloat16"), name)
    assert settings(again) == settings(config)
    if config.attention is not None and config.attention.position == "rope":
        assert again.trained_context == config.trained_context
    assert parameters(again) == parameters(config)


@pytest.mark.parametrize("name", [name for name in CONFIGS if has_family(name)])
def test_transformers_builds_as_many_parameters(name: str) -> None:
    config = CONFIGS[name]
    fields: dict[str, Any] = hf_config(config, "float32")
    theirs = transformers.AutoConfig.for_model(**fields)
    assert theirs.architectures == fields["architectures"]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    assert type(model).__name__ == fields["architectures"][0]
    assert model.num_parameters() == sum(parameters(config).values())


def longest(model: Any, endless: bool = False) -> tuple[int | None, int | None]:
    fields = hf_config(catalog.load_config(model), "bfloat16", endless=endless)
    words = ("max_position_embeddings", "original_max_position_embeddings")
    return fields.get(words[0]), fields.get(words[1])


STRETCHED = {"like": "llama-2-7b", "attention": {"rope": {"rope_type": "linear", "factor": 4.0}}}
DYNAMIC = {"like": "llama-2-7b", "attention": {"rope": {"rope_type": "dynamic", "factor": 4.0}}}


@pytest.mark.parametrize(
    ("model", "reach", "trained"),
    [
        ("llama-3-8b", 8192, None),
        ("llama-3.1-8b", 131072, 8192),  # as the published file says
        ("qwen2.5-7b-yarn", 131072, 32768),
        ("phi-3-mini-128k", 131072, 4096),
        ("gpt-neox-20b", 2048, None),
        ("jamba-v0.1", 262144, None),
        (STRETCHED, 16384, 4096),
        (DYNAMIC, 4096, 4096),  # it reads the trained length there
    ],
    ids=str,
)
def test_a_file_for_people_ends_where_the_model_was_trained_to(
    model: Any, reach: int, trained: int | None
) -> None:
    """Or stretched to. One for a sweep has no end that a rule of positions does not need."""
    assert longest(model) == (reach, trained)
    kept = model in ("llama-3.1-8b", "jamba-v0.1") or model is DYNAMIC
    assert longest(model, endless=True)[0] == (reach if kept else 1 << 20)


@pytest.mark.parametrize("name", [name for name in CONFIGS if has_family(name)])
def test_tokens_of_random_weights_are_in_files_of_sweeps_alone(name: str) -> None:
    for_people = hf_config(CONFIGS[name], "bfloat16")
    assert not {"bos_token_id", "eos_token_id"} & for_people.keys()
    endless = hf_config(CONFIGS[name], "bfloat16", endless=True)
    assert (endless["bos_token_id"], endless["eos_token_id"]) == (0, 1)
    lengths = {"max_position_embeddings", "original_max_position_embeddings"}
    tokens = {"bos_token_id", "eos_token_id", "pad_token_id"}
    assert {k: v for k, v in endless.items() if k not in lengths | tokens} == {
        k: v for k, v in for_people.items() if k not in lengths | tokens
    }


def test_a_llama_has_no_window_whatever_its_file_says() -> None:
    fields = hf_config(CONFIGS["llama-2-7b"], "float32") | {"sliding_window": 1024}
    read = config_from(fields, "windowed")
    assert read.attention is not None and read.attention.window is None
    again = config_from({**fields, "model_type": "mistral"}, "windowed")
    assert again.attention is not None and again.attention.window == 1024


@pytest.mark.parametrize("name", ["gpt2", "starcoder"])
def test_learned_positions_are_the_trained_length(name: str) -> None:
    read = config_from(hf_config(CONFIGS[name], "float32"), name)
    assert read.trained_context == read.max_positions == CONFIGS[name].trained_context


@pytest.mark.parametrize("name", [name for name in CONFIGS if not has_family(name)])
def test_a_model_without_a_family_is_not_bent_into_one(name: str) -> None:
    with pytest.raises(NoFamily, match=name) as caught:
        hf_config(CONFIGS[name], "float32")
    assert OWN_SHAPES.get(name, "no architecture of theirs is") in str(caught.value)


OTHERWISE: list[tuple[str, dict[str, Any], str]] = [
    ("tiny-gqa", {"residual": "parallel"}, "residual = sequential, not parallel"),
    ("tiny-gqa", {"embedding_scale": 2.0}, "embedding_scale = None, not 2"),
    ("tiny-gqa", {"embedding_norm": True}, "embedding_norm = False, not True"),
    ("tiny-gqa", {"head_bias": True}, "head_bias = False, not True"),
    ("tiny-gqa", {"norm_eps": 1e-3, "norm": "layernorm"}, "norm = rmsnorm, not layernorm"),
    ("tiny-gqa", {"ffn": {"kind": "geglu"}}, "ffn.kind = swiglu, not geglu"),
    ("tiny-gqa", {"attention": {"position": "none"}}, "attention.position = rope, not none"),
    ("tiny-moe", {"ffn": {"experts_every": 2}}, "experts in layers"),
    ("tiny-moe", {"ffn": {"router": "all"}}, "ffn.router = chosen, not all"),
    ("tiny-hybrid", {"ffn": {"layers": "attention"}}, "ffn in layers"),
    ("tiny-hybrid", {"attention": {"window": 64}}, "attention.window = None, not 64"),
    ("tiny-mamba1", {"mamba": {"inner_norms": True}}, "mamba.inner_norms = False, not True"),
    ("tiny-mamba2", {"norm": "layernorm"}, "norm = rmsnorm, not layernorm"),
    ("gpt-neox-20b", {"head_bias": True}, "head_bias = False, not True"),
    ("phi-2", {"residual": "parallel"}, "gpt_neox with its layer norms, has head_bias = False"),
    ("gemma-2b", {"embedding_scale": 2.0}, "embedding_scale = 45.2548, not 2"),
    ("mpt-7b", {"norm_bias": True}, "norm_bias = False, not True"),
    ("bloom-176b", {"embedding_norm": False}, "embedding_norm = True, not False"),
    ("falcon-7b", {"attention": {"window": 64}}, "attention.window = None, not 64"),
]


@pytest.mark.parametrize(("like", "change", "said"), OTHERWISE, ids=lambda v: str(v)[:40])
def test_what_a_family_has_no_word_for_is_said(
    like: str, change: dict[str, Any], said: str
) -> None:
    """The setting alone would otherwise be lost on the way to another engine."""
    config = catalog.load_config({"like": like, **change})
    with pytest.raises(NoFamily) as caught:
        hf_config(config, "float32")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400
