"""Bounds: their arithmetic by hand, sums over calls, what limits them, and what they never do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep.models.accounting import Storage
from ctxsweep.models.catalog import load_config
from ctxsweep.planning.demand import prefill_demand
from ctxsweep.planning.deployment import Deployment, splits
from ctxsweep.planning.devices import device
from ctxsweep.planning.roofline import decode_bound, predict, prefill_bound, rates

H100 = device("H100")
SHOWN = ("llama-3-8b", "mistral-7b", "mixtral-8x7b", "mamba-2.8b", "rwkv7-2.9b", "tiny-hybrid")


def test_decode_by_hand():
    """Llama-2-7B, 16 bits, 1000 tokens held: every matrix and the head, one row of the embedding,
    the norms, and the keys and values of 1000 tokens read and one written."""
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    moved = 2 * (matrices + 4096 + 65 * 4096) + 1001 * 2 * 32 * 4096 * 2
    flops = 2 * matrices + 4 * 32 * 4096 * 1001
    bound = decode_bound(load_config("llama-2-7b"), Deployment(), H100, 1000)
    assert bound.parts["memory bandwidth"] == pytest.approx(moved / 3.35e12, rel=1e-9)
    assert bound.parts["arithmetic"] == pytest.approx(flops / 989.4e12, rel=1e-9)
    assert bound.seconds == bound.parts["memory bandwidth"]
    assert bound.limited_by == "memory bandwidth"


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize(
    ("context", "chunk"), [(1, 2048), (2048, 2048), (5000, 512), (70_001, 2048)]
)
def test_a_prefills_parts_add_up_over_its_calls(name, context, chunk):
    config, deployment = load_config(name), Deployment(prefill_chunk=chunk)
    bound = prefill_bound(config, deployment, H100, context)
    asked = prefill_demand(config, Storage("bfloat16", "auto", 16), context, 1, min(chunk, context))
    assert bound.parts["arithmetic"] == pytest.approx(asked.flops / 989.4e12, rel=1e-6)
    assert bound.parts["memory bandwidth"] == pytest.approx(asked.bytes / 3.35e12, rel=1e-6)
    assert max(bound.parts.values()) <= bound.seconds * (1 + 1e-9)
    assert bound.seconds <= sum(bound.parts.values())
    assert bound.parts[bound.limited_by] == max(bound.parts.values())


def test_sequences_longer_than_a_call_are_read_one_after_another():
    config = load_config("llama-3-8b")
    one, four = (
        prefill_bound(config, Deployment(batch_size=n), H100, 8192).seconds for n in (1, 4)
    )
    assert four == pytest.approx(4 * one)


def test_short_sequences_share_calls():
    config = load_config("llama-3-8b")
    one, eight = (prefill_bound(config, Deployment(batch_size=n), H100, 16).seconds for n in (1, 8))
    assert eight < 1.1 * one  # limited by the weights, which are read once for all


@pytest.mark.parametrize(
    ("dtype", "on", "matrices", "others"),
    [
        ("bfloat16", "H100", 989.4e12, 989.4e12),
        ("float32", "H100", 66.9e12, 66.9e12),
        ("int8", "H100", 1978.9e12, 989.4e12),
        ("int8", "V100", 125e12, 125e12),
        ("int4", "A100", 312e12, 312e12),
        ("fp8", "H100", 1978.9e12, 989.4e12),
        ("fp8", "A100", 312e12, 312e12),
        ("bfloat16", "T4", 65e12, 65e12),
        ("int4", "V100", 125e12, 125e12),
    ],
)
def test_rates(dtype, on, matrices, others):
    assert rates(Deployment(weight_dtype=dtype), device(on)) == (matrices, others)


def test_states_in_16_bits_move_half_of_what_float32_moves():
    config = load_config("mamba-2.8b")
    wide, narrow = (
        decode_bound(config, Deployment(state_dtype=kind, batch_size=64), H100, 1)
        for kind in ("float32", "auto")
    )
    saved = wide.parts["memory bandwidth"] - narrow.parts["memory bandwidth"]
    # 64 layers × 5120 channels × 16 values, read and written, 2 bytes each instead of 4.
    assert saved == pytest.approx(64 * 2 * 2 * 64 * 5120 * 16 / 3.35e12)
    llama = load_config("llama-3-8b")
    kinds = [Deployment(state_dtype=kind) for kind in ("float32", "auto")]
    assert len({decode_bound(llama, one, H100, 1000).seconds for one in kinds}) == 1


@pytest.mark.parametrize("name", ["llama-3-8b", "mistral-7b", "tiny-swa"])
@pytest.mark.parametrize(("context", "chunk"), [(1, 7), (700, 7), (700, 64), (20_000, 96)])
def test_calls_are_those_of_the_accounting(name, context, chunk):
    config = load_config(name)
    bound = prefill_bound(config, Deployment(prefill_chunk=chunk), H100, context)
    asked = prefill_demand(config, Storage("bfloat16", "auto", 16), context, 1, min(chunk, context))
    assert bound.parts["arithmetic"] == pytest.approx(asked.flops / 989.4e12, rel=1e-9)
    assert bound.parts["memory bandwidth"] == pytest.approx(asked.bytes / 3.35e12, rel=1e-9)


def test_links_limit_where_they_are_slow():
    config = load_config("llama-3-70b")
    near = prefill_bound(config, Deployment(tensor_parallel=4), H100, 4096)
    far = prefill_bound(config, Deployment(tensor_parallel=4), device("L40S"), 4096)
    assert near.limited_by == "arithmetic" and far.limited_by == "interconnect"
    # Two all-reduces a layer over 4096 tokens in 16 bits, each sent 2·(4 − 1)/4 times over.
    sent = 80 * 2 * 4096 * 8192 * 2 * 1.5
    assert far.parts["interconnect"] == pytest.approx(sent / 32e9)


def test_a_device_without_a_figure_of_its_links_leaves_them_out():
    lone = H100.model_copy(update={"link_bytes_per_s": None})
    bound = decode_bound(load_config("llama-3-8b"), Deployment(tensor_parallel=2), lone, 100)
    assert set(bound.parts) == {"arithmetic", "memory bandwidth"}


def test_energy_is_the_full_boards_power_over_the_time():
    config = load_config("llama-3-8b")
    found = predict(config, Deployment(batch_size=4, tensor_parallel=2), H100, 4096)
    assert found.energy_j_per_token == pytest.approx(2 * 700 * found.decode.seconds / 4)
    assert found.prefill_energy_j == pytest.approx(2 * 700 * found.prefill.seconds)
    unknown = H100.model_copy(update={"board_power_w": None})
    assert predict(config, Deployment(), unknown, 4096).energy_j_per_token is None


@pytest.mark.parametrize("name", [*SHOWN, "gpt2", "starcoder", "tiny-retnet", "jamba-v0.1"])
@given(
    context=st.integers(1, 60_000),
    batch=st.integers(1, 40),
    dtype=st.sampled_from(["bfloat16", "int4"]),
    ways=st.sampled_from([1, 2, 8]),
)
@settings(max_examples=6, deadline=None)
def test_more_never_takes_less(name, context, batch, dtype, ways):
    config = load_config(name)
    ways = ways if splits(config, ways) else 1
    less = Deployment(batch_size=batch, weight_dtype=dtype, tensor_parallel=ways)
    more = less.model_copy(update={"batch_size": batch + 1})
    steps = [
        decode_bound(config, d, H100, n).seconds for d, n in ((less, context), (more, context))
    ]
    assert 0 < steps[0] <= steps[1]
    assert steps[0] <= decode_bound(config, less, H100, context + 100).seconds
    reads = [prefill_bound(config, less, H100, n).seconds for n in (context, context + 2048)]
    assert 0 < reads[0] < reads[1]
    assert prefill_bound(config, less, H100, context).seconds <= 1.0001 * (
        prefill_bound(config, more, H100, context).seconds
    )
