"""The twins: every model of the catalogue in small, with the same structure, run natively."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ctxsweep.models import accounting, catalog
from ctxsweep.models.accounting import Storage, parameters
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.inline import BadInlineModel
from ctxsweep.models.language_model import build
from ctxsweep.models.layers import StateSpec
from ctxsweep.models.scaling_down import tiny

CPU = torch.device("cpu")
Feed = Callable[..., Tensor]
SAME = [
    "mixer",
    "norm",
    "norm_eps",
    "norm_bias",
    "residual",
    "tied_embeddings",
    "embedding_norm",
    "head_bias",
    "attention_shared",
    "trained_context",
]
SAME_IN_ATTENTION = ["window", "sinks", "position", "rope_theta", "bias", "biased_output"]
SAME_IN_FFN = ["kind", "experts", "experts_per_token", "layers", "router", "bias"]


def one_of_each_twin() -> list[str]:
    """Names whose twins differ in more than their name, tiny models left out."""
    distinct: dict[str, str] = {}
    for name in catalog.names():
        if not name.startswith("tiny-"):
            twin = tiny(catalog.load_config(name))
            distinct.setdefault(repr(twin.model_dump(exclude={"name", "source"})), name)
    return list(distinct.values())


TWINS = one_of_each_twin()


def kind_of_heads(config: ModelConfig) -> str | None:
    a = config.attention
    if a is None:
        return None
    return "MHA" if a.kv_heads == a.heads else "MQA" if a.kv_heads == 1 else "GQA"


def picked(section: Any, words: list[str]) -> dict[str, Any]:
    return {word: getattr(section, word) for word in words} if section is not None else {}


def structure(config: ModelConfig) -> dict[str, Any]:
    """What a twin must share with its model."""
    a, mamba = config.attention, config.mamba
    rope = a.rope.model_dump(exclude={"short_factor", "long_factor"}) if a and a.rope else None
    return {
        **picked(config, SAME),
        "layers": set(config.layers()),
        "heads": kind_of_heads(config),
        "attention": picked(a, SAME_IN_ATTENTION),
        "scaling": rope,
        "partial": a is not None and a.rotary_dim is not None and a.rotary_dim < a.head_dim,
        "ffn": picked(config.ffn, SAME_IN_FFN),
        "mamba": picked(mamba, ["state_size", "expand", "conv_kernel", "inner_norms"]),
        "scaled": config.embedding_scale is not None,
        "sections": {key for key in ("rwkv6", "rwkv7", "retention") if getattr(config, key)},
    }


@pytest.mark.parametrize("name", catalog.names())
def test_a_twin_has_the_structure_of_its_model(name: str) -> None:
    model = catalog.load_config(name)
    twin = tiny(model)
    assert structure(twin) == structure(model)
    assert (twin.vocab_size, twin.hidden_size) == (4096, 256)
    assert 2 <= twin.num_layers <= 8
    assert twin.published is None
    if model.ffn is not None and twin.ffn is not None:
        ratio = (twin.ffn.size / twin.hidden_size) / (model.ffn.size / model.hidden_size)
        assert abs(ratio - 1) < 0.12
    if model.attention is not None and twin.attention is not None:
        groups = [m.attention.heads // m.attention.kv_heads for m in (twin, model)]
        if kind_of_heads(model) == "GQA":
            assert groups[0] == min(groups[1], 4)
        if model.attention.rotary_dim is not None:
            shares = [m.attention.rotary_dim / m.attention.head_dim for m in (twin, model)]
            assert shares[0] == pytest.approx(shares[1], abs=1 / 32)
    again = tiny(twin)
    unnamed = {"name", "source"}
    assert again.model_dump(exclude=unnamed) == twin.model_dump(exclude=unnamed)


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_runs_and_its_chunks_are_the_whole(name: str, feed: Feed) -> None:
    """A prefill of 64 tokens in three calls and two decode steps, against one call."""
    config = tiny(catalog.load_config(name))
    if config.attention is not None and config.attention.position == "learned":
        config = config.model_copy(update={"max_positions": 128})  # as many as the test reads
    model = build(config, 0, torch.float32, CPU)
    tokens = torch.randint(4096, (1, 66), generator=torch.Generator().manual_seed(1))
    whole = feed(model, tokens)
    assert torch.isfinite(whole).all()
    parts = feed(model, tokens, [40, 1, 23, 1, 1])
    assert (parts - whole).abs().max() <= 1e-3 * whole.std()


def test_a_hybrid_keeps_its_period() -> None:
    jamba = tiny(catalog.load_config("jamba-v0.1"))
    model = catalog.load_config("jamba-v0.1")
    assert jamba.layer_mixers() == model.layer_mixers()[:8]
    assert [jamba.ffn and jamba.ffn.has_experts(i) for i in range(4)] == [False, True] * 2
    assert jamba.layers() == model.layers()[:8]
    zamba = tiny(catalog.load_config("zamba2-2.7b-like"))
    assert zamba.layer_mixers().count("attention") == 2, "nothing would be shared"


def test_longrope_keeps_the_divisors_of_pairs_that_turn_alike() -> None:
    model = catalog.load_config("phi-3-mini-128k")
    twin = tiny(model)
    for length in (1024, 100_000):
        full, small = model.turning(length).inv_freq, twin.turning(length).inv_freq
        assert small == pytest.approx(full[::3], rel=1e-12)


def test_learned_positions_reach_128k() -> None:
    assert tiny(catalog.load_config("gpt2")).max_positions >= 128 * 1024 + 64


@pytest.mark.parametrize("scale", [math.sqrt(2048), 12.0])
def test_a_scale_of_the_embedding_follows_the_width_where_it_is_its_root(scale: float) -> None:
    config = catalog.load_config("gemma-2b").model_copy(update={"embedding_scale": scale})
    assert tiny(config).embedding_scale == (16.0 if scale != 12.0 else 12.0)


def test_a_scenario_writes_a_twin() -> None:
    asked = {"like": "falcon-7b", "scale": "tiny", "attention": {"kv_heads": 2}}
    config = catalog.load_config(asked)
    assert (config.name, config.hidden_size) == ("falcon-7b tiny", 256)
    assert config.residual == "parallel_shared_norm"
    assert config.attention is not None and config.attention.kv_heads == 2
    varied = catalog.load_config({"like": "llama-2-7b", "num_layers": 2})
    assert varied.published is None, "its count is not that of what it varies"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"scale": "tiny"}, "scale: is for a model that is like another"),
        ({"like": "gpt2", "scale": "small"}, "scale: is 'small'; valid: tiny"),
        ({"like": "gpt2", "scale": True}, "scale: is True; valid: tiny"),
    ],
)
def test_a_scale_that_cannot_be(body: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInlineModel, match=message):
        catalog.load_config(body)


@st.composite
def hybrids_and_transformers(draw: st.DrawFn) -> ModelConfig:
    """Any heads and widths; a hybrid of any period and offset; experts in some of the layers."""
    every = draw(st.none() | st.integers(2, 40))
    offset = None if every is None else draw(st.none() | st.integers(0, every - 1))
    first = 0 if every is None else every - 1 if offset is None else offset
    half, kv_heads = draw(st.integers(1, 128)), draw(st.integers(1, 16))
    experts = draw(st.sampled_from([0, 4]))
    ffn = {"size": draw(st.integers(1, 60_000)), "experts": experts}
    if experts:
        ffn |= {"experts_every": draw(st.integers(1, 12)), "router": "all"}
    if every is not None:
        ffn["layers"] = draw(st.sampled_from(["all", "attention"]))
    alike = every is not None and every % ffn.get("experts_every", 1) == 0
    return ModelConfig(
        name="any",
        mixer="attention" if every is None else "mamba2",
        vocab_size=300,
        hidden_size=64 * draw(st.integers(1, 64)),
        num_layers=draw(st.integers(max(1 if every is None else 2, first + 1), 100)),
        attention_every=every,
        attention_offset=offset,
        attention_shared=alike and draw(st.booleans()),
        attention={
            "heads": kv_heads * draw(st.integers(1, 40)),
            "kv_heads": kv_heads,
            "head_dim": 2 * half,
            "rotary_dim": 2 * min(draw(st.integers(1, 128)), half),
        },
        mamba=None if every is None else {"head_dim": 64, "expand": 2},
        ffn=ffn,
    )


@given(config=hybrids_and_transformers())
def test_any_transformer_or_hybrid_has_a_twin(config: ModelConfig) -> None:
    """With a layer of every kind that the model has, and of no other."""
    twin = tiny(config)
    assert structure(twin) == structure(config)
    uses = [m.layer_mixers().count("attention") for m in (twin, config)]
    assert not config.attention_shared or uses[0] >= min(uses[1], 2)
    assert twin.num_layers <= 56 and twin.vocab_size == 300


def test_a_hybrids_twin_keeps_experts_that_come_later_than_its_period() -> None:
    """Every third layer attends and every fourth has experts: all four kinds are in twelve."""
    config = ModelConfig(
        name="m",
        mixer="mamba2",
        vocab_size=300,
        hidden_size=512,
        num_layers=24,
        attention_every=3,
        attention={"heads": 8, "kv_heads": 8, "head_dim": 64},
        mamba={"head_dim": 64},
        ffn={"size": 512, "experts": 4, "experts_every": 4},
    )
    twin = tiny(config)
    assert twin.layers() == config.layers()[:12]


def shortened(name: str) -> ModelConfig:
    """A twin with a window and learned positions of a size that a test can pass over."""
    config = tiny(catalog.load_config(name))
    a = config.attention
    if a is not None and a.window is not None:
        config = config.model_copy(update={"attention": a.model_copy(update={"window": 40})})
    return config.model_copy(update={"max_positions": 256})


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_holds_what_the_arithmetic_says(name: str) -> None:
    """So does then its model, whose size alone is another."""
    config, storage = shortened(name), Storage("bfloat16", "auto", 16)
    model = build(config, 0, torch.bfloat16, CPU)
    assert sum(p.numel() for p in model.parameters()) == sum(parameters(config).values())
    state = model.new_state(StateSpec(2, 200, 50, 16, torch.bfloat16, torch.bfloat16, CPU))
    with torch.inference_mode():
        for call in torch.randint(4096, (2, 120)).split([50, 1, 30, 1, 1, 37], dim=1):
            model(call, state)
            assert state.used_bytes == accounting.cache_bytes(config, storage, state.length, 2)


@pytest.mark.parametrize(
    "name", [name for name in TWINS if catalog.load_config(name).mixer == "attention"]
)
def test_a_transformers_twin_multiplies_what_the_arithmetic_says(name: str) -> None:
    """A decode step, its ops in torch, since the counter does not see into C."""
    config = shortened(name)
    model = build(config, 0, torch.float32, CPU)
    model.impl = "torch"
    state = model.new_state(StateSpec(3, 64, 40, 4, torch.float32, torch.float32, CPU))
    with torch.inference_mode():
        model(torch.randint(4096, (3, 40)), state)
        with FlopCounterMode(display=False) as counter:
            model(torch.randint(4096, (3, 1)), state)
    step = accounting.decode_call(config, 40)
    assert accounting.flops(config, step, 3) == counter.get_total_flops()
