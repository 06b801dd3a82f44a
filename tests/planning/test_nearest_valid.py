"""What is wrong with a configuration is mended by the smallest change, or not at all: in words."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ctxsweep.models import catalog
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_write import hf_config
from ctxsweep.planning.mending.edits import CannotMend, Change, read
from ctxsweep.planning.mending.nearest_valid import nearest_valid
from ctxsweep.planning.mending.nearest_valid_hf import nearest_valid_hf

GONE = object()
NAMES = ["llama-3.1-8b", "tiny-hybrid", "tiny-moe", "tiny-retnet", "tiny-rwkv7", "tiny-mamba2"]


def fields_of(name: str) -> dict[str, Any]:
    return catalog.load_config(name).model_dump(exclude_unset=True, mode="json")


def damaged(name: str, damage: Mapping[str, Any]) -> dict[str, Any]:
    """A model of the catalogue with keys set, or taken out."""
    fields = copy.deepcopy(fields_of(name))
    for key, value in damage.items():
        *inside, last = key.split(".")
        here = fields
        for part in inside:
            here = here.setdefault(part, {})
        if value is GONE:
            here.pop(last, None)
        else:
            here[last] = value
    return fields


def said(changes: tuple[Change, ...]) -> list[str]:
    return [f"{change.key}: {change.before} → {change.after}" for change in changes]


@pytest.mark.parametrize("name", catalog.names())
def test_a_valid_model_is_left_as_it_is(name: str) -> None:
    config, changes = nearest_valid(fields_of(name))
    assert not changes
    assert config == catalog.load_config(name)


@pytest.mark.parametrize(
    ("name", "damage", "change"),
    [
        ("llama-3.1-8b", {"attention.kv_heads": 7}, "attention.kv_heads: 7 → 8"),
        ("llama-3.1-8b", {"attention.heads": 31}, "attention.heads: 31 → 32"),
        ("llama-3.1-8b", {"attention.head_dim": 127}, "attention.head_dim: 127 → 128"),
        ("llama-3.1-8b", {"attention.rotary_dim": 130}, "attention.rotary_dim: 130 → 128"),
        ("llama-3.1-8b", {"attention.kv_heads": GONE}, "attention.kv_heads: missing → 32"),
        ("llama-3.1-8b", {"hidden_size": GONE}, "hidden_size: missing → 4096"),
        ("llama-3.1-8b", {"num_layers": "32"}, "num_layers: '32' → 32"),
        ("llama-3.1-8b", {"num_layers": -32}, "num_layers: -32 → 32"),
        ("llama-3.1-8b", {"mixer": "atention"}, "mixer: 'atention' → 'attention'"),
        ("llama-3.1-8b", {"mixer": "mamba2"}, "mixer: 'mamba2' → 'attention'"),
        ("llama-3.1-8b", {"mixer": GONE}, "mixer: missing → 'attention'"),
        ("llama-3.1-8b", {"attention.sinks": 4}, "attention.sinks: 4 → removed"),
        ("llama-3.1-8b", {"attention_every": 4}, "attention_every: 4 → removed"),
        ("llama-3.1-8b", {"ffn.bias": True, "ffn.experts": 8}, "ffn.bias: true → false"),
        ("tiny-moe", {"ffn.experts_per_token": 9}, "ffn.experts_per_token: 9 → 8"),
        ("tiny-hybrid", {"attention_every": 5}, "attention_every: 5 → 2"),
        ("tiny-hybrid", {"mamba.head_dim": 48}, "mamba.head_dim: 48 → 64"),
        ("tiny-hybrid", {"mamba.groups": 3}, "mamba.groups: 3 → 4"),
        ("tiny-hybrid", {"mamba": GONE}, "mamba: missing → {}"),
        ("tiny-hybrid", {"num_layers": 1}, "num_layers: 1 → 2"),
        ("tiny-retnet", {"hidden_size": 257}, "hidden_size: 257 → 256"),
        ("tiny-retnet", {"retention.heads": 3}, "retention.heads: 3 → 4"),
        ("tiny-rwkv7", {"rwkv7.head_dim": 48}, "rwkv7.head_dim: 48 → 64"),
        ("tiny-rwkv7", {"ffn": {"size": 512}}, "ffn: {size: 512} → removed"),
        # Keys misspelt, in another place, in the words of others.
        (
            "tiny-gqa",
            {"hidden_size": GONE, "hiden_size": 256},
            "hiden_size: 256 → hidden_size: 256",
        ),
        (
            "tiny-gqa",
            {"attention.kv_heads": GONE, "kv_heads": 2},
            "kv_heads: 2 → attention.kv_heads: 2",
        ),
        (
            "tiny-gqa",
            {"num_layers": GONE, "num_hidden_layers": 2},
            "num_hidden_layers: 2 → num_layers: 2",
        ),
        ("tiny-gqa", {"frobnicate": 3}, "frobnicate: 3 → removed"),
    ],
)
def test_the_smallest_change_is_found(name: str, damage: dict[str, Any], change: str) -> None:
    config, changes = nearest_valid(damaged(name, damage))
    assert said(changes) == [change]
    assert all(one.why for one in changes)
    assert isinstance(config, ModelConfig)


def test_a_missing_section_gets_what_is_natural_for_the_width() -> None:
    config, changes = nearest_valid(damaged("llama-3.1-8b", {"attention": GONE}))
    assert config.attention is not None
    assert (config.attention.heads, config.attention.head_dim) == (32, 128)
    assert len(changes) == 1 and changes[0].key == "attention"


def test_every_change_is_listed_when_several_are_needed() -> None:
    wrong = {
        "attention.kv_heads": 7,
        "num_layers": "32",
        "atention_every": 2,
        "attention.head_dim": 127,
    }
    config, changes = nearest_valid(damaged("llama-3.1-8b", wrong))
    assert {change.key for change in changes} >= {"attention.kv_heads", "num_layers"}
    assert config.attention is not None and config.attention.kv_heads == 8


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"vocab_size": GONE}, "vocab_size: is missing, and nothing else tells it"),
        ({"num_layers": GONE}, "num_layers: is missing"),
        ({"num_layers": []}, "num_layers: must be a whole number, not a list"),
    ],
)
def test_what_nothing_tells_is_not_made_up(damage: dict[str, Any], words: str) -> None:
    with pytest.raises(CannotMend, match=words):
        nearest_valid(damaged("tiny-gqa", damage))


def leaf_paths(fields: Mapping[str, Any], under: str = "") -> list[str]:
    paths = []
    for key, value in fields.items():
        paths.append(f"{under}{key}")
        if isinstance(value, Mapping):
            paths += leaf_paths(value, f"{under}{key}.")
    return paths


JUNK = st.one_of(
    st.integers(-10, 5000),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.booleans(),
    st.none(),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=2),
    st.just(GONE),
)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_random_damage_is_mended_or_refused_in_words(data: st.DataObject, name: str) -> None:
    known = leaf_paths(fields_of(name))
    keys = st.one_of(st.sampled_from(known), st.text("abcdefghijklmnop_", min_size=1, max_size=9))
    damage = data.draw(st.dictionaries(keys, JUNK, min_size=1, max_size=3))
    try:
        fields = damaged(name, damage)
    except (AttributeError, TypeError):  # a key inside of what an earlier one replaced
        return
    was_valid = is_valid(fields)
    try:
        config, changes = nearest_valid(fields)
    except CannotMend as error:
        assert not was_valid and str(error).strip() and "\n" not in str(error)
        return
    assert bool(changes) != was_valid
    ModelConfig.model_validate(config.model_dump(exclude_unset=True))
    # What was not named in a change is as it was.
    changed = {change.key.split(".")[0] for change in changes}
    changed |= {change.after.split(":")[0].split(".")[0] for change in changes}
    dumped = config.model_dump(mode="json")
    for key, value in fields.items():
        if key not in changed and not isinstance(value, Mapping):
            assert dumped[key] == value or key == "name"


def is_valid(fields: Mapping[str, Any]) -> bool:
    try:
        ModelConfig.model_validate({"name": "m", **fields}, strict=True)
    except ValidationError:
        return False
    return True


HF_NAMES = [
    "llama-3.1-8b",
    "tiny-moe",
    "tiny-mamba2",
    "tiny-hybrid",
    "gpt2",
    "gemma-2b",
    "falcon-40b",
]


@pytest.mark.parametrize(
    ("damage", "change"),
    [
        ({"num_key_value_heads": 7}, "num_key_value_heads: 7 → 8"),
        ({"num_attention_heads": 31}, "num_attention_heads: 31 → 32"),
        ({"num_attention_heads": 31, "head_dim": None}, "num_attention_heads: 31 → 32"),
        ({"num_hidden_layers": "32"}, "num_hidden_layers: '32' → 32"),
        ({"head_dim": 127}, "head_dim: 127 → 128"),
        ({"hidden_size": GONE, "hiden_size": 4096}, "hiden_size: 4096 → hidden_size: 4096"),
    ],
)
def test_a_config_json_is_mended_on_its_own_keys(damage: dict[str, Any], change: str) -> None:
    raw = hf_config(catalog.load_config("llama-3.1-8b"), "bfloat16") | damage
    raw = {key: value for key, value in raw.items() if value is not GONE}
    config, content, changes = nearest_valid_hf(raw, "m")
    assert said(changes) == [change]
    key, _, value = change.split(" → ")[1].rpartition(": ")
    assert read(content, (key or changes[0].key,)) == int(value)
    assert config.num_layers == 32 and config.name == "m"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not built"),
        ({"model_type": "lama"}, "model_type = 'lama' is not built"),
        ({"vocab_size": GONE}, "vocab_size"),
    ],
)
def test_what_is_not_built_is_said_and_not_bent(damage: dict[str, Any], words: str) -> None:
    raw = hf_config(catalog.load_config("llama-3.1-8b"), "bfloat16") | damage
    with pytest.raises(CannotMend, match=words):
        nearest_valid_hf({k: v for k, v in raw.items() if v is not GONE}, "m")


@settings(deadline=None, max_examples=40)
@given(data=st.data(), name=st.sampled_from(HF_NAMES))
def test_a_damaged_config_json_is_mended_or_refused_in_words(
    data: st.DataObject, name: str
) -> None:
    raw = hf_config(catalog.load_config(name), "float32")
    damage = data.draw(st.dictionaries(st.sampled_from(sorted(raw)), JUNK, min_size=1, max_size=2))
    broken = {key: value for key, value in (raw | damage).items() if value is not GONE}
    try:
        config, content, changes = nearest_valid_hf(broken, "m")
    except CannotMend as error:
        assert str(error).strip()
        return
    assert config.name == "m"
    named = {change.key for change in changes} | {c.after.split(":")[0] for c in changes}
    assert {k for k in {*content, *broken} if content.get(k) is not broken.get(k)} <= named
