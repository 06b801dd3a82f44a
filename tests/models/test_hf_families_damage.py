"""A ``config.json`` that is wrong in some place is one message that names the place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep.models import catalog
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_config import config_from
from ctxsweep.models.hf_families import FAMILIES
from ctxsweep.models.hf_write import hf_config

OF_A_FAMILY = (
    "llama-3-8b",
    "mistral-7b",
    "mixtral-8x7b",
    "qwen2.5-7b-yarn",
    "gemma-7b",
    "gpt2",
    "starcoder",
    "gpt-neox-20b",
    "phi-2",
    "falcon-7b",
    "falcon-40b",
    "mpt-7b",
    "bloom-176b",
    "mamba-130m",
    "mamba2-2.7b",
    "tiny-hybrid",
)
VALID: list[dict[str, Any]] = [
    hf_config(catalog.load_config(name), "float32") for name in OF_A_FAMILY
]
JAMBA = {
    "model_type": "jamba",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "num_experts": 1,
}
VALID += [JAMBA, {**VALID[0], "model_type": "phi3"}]
WORDS = """
    alibi rotary_pct clip_qkv attn_config head_dim n_inner num_kv_heads layer_types rope_scaling
    rope_theta tie_word_embeddings qk_layernorm num_ln_in_parallel_attn activation hidden_act
    activation_function mamba_dt_rank time_step_rank time_step_limit expansion_ratio n_embed
"""
MORE_KEYS = WORDS.split()
ODD = (
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.integers()
    | st.sampled_from([10**40, -(10**40)])
    | st.floats()
    | st.text(max_size=4)
    | st.lists(st.integers() | st.text(max_size=3), max_size=3)
    | st.dictionaries(st.sampled_from(["rope_type", "factor", "x"]), st.integers(-2, 3), max_size=2)
)


@given(data=st.data())
def test_any_damage_is_a_model_or_one_message(data: st.DataObject) -> None:
    raw = dict(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from([*raw, *MORE_KEYS]))
        if data.draw(st.booleans()):
            raw[key] = data.draw(ODD)
        else:
            raw.pop(key, None)
    try:
        config = config_from(raw, "damaged")
    except ValueError as error:
        assert len(str(error)) > 10
    else:
        assert isinstance(config, ModelConfig)


def valid(family: str) -> dict[str, Any]:
    return dict(next(fields for fields in VALID if fields["model_type"] == family))


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("gemma", {"num_hidden_layers": 28.0}, "num_hidden_layers = 28.0 .*nearest valid: 28"),
        (
            "gemma",
            {"hidden_act": "silu"},
            "hidden_act = 'silu' is not built; valid: gelu, gelu_new",
        ),
        ("gemma", {"num_key_value_heads": 5}, "num_key_value_heads = 5; .* 4 or 8"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ("gemma", {"tie_word_embeddings": 1}, "tie_word_embeddings = 1 must be true or false"),
        ("gemma", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is not built for gemma"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm = True is not built; valid: False"),
        ("phi", {"layer_norm_eps": 0}, "layer_norm_eps = 0 must be a number above 0"),
        ("phi", {"vocab_size": 1}, "vocab_size = 1: Input should be greater than or equal to 2"),
        ("phi", {"num_hidden_layers": 5000}, "num_hidden_layers = 5000: .*less than.* 1024"),
        ("falcon", {"alibi": True}, "alibi = True is not built for falcon.*valid: False"),
        (
            "falcon",
            {"num_attention_heads": 70},
            "num_attention_heads = 70 must divide hidden_size = 4544; .* 64 or 71",
        ),
        ("falcon", {"activation": "relu"}, "activation = 'relu' is not built; valid: gelu,"),
        ("falcon", {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn = 2 .*valid: None, 1"),
        ("gpt_neox", {"rotary_pct": "all"}, "rotary_pct = 'all' must be a number"),
        ("gpt_bigcode", {"n_head": 0}, "n_head = 0 .* at least 1; nearest valid: 1"),
        ("gpt_bigcode", {"hidden_size": 7}, "hidden_size = 7 contradicts n_embd = 6144"),
        ("mpt", {"attn_config": {"clip_qkv": 6.0}}, "attn_config.clip_qkv = 6.0 is not built"),
        ("mpt", {"attn_config": {"alibi": False}}, "attn_config.alibi = False .*valid: True"),
        ("mpt", {"no_bias": False}, "no_bias = False is not built; valid: True"),
        ("mpt", {"expansion_ratio": 3}, "expansion_ratio = 3 is not built; valid: 4"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "valid: False"),
        ("jamba", {"num_experts": 3, "expert_layer_offset": 0}, "offset = 0 .*valid: 1"),
        (
            "jamba",
            {"attn_layer_offset": 2},
            "attn_layer_offset = 2 must be below attn_layer_period = 2",
        ),
        ("jamba", {"attn_layer_period": 1}, "attn_layer_period = 1: .*greater than.* 2"),
        ("jamba", {"mamba_dt_rank": "big"}, "mamba_dt_rank = 'big' must be auto or a whole number"),
        ("mamba", {"expand": 1.5}, "expand = 1.5 must be a whole number .*nearest valid: 2"),
    ],
)
def test_the_key_and_the_nearest_valid_are_named(
    family: str, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        config_from({**valid(family), **change}, "wrong")


@pytest.mark.parametrize(
    ("family", "left_out", "change", "said"),
    [
        (
            "gemma",
            "num_key_value_heads",
            {"num_attention_heads": 5},
            "heads = 5 .* num_key_value_heads = 16; nearest valid num_key_value_heads",
        ),
        ("jamba", "num_key_value_heads", {}, "multiple of num_key_value_heads = 8"),
        (
            "granitemoehybrid",
            "mamba_n_groups",
            {"mamba_expand": 1 << 21},
            "^mamba_expand = 2097152",
        ),
    ],
)
def test_a_default_that_does_not_fit_is_under_the_files_key(
    family: str, left_out: str, change: dict[str, Any], said: str
) -> None:
    fields = {key: value for key, value in valid(family).items() if key != left_out} | change
    with pytest.raises(ValueError, match=said):
        config_from(fields, "wrong")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_key_is_named(family: str) -> None:
    fields = valid(family)
    for key in ("vocab_size", *(k for k in ("num_hidden_layers", "n_layer") if k in fields)):
        less = {name: value for name, value in fields.items() if name != key}
        with pytest.raises(ValueError, match="is missing"):
            config_from(less, "less")
