"""Configurations that cannot be built are refused with the nearest that can."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ctxsweep.models.config import ModelConfig, nearest_divisors
from ctxsweep.models.feed_forward import MixtureOfExperts
from ctxsweep.models.language_model import LanguageModel

BASE: dict[str, Any] = {
    "name": "m",
    "mixer": "attention",
    "vocab_size": 32,
    "hidden_size": 64,
    "num_layers": 4,
    "attention": {"heads": 8, "kv_heads": 2, "head_dim": 8},
    "ffn": {"size": 32},
}


def changed(**fields: Any) -> dict[str, Any]:
    """BASE with fields replaced; a field set to None is left out."""
    merged = {**BASE, **fields}
    return {key: value for key, value in merged.items() if value is not None}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"attention": {"heads": 8, "kv_heads": 3, "head_dim": 8}},
            r"heads = 8 must be a multiple of kv_heads = 3; nearest valid kv_heads: 2 or 4",
        ),
        (
            {"attention": {"heads": 8, "kv_heads": 2, "head_dim": 7}},
            r"head_dim = 7 must be even.*6 or 8",
        ),
        ({"attention": {"heads": 8, "kv_heads": 2, "head_dim": 8, "window": 0}}, "window"),
        ({"ffn": {"size": 8, "experts": 2, "experts_per_token": 3}}, r"nearest valid.*: 2"),
        ({"attention": None}, "section 'attention' is missing"),
        ({"mamba": {}}, "section 'mamba' is set, but no layer uses it"),
        (
            {"mixer": "mamba2", "attention_every": 5, "mamba": {}},
            r"attention_every = 5 exceeds num_layers = 4.*nearest valid: 4",
        ),
        (
            {"mixer": "mamba2", "attention_every": 2, "mamba": {}, "num_layers": 1},
            r"num_layers of at least 2",
        ),
        ({"attention_every": 2}, r"attention_every is for hybrids"),
        ({"attention": {"heads": 8, "kv_heads": 2, "head_dim": 1}}, r"nearest valid: 2 "),
        (
            {"mixer": "rwkv7", "attention": None, "rwkv7": {"head_dim": 16}},
            r"section 'ffn' is set, but RWKV has its own.* set rwkv7\.ffn_size",
        ),
        (
            {"mixer": "rwkv6", "attention": None, "rwkv6": {"head_dim": 16}},
            r"section 'ffn' is set, but RWKV has its own.* set rwkv6\.ffn_size",
        ),
        (
            {"mixer": "retention", "attention": None, "hidden_size": 7, "retention": {"heads": 1}},
            r"hidden_size = 7 must be even.*: 6 or 8",
        ),
        (
            {"mixer": "mamba2", "attention": None, "mamba": {"head_dim": 48}},
            r"head_dim = 48 must divide expand × hidden_size = 128; nearest valid: 32 or 64",
        ),
        (
            {"mixer": "mamba2", "attention": None, "mamba": {"head_dim": 32, "groups": 3}},
            r"groups = 3 must divide the 4 heads; nearest valid: 2 or 4",
        ),
        (
            {"mixer": "rwkv7", "attention": None, "ffn": None, "rwkv7": {"head_dim": 24}},
            r"rwkv7\.head_dim = 24 must divide hidden_size = 64; nearest valid: 16 or 32",
        ),
        (
            {"mixer": "rwkv6", "attention": None, "ffn": None, "rwkv6": {"head_dim": 24}},
            r"rwkv6\.head_dim = 24 must divide hidden_size = 64; nearest valid: 16 or 32",
        ),
        (
            {"mixer": "retention", "attention": None, "retention": {"heads": 3}},
            r"retention.heads = 3.*nearest valid: 2 or 4",
        ),
        ({"hidden": 3}, "Extra inputs are not permitted"),
        ({"attention_offset": 1}, "attention_offset is for hybrids"),
        ({"attention_shared": True}, "attention_shared is for hybrids"),
        (
            {"mixer": "mamba2", "attention_every": 2, "attention_offset": 2, "mamba": {}},
            r"attention_offset = 2 must be below attention_every = 2; nearest valid: 1",
        ),
        (
            {"mixer": "mamba2", "attention_every": 8, "attention_offset": 4, "mamba": {}},
            r"attention_offset = 4 is past num_layers = 4.*nearest valid: 3",
        ),
        (
            {
                "mixer": "mamba2",
                "attention_every": 2,
                "attention_shared": True,
                "mamba": {},
                "ffn": {"size": 8, "experts": 2, "experts_every": 4},
            },
            r"layers 1 and 3 one block.*experts_every = 4.*nearest valid experts_every: 1 or 2",
        ),
        ({"ffn": None, "residual": "parallel"}, "residual 'parallel' needs a feed-forward block"),
        ({"norm_bias": False}, "norm_bias is of layernorm"),
        ({"ffn": {"size": 8, "experts_every": 2}}, "experts_every needs experts"),
    ],
)
def test_a_broken_rule_names_the_nearest_valid_values(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ModelConfig(**changed(**fields))


def test_a_hybrid_has_attention_in_every_kth_layer() -> None:
    config = ModelConfig(
        **changed(mixer="mamba2", attention_every=3, num_layers=7, mamba={"head_dim": 32})
    )
    assert [i for i, kind in enumerate(config.layer_mixers()) if kind == "attention"] == [2, 5]


def test_a_hybrids_period_may_begin_anywhere() -> None:
    hybrid = {"mixer": "mamba2", "attention_every": 3, "mamba": {"head_dim": 32}}
    config = ModelConfig(**changed(**hybrid, num_layers=7, attention_offset=0))
    assert [i for i, kind in enumerate(config.layer_mixers()) if kind == "attention"] == [0, 3, 6]


def test_a_period_may_be_longer_than_the_model_whose_first_attention_layer_is_in_it() -> None:
    """Jamba's places in 6 layers: the fifth attends."""
    hybrid = {"mixer": "mamba2", "attention_every": 8, "mamba": {"head_dim": 32}}
    config = ModelConfig(**changed(**hybrid, num_layers=6, attention_offset=4))
    assert [i for i, kind in enumerate(config.layer_mixers()) if kind == "attention"] == [4]


def test_defaults_that_follow_from_the_width_are_in_one_place() -> None:
    bare = {"attention": None, "ffn": None, "hidden_size": 100}
    mamba = ModelConfig(**changed(**bare, mixer="mamba1", mamba={}))
    assert mamba.dt_rank == 7, "a sixteenth, rounded up"
    assert ModelConfig(**changed(**bare, mixer="mamba1", mamba={"dt_rank": 3})).dt_rank == 3
    rwkv6 = ModelConfig(**changed(**bare, mixer="rwkv6", rwkv6={"head_dim": 50}))
    assert rwkv6.channel_mix_size == 320, "3.5 times, down to 32s"
    rwkv7 = ModelConfig(**changed(**bare, mixer="rwkv7", rwkv7={"head_dim": 50}))
    assert rwkv7.channel_mix_size == 400
    own = ModelConfig(**changed(**bare, mixer="rwkv7", rwkv7={"head_dim": 50, "ffn_size": 9}))
    assert own.channel_mix_size == 9


def test_layers_are_what_the_model_is_built_of() -> None:
    hybrid = {"mixer": "mamba2", "attention_every": 2, "mamba": {"head_dim": 32}}
    experts = {"size": 8, "experts": 2, "experts_every": 4, "layers": "attention"}
    config = ModelConfig(**changed(**hybrid, ffn=experts))
    plain, block, chosen = ("mamba2", False, False), ("attention", True, False), True
    found = [(kind.mixer, kind.ffn, kind.experts) for kind in config.layers()]
    assert found == [plain, block, plain, ("attention", True, chosen)]
    with torch.device("meta"):
        model = LanguageModel(config)
    for layer, kind in zip(model.layers, config.layers(), strict=True):
        assert (layer.ffn is not None) == kind.ffn
        assert isinstance(layer.ffn, MixtureOfExperts) == kind.experts


@given(heads=st.integers(1, 64), kv_heads=st.integers(1, 64))
def test_heads_are_accepted_exactly_when_they_divide(heads: int, kv_heads: int) -> None:
    attention = {"heads": heads, "kv_heads": kv_heads, "head_dim": 8}
    if heads % kv_heads == 0:
        ModelConfig(**changed(attention=attention))
    else:
        with pytest.raises(ValidationError, match="nearest valid kv_heads"):
            ModelConfig(**changed(attention=attention))


@given(number=st.integers(1, 500), wanted=st.integers(1, 600))
def test_nearest_divisors_are_the_nearest(number: int, wanted: int) -> None:
    named = [int(word) for word in nearest_divisors(number, wanted).split(" or ") if word]
    divisors = [d for d in range(1, number + 1) if number % d == 0 and d != wanted]
    below, above = [d for d in divisors if d < wanted], [d for d in divisors if d > wanted]
    assert named == [*below[-1:], *above[:1]]
