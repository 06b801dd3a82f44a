from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep_kernels.dispatch import UnsupportedImplementation
from ctxsweep_kernels.testing.recurrences import (
    Recurrence,
    check_batch,
    check_memory,
    check_oracle,
    check_split,
    check_strided,
)
from ctxsweep_kernels.wkv6 import wkv6
from ctxsweep_kernels.wkv6.reference import wkv6_reference

WKV6 = Recurrence(wkv6, wkv6_reference, ("r", "log_w", "k", "v"))


def make_inputs(
    tokens: int, batch: int = 2, heads: int = 3, K: int = 16, V: int = 24
) -> dict[str, torch.Tensor]:
    """Decays from those that remember a thousand tokens to those that leave 1e-20 of the last."""
    torch.manual_seed(tokens)
    sequence = (batch, tokens, heads, K)
    return {
        "r": torch.randn(sequence),
        "log_w": -torch.exp(3 * torch.randn(sequence) - 2),
        "k": torch.randn(sequence),
        "v": torch.randn(batch, tokens, heads, V),
        "u": torch.randn(heads, K),
        "state": torch.randn(batch, heads, K, V),
    }


@pytest.mark.parametrize("tokens", [1, 2, 3, 31, 64, 65, 127, 500, 1000])
def test_every_length_matches_the_token_loop(tokens: int) -> None:
    check_oracle(WKV6, make_inputs(tokens))


@pytest.mark.parametrize("chunk", [1, 2, 16, 128, 512])
def test_the_chunk_does_not_change_the_result(chunk: int) -> None:
    check_oracle(WKV6, make_inputs(200), chunk=chunk)


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize(("heads", "K", "V"), [(1, 16, 16), (1, 1, 8), (3, 8, 1)])
def test_dimensions_of_one(heads: int, K: int, V: int, tokens: int) -> None:
    check_oracle(WKV6, make_inputs(tokens, batch=1, heads=heads, K=K, V=V))


@pytest.mark.parametrize("tokens", [1, 300])
@pytest.mark.parametrize("log_w", [-float("inf"), -1e4, -80.0, -1.4, -1e-7, 0.0])
def test_any_decay_from_all_to_nothing(log_w: float, tokens: int) -> None:
    """Also where a chunk's whole decay is far below the smallest float32."""
    inputs = make_inputs(tokens)
    check_oracle(WKV6, inputs | {"log_w": torch.full_like(inputs["r"], log_w)})


def test_a_channel_that_forgets_all_at_once_beside_channels_that_forget_nothing() -> None:
    inputs = make_inputs(300)
    log_w = torch.zeros_like(inputs["r"])
    log_w[:, ::7, :, ::2] = -float("inf")
    log_w[:, 3::11, :, 1::2] = -50.0
    check_oracle(WKV6, inputs | {"log_w": log_w})


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 299), unique=True, min_size=1, max_size=4))
def test_any_split_with_the_state_carried_is_the_whole(cuts: list[int]) -> None:
    check_split(WKV6, make_inputs(300), cuts)


@pytest.mark.parametrize("tokens", [1, 130])
def test_a_batch_is_its_rows(tokens: int) -> None:
    check_batch(WKV6, make_inputs(tokens, batch=4))


@pytest.mark.parametrize("tokens", [1, 130])
def test_views_with_strides(tokens: int) -> None:
    check_strided(WKV6, make_inputs(tokens))


@pytest.mark.parametrize("tokens", [1, 130])
def test_bfloat16_inputs_keep_a_float32_state(tokens: int) -> None:
    check_oracle(WKV6, WKV6.narrowed(make_inputs(tokens), torch.bfloat16))


def test_memory_does_not_grow_with_the_state_times_the_length() -> None:
    check_memory(WKV6, make_inputs(4096, batch=1))


@pytest.mark.parametrize("tokens", [1, 70])
def test_a_state_can_be_advanced_in_place(tokens: int) -> None:
    inputs = make_inputs(tokens)
    y, advanced = wkv6(**inputs)
    again, same = wkv6(**inputs, in_place=True)
    assert same is inputs["state"]
    assert torch.equal(again, y)
    assert torch.equal(same, advanced)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": torch.ones(10, 3, 16)}, r"r must be \[B, T, H, K\], got shape \[10, 3, 16\]"),
        ({"log_w": torch.ones(2, 10, 3, 8)}, r"log_w must be \[B, T, H, K\] = \[2, 10, 3, 16\]"),
        ({"v": torch.ones(2, 11, 3, 24)}, r"v must be \[B, T, H, V\] = \[2, 10, 3, 24\]"),
        ({"u": torch.ones(16, 3)}, r"u must be \[H, K\] = \[3, 16\]"),
        ({"state": torch.ones(2, 3, 24, 16)}, r"state must be \[B, H, K, V\] = \[2, 3, 16, 24\]"),
        ({"state": torch.ones(2, 3, 16, 24).bfloat16()}, "state must be float32"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"chunk": 48}, "chunk must be a power of two, got 48"),
        ({"state": torch.ones(2, 3, 24, 16).mT, "in_place": True}, "must be contiguous"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wkv6(**{**make_inputs(10), **change})


def test_a_kernel_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnsupportedImplementation, match="no Triton kernel; use impl='torch'"):
        wkv6(**make_inputs(10), impl="triton")
