"""What is held on each device, and what fits: exact counts, splits, and limits found again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep.models.accounting import Storage, cache_bytes
from ctxsweep.models.accounting_parameters import parameters
from ctxsweep.models.catalog import load_config, names
from ctxsweep.models.pages import pages_needed
from ctxsweep.planning.deployment import (
    WEIGHT_DTYPES,
    BadDeployment,
    Deployment,
    check,
    splits,
)
from ctxsweep.planning.footprint import (
    activations_bytes,
    footprint,
    kv_share,
    largest_batch,
    longest_context,
    reserve_bytes,
    state_bytes,
    weights_bytes,
    what_is_too_large,
)

GB = 10**9
TINY = [name for name in names() if name.startswith("tiny-")]


@pytest.mark.parametrize("name", names())
def test_one_device_in_16_bits_holds_all_parameters_and_the_whole_cache(name):
    config, deployment = load_config(name), Deployment(batch_size=2)
    held = footprint(config, deployment, 1000)
    assert held.weights_bytes == 2 * sum(parameters(config).values())
    assert held.cache_bytes == cache_bytes(config, Storage("bfloat16", "auto", 16), 1000, 2)
    assert held.total_bytes == sum(held.model_dump().values())


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("float32", 32), ("float16", 16), ("fp8", 8), ("int8", 8), ("int4", 4.15625)],
)
def test_only_the_layers_matrices_are_quantised(dtype, bits):
    parts = parameters(load_config("llama-3-8b"))
    held = weights_bytes(load_config("llama-3-8b"), Deployment(weight_dtype=dtype))
    plain = 4 if dtype == "float32" else 2
    rest = plain * (parts["embedding"] + parts["head"] + parts["norm"])
    assert held == round((parts["mixer"] + parts["ffn"]) * bits / 8 + rest)


def test_the_published_size_of_a_4_bit_checkpoint():
    """TheBloke/Llama-2-7B-AWQ and -GPTQ (group 128) on the Hugging Face hub: 3.89 and 3.90 GB."""
    held = weights_bytes(load_config("llama-2-7b"), Deployment(weight_dtype="int4"))
    assert held == pytest.approx(3.895e9, rel=0.01)


def test_devices_share_matrices_and_heads_but_not_norms():
    config = load_config("llama-3-70b")
    alone, shared = Deployment(), Deployment(tensor_parallel=8)
    norms = 2 * parameters(config)["norm"]
    whole, part = weights_bytes(config, alone), weights_bytes(config, shared)
    assert part == (whole - norms) / 8 + norms
    caches = [footprint(config, one, 4096).cache_bytes for one in (alone, shared)]
    assert caches[0] == 8 * caches[1]


@pytest.mark.parametrize(("ways", "share"), [(1, 1), (2, 1), (4, 1), (8, 1)])
def test_one_key_value_head_is_held_by_every_device(ways, share):
    assert kv_share(load_config("starcoder"), ways) == share


def test_fewer_heads_than_devices_are_held_more_than_once():
    config = load_config("llama-3-8b")  # 8 key-value heads
    assert kv_share(config, 16) == 1 / 8
    one, two = (footprint(config, Deployment(tensor_parallel=n), 8192).cache_bytes for n in (8, 16))
    assert one == two


def test_a_hybrid_splits_states_and_shares_heads():
    config = load_config("tiny-hybrid")
    assert config.attention is not None
    ways = 2
    assert splits(config, ways)
    whole, part = (
        footprint(config, Deployment(tensor_parallel=n), 640).cache_bytes for n in (1, ways)
    )
    assert part == pytest.approx(whole / 2)


@pytest.mark.parametrize(
    ("name", "ways", "said"),
    [
        ("falcon-7b", 8, r"71 heads.*nearest valid: 1$"),
        ("qwen2.5-7b", 8, r"28 heads.*nearest valid: 4$"),
        ("llama-3-8b", 3, r"32 heads.*nearest valid: 2 or 4$"),
        ("mamba2-2.7b", 3, r"80 Mamba heads.*nearest valid: 2 or 4$"),
    ],
)
def test_what_cannot_be_split_is_told_the_nearest(name, ways, said):
    with pytest.raises(BadDeployment, match=said):
        footprint(load_config(name), Deployment(tensor_parallel=ways), 1)


@pytest.mark.parametrize("name", TINY)
@given(ways=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_the_nearest_ways_said_are_valid(name, ways):
    config = load_config(name)
    try:
        check(config, Deployment(tensor_parallel=ways))
        assert splits(config, ways)
    except BadDeployment as error:
        said = str(error).rpartition("nearest valid: ")[2]
        assert all(splits(config, int(n)) for n in said.split(" or "))


def test_activations_follow_their_formula():
    config = load_config("llama-2-7b")
    # swiglu's gate, up and product are the widest; 2048 tokens in 16 bits, logits of 4 sequences.
    expected = 2048 * (2 * 4096 + 3 * 11008) * 2 + 4 * 32000 * 4
    assert activations_bytes(config, Deployment(batch_size=4)) == expected
    shared = activations_bytes(config, Deployment(batch_size=4, tensor_parallel=4))
    assert shared == 2048 * (2 * 4096 + 3 * 11008 // 4) * 2 + 4 * 32000 * 4


def fits(config, deployment, memory, context):
    free = memory - reserve_bytes(deployment, memory)
    return footprint(config, deployment, context).total_bytes <= free


@pytest.mark.parametrize("name", TINY)
@given(
    memory=st.integers(1, 200) | st.integers(200, 3000),
    dtype=st.sampled_from(WEIGHT_DTYPES),
    kv=st.sampled_from(["auto", "int8"]),
    batch=st.integers(1, 5),
    page=st.sampled_from([1, 16, 100]),
)
@settings(max_examples=25, deadline=None)
def test_the_longest_context_fits_and_one_token_more_does_not(name, memory, dtype, kv, batch, page):
    config = load_config(name)
    most = 20_000
    deployment = Deployment(
        weight_dtype=dtype, kv_dtype=kv, batch_size=batch, page_size=page, prefill_chunk=64
    )
    longest = longest_context(config, deployment, memory * 2**20 // 20, most)
    if config.attention is not None and config.attention.position == "learned":
        most = min(most, config.max_positions)
    assert 0 <= longest <= most
    held = memory * 2**20 // 20
    if longest:
        # Behind a window pages come and go: all of the last contexts fit.
        assert all(
            fits(config, deployment, held, n) for n in range(max(1, longest - page), longest + 1)
        )
    if longest < most:
        assert not fits(config, deployment, held, longest + 1)


def test_a_prefill_call_holds_more_than_its_window():
    """Mistral-7B, 128 KiB a token: a window of 4096 and a call of 2048 tokens, and a page more for
    borders; what stays is the window."""
    held = footprint(load_config("mistral-7b"), Deployment(), 32768)
    assert held.cache_bytes == 512 * 2**20
    assert held.cache_bytes + held.prefill_cache_bytes == (4096 + 2048 + 16) * 128 * 1024
    assert footprint(load_config("mistral-7b"), Deployment(), 4096).prefill_cache_bytes == 0
    assert footprint(load_config("llama-3-8b"), Deployment(), 32768).prefill_cache_bytes == 0


@given(
    context=st.integers(1, 30_000), chunk=st.integers(1, 5000), page=st.sampled_from([1, 16, 64])
)
@settings(max_examples=60, deadline=None)
def test_one_sequence_behind_a_window_takes_the_pages_of_its_fullest_moment(context, chunk, page):
    config = load_config("mistral-7b")
    deployment = Deployment(prefill_chunk=chunk, page_size=page)
    held = footprint(config, deployment, context)
    most = pages_needed(context, min(chunk, context), page, 4096) * page * 128 * 1024
    assert held.cache_bytes + held.prefill_cache_bytes == most


def test_sequences_of_one_call_share_its_tokens():
    config = load_config("mistral-7b")
    one, eight = (
        footprint(config, Deployment(batch_size=n), 32768).prefill_cache_bytes for n in (1, 8)
    )
    assert one == eight


def test_states_in_16_bits_take_half_the_room():
    config = load_config("mamba-2.8b")
    values = 64 * 5120 * 16
    wide, narrow = (state_bytes(config, Deployment(state_dtype=k)) for k in ("float32", "auto"))
    assert wide - narrow == 2 * values
    held = [
        largest_batch(config, Deployment(state_dtype=kind), 24 * GB, 1)
        for kind in ("float32", "auto")
    ]
    assert held[1] > 1.5 * held[0]


@pytest.mark.parametrize(
    ("name", "batch", "memory", "part"),
    [
        ("falcon-180b", 1, 80, "weights"),
        ("llama-3-8b", 1, 18, "activations"),
        ("rwkv7-7.2b", 4096, 24, "states"),
        ("llama-3-8b", 1 << 12, 24, "cache"),
        ("llama-3-8b", 1, 24, None),
    ],
)
def test_the_part_that_is_too_much_is_named(name, batch, memory, part):
    config = load_config(name)
    # Of 18 GB 16.2 are free: the weights are 16.06, a call of 2048 tokens takes 0.2.
    found = what_is_too_large(config, Deployment(batch_size=batch), memory * GB)
    assert (found and found[0]) == part
    if found:
        assert found[1] > 0.9 * memory * GB


def test_a_window_lets_any_context_in_once_it_fits():
    config, deployment = load_config("mistral-7b"), Deployment()
    assert longest_context(config, deployment, 24 * GB, 1 << 20) == 1 << 20
    # With less, the window never fills.
    assert 0 < longest_context(config, deployment, int(16.75 * GB), 1 << 20) < 4096


def test_learned_positions_are_a_hard_end():
    assert longest_context(load_config("gpt2"), Deployment(), 80 * GB) == 1024


def test_nothing_fits_where_the_weights_do_not():
    assert longest_context(load_config("falcon-180b"), Deployment(), 80 * GB) == 0
    assert largest_batch(load_config("falcon-180b"), Deployment(), 80 * GB, 1) == 0


def test_the_largest_batch_fits_and_one_more_does_not():
    config, memory = load_config("llama-3-8b"), 80 * GB
    batch = largest_batch(config, Deployment(), memory, 8192)
    assert fits(config, Deployment(batch_size=batch), memory, 8192)
    assert not fits(config, Deployment(batch_size=batch + 1), memory, 8192)
    assert largest_batch(config, Deployment(), memory, 8192, at_most=7) == 7
