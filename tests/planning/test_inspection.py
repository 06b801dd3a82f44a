"""What inspect finds adds up, agrees with published figures, and grows as it should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep.models import catalog
from ctxsweep.models.accounting import Storage, cache_bytes, cost
from ctxsweep.models.accounting_parameters import parameters
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.inspection.decoder import inspect_model
from ctxsweep.planning.inspection.encoder import inspect_encoder
from ctxsweep.planning.inspection.inspected import Inspection
from ctxsweep.planning.inspection.rule_of_thumb import rule_of_thumb
from ctxsweep.planning.inspection.scaling_up import scaled_up

KIB, MIB = 1 << 10, 1 << 20
NAMES = catalog.names()
ENCODERS = catalog.encoder_names()


def inspected(name: str, *contexts: int, batch_size: int = 1) -> Inspection:
    return inspect_model(catalog.load_config(name), contexts or (1024,), batch_size)


@pytest.mark.parametrize("name", NAMES)
def test_parts_and_steps_add_up_to_the_exact_count(name: str) -> None:
    config = catalog.load_config(name)
    found, exact = inspected(name), sum(parameters(config).values())
    assert sum(part.parameters for part in found.parts) == exact == found.parameters
    rule = found.rule
    assert rule.estimate == 12 * config.num_layers * config.hidden_size**2
    assert rule.estimate + sum(step.parameters for step in rule.steps) == exact
    assert all(step.name and step.parameters for step in rule.steps)
    # Steps are named one by one: what has no name of its own is small.
    rest = [step for step in rule.steps if step.name.startswith("biases")]
    assert all(abs(step.parameters) < 0.01 * exact for step in rest)
    sizes = [abs(step.parameters) for step in rule.steps]
    assert sizes == sorted(sizes, reverse=True)


def test_the_rule_of_thumb_holds_for_the_model_it_was_made_for() -> None:
    """MHA as wide as the model, 4·d without a gate: only what lies outside the layers differs."""
    config = ModelConfig.model_validate(
        {
            "name": "plain",
            "mixer": "attention",
            "vocab_size": 1000,
            "hidden_size": 512,
            "num_layers": 6,
            "tied_embeddings": True,
            "attention": {"heads": 8, "kv_heads": 8, "head_dim": 64},
            "ffn": {"kind": "gelu", "size": 2048},
        }
    )
    rule = rule_of_thumb(config)
    assert {step.name for step in rule.steps} == {
        "embedding: vocabulary of 1,000, also the head",
        "norms",
    }


def test_why_the_rule_is_off_is_told_from_the_model() -> None:
    """Llama-3-8B: by hand from its shape."""
    steps = {s.name: s.parameters for s in inspected("llama-3-8b").rule.steps}
    assert steps["a gate: three matrices in a block, not two"] == 32 * 4096 * 14336
    assert steps["8 key/value heads for 32"] == -32 * 2 * 4096 * 24 * 128
    assert steps["feed-forward width 14336 = 3.5·d, not 4·d"] == -32 * 2 * 4096 * 2048
    mamba = {s.name for s in inspected("mamba-2.8b").rule.steps}
    assert {"no feed-forward block", "Mamba-1, not attention"} <= mamba


@pytest.mark.parametrize(
    ("name", "kib"),
    [("llama-3-8b", 128), ("llama-3-70b", 320), ("gemma-2b", 18), ("falcon-7b", 8)],
)
def test_bytes_per_token_are_the_published_ones(name: str, kib: int) -> None:
    """The sizes of the issue, 2 × layers × kv_heads × head_dim × 2 bytes."""
    row = inspected(name).cache[0]
    assert (row.bytes_per_token, row.fixed_bytes, row.most_bytes) == (kib * KIB, 0, None)


def test_a_window_caps_the_cache() -> None:
    found = inspected("mistral-7b", 1024, 8192, 131072)
    # Neither end of a window need fall on a page's border: a page more than 512 MiB.
    assert found.cache[0].most_bytes == 514 * MIB
    assert found.cache[0].at_bytes == (128 * MIB, 512 * MIB, 512 * MIB)
    factors = {row.what: row.factors["10"] for row in found.growth}
    assert factors["cache or state"] == factors["bytes of a decode step"] == 1


def test_the_most_of_a_window_is_reached_and_never_exceeded() -> None:
    config = catalog.load_config("mistral-7b")
    (most, *_), storage = inspected("mistral-7b", 1024).cache, Storage("bfloat16", "auto", 16)
    held = [cache_bytes(config, storage, n) for n in range(1, 9000)]
    assert max(held) == most.most_bytes


def test_a_type_that_is_the_weights_own_has_one_row() -> None:
    found = inspect_model(catalog.load_config("mistral-7b"), (1024,), 1, "bfloat16", "bfloat16")
    assert [row.kv_dtype for row in found.cache] == ["bfloat16", "fp8_e4m3", "int8"]


def test_past_what_a_model_is_stretched_to_is_said() -> None:
    (within,) = (inspected("qwen2.5-7b-yarn", 65536).remarks,)
    assert not any("beyond" in remark for remark in within)
    beyond = inspected("qwen2.5-7b-yarn", 262144).remarks
    assert any("trained to 32K, stretched to 128K: beyond" in remark for remark in beyond)


def test_states_do_not_grow_and_have_no_attention() -> None:
    found = inspected("mamba-2.8b", 1024, 131072)
    row = found.cache[0]
    # 64 layers × 5120 channels: 16 states in float32, 3 inputs of the convolution in bfloat16.
    assert row.fixed_bytes == row.most_bytes == 64 * 5120 * (16 * 4 + 3 * 2)
    assert len(found.cache) == 1 and row.bytes_per_token == 0
    assert [one.attention_share for one in found.lengths] == [0, 0]
    assert {f"{row.factors['10']:.3g}" for row in found.growth} == {"1", "10"}


@pytest.mark.parametrize("name", ["llama-3-8b", "tiny-hybrid", "mixtral-8x7b", "rwkv7-2.9b"])
def test_figures_are_those_of_the_accounting(name: str) -> None:
    config, storage = catalog.load_config(name), Storage("bfloat16", "auto", 16)
    found = inspected(name, 4096, batch_size=3)
    known, (row,) = cost(config, storage, 4096, 3), found.lengths
    assert row.cache_bytes == known.cache_bytes == cache_bytes(config, storage, 4096, 3)
    assert (row.prefill_flops, row.decode_flops) == (known.prefill_flops, known.decode_flops)
    assert row.decode_bytes == known.decode_bytes
    assert row.decode_intensity == known.decode_flops / known.decode_bytes
    token = found.token
    step = token.forward_flops + 4096 * token.flops_per_context_token
    own = token.flops_per_context_token  # the token sees itself too
    assert known.decode_flops / 3 == pytest.approx(step + own, rel=1e-12)


def test_training_is_three_forward_passes_with_the_head_on_every_token() -> None:
    """By hand: Llama-3-8B at 8192 tokens; 6·N counts the embedding and leaves attention out."""
    token = inspected("llama-3-8b").token
    matrices = 8_030_261_248 - 128256 * 4096 - 65 * 4096
    scores = 4 * 32 * 32 * 128 * (8192 + 1) / 2
    assert token.training_context == 8192
    assert token.training_flops == pytest.approx(3 * (2 * matrices + scores), rel=1e-12)
    assert token.training_rule_flops == 6 * 8_030_261_248


def test_experts_count_as_far_as_a_token_goes_through_them() -> None:
    found = inspected("mixtral-8x7b")
    idle = 32 * 6 * 3 * 4096 * 14336
    assert found.parameters - found.active_parameters == idle
    assert found.token.training_rule_flops == 6 * found.active_parameters


def test_a_published_count_is_equal_as_far_as_its_digits_go() -> None:
    exact = inspected("llama-3-8b").published
    assert exact is not None and exact.equal and exact.rounded_to == 1
    config = catalog.load_config("llama-3-8b")
    for parameters_, rounded_to, equal in [
        (8_030_261_249, 1, False),
        (8_000_000_000, 1_000_000_000, True),
        (8_100_000_000, 100_000_000, False),
    ]:
        said = {"parameters": parameters_, "rounded_to": rounded_to, "source": "planted"}
        fields = config.model_dump(exclude_unset=True) | {"published": said}
        found = inspect_model(ModelConfig.model_validate(fields)).published
        assert found is not None and found.equal == equal


def test_a_tied_head_that_is_published_apart_is_seen() -> None:
    config = catalog.load_config("tiny-gqa")
    fields = config.model_dump(exclude_unset=True) | {"tied_embeddings": True}
    tied = sum(parameters(ModelConfig.model_validate(fields)).values())
    said = {"parameters": tied + 4096 * 256, "source": "planted"}
    found = inspect_model(ModelConfig.model_validate(fields | {"published": said})).published
    assert found is not None and found.head_apart and not found.equal


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tiny-gpt"])
@pytest.mark.parametrize("factor", [2.0, 10.0])
def test_a_larger_model_is_of_the_same_make(name: str, factor: float) -> None:
    config = catalog.load_config(name)
    larger = scaled_up(config, factor)
    assert larger is not None
    reached = sum(parameters(larger).values()) / sum(parameters(config).values())
    coarse = config.num_layers <= 2 or (config.attention_every or 1) > 4
    assert reached == pytest.approx(factor, rel=0.2 if coarse else 0.03)
    assert larger.layer_mixers()[:2] == config.layer_mixers()[:2]
    assert set(larger.layer_mixers()) == set(config.layer_mixers())
    ratio = larger.hidden_size / config.hidden_size
    if config.attention and larger.attention:
        old, new = config.attention, larger.attention
        assert new.head_dim == old.head_dim and new.position == old.position
        assert (new.kv_heads == 1) == (old.kv_heads == 1)
        if old.kv_heads > 1:
            assert new.heads / new.kv_heads == old.heads / old.kv_heads
        assert new.heads / old.heads == pytest.approx(ratio, rel=1e-9)
    if config.ffn and larger.ffn:
        assert larger.ffn.size / config.ffn.size == pytest.approx(ratio, rel=0.25)
        assert larger.ffn.experts == config.ffn.experts
    assert larger.published is None


def test_where_the_vocabulary_outweighs_the_layers_no_size_is_made_up() -> None:
    """tiny-gpt is a table of positions above all: twice its size would be another make."""
    assert scaled_up(catalog.load_config("tiny-gpt"), 10) is None


@given(
    contexts=st.lists(st.integers(1, 1 << 24), min_size=1, max_size=4),
    batch_size=st.integers(1, 512),
    name=st.sampled_from(["tiny-gqa", "tiny-swa", "tiny-mamba2", "tiny-hybrid", "tiny-moe"]),
)
def test_every_length_and_batch_gives_sound_figures(
    contexts: list[int], batch_size: int, name: str
) -> None:
    found = inspected(name, *contexts, batch_size=batch_size)
    for row in found.lengths:
        assert 0 <= row.attention_share < 1
        assert row.decode_flops > 0 and row.decode_bytes > 0 and row.cache_bytes > 0
    assert [row.at_bytes for row in found.cache[:1]] == [
        tuple(row.cache_bytes for row in found.lengths)
    ]


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_have_a_footprint(name: str) -> None:
    found = inspect_encoder(catalog.load_encoder(name), (128, 512, 1 << 20))
    assert sum(part.parameters for part in found.parts) == found.parameters
    rule = found.rule
    assert rule.estimate + sum(step.parameters for step in rule.steps) == found.parameters
    assert found.published is not None and found.published.equal
    assert found.rows[-1].encode_flops > 4 * found.rows[0].encode_flops
    if found.longest_input:
        assert found.inputs_left_out == (1 << 20,)


def test_a_decoder_keeps_the_inputs_keys_once_for_every_layer() -> None:
    """T5-base: 12 layers × 2 × 768 × 2 bytes for a token of the input, and for one written."""
    found = inspect_encoder(catalog.load_encoder("t5-base"), (1024,))
    assert "Trained on inputs of up to 512 tokens" in found.remarks[0]
    assert found.rows[0].cross_cache_bytes == 1024 * 12 * 2 * 768 * 2
    assert found.token_bytes == 12 * 2 * 768 * 2
