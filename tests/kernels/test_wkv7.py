from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep_kernels.testing.recurrences import (
    Recurrence,
    check_batch,
    check_memory,
    check_oracle,
    check_split,
    check_strided,
)
from ctxsweep_kernels.wkv7 import MAX_CHUNK, wkv7
from ctxsweep_kernels.wkv7.reference import wkv7_reference

STRONGEST = -0.6065  # the architecture's bound on a log decay, -exp(-1/2)
WKV7 = Recurrence(wkv7, wkv7_reference, ("r", "log_w", "k", "v", "a", "b"))


def make_inputs(
    tokens: int, batch: int = 2, heads: int = 3, K: int = 16, V: int = 24
) -> dict[str, torch.Tensor]:
    torch.manual_seed(tokens)
    kappa = F.normalize(torch.randn(batch, tokens, heads, K), dim=-1)
    return {
        "r": torch.randn(batch, tokens, heads, K),
        "log_w": STRONGEST * torch.sigmoid(3 * torch.randn(batch, tokens, heads, K)),
        "k": torch.randn(batch, tokens, heads, K),
        "v": torch.randn(batch, tokens, heads, V),
        "a": -kappa,
        "b": kappa * torch.rand(batch, tokens, heads, K),
        "state": torch.randn(batch, heads, V, K),
    }


@pytest.mark.parametrize("tokens", [1, 2, 31, 64, 65, 500, 1000])
def test_every_length_matches_the_token_loop(tokens: int) -> None:
    check_oracle(WKV7, make_inputs(tokens))


@pytest.mark.parametrize("chunk", [1, 2, 16, 50, MAX_CHUNK])
def test_the_chunk_does_not_change_the_result(chunk: int) -> None:
    check_oracle(WKV7, make_inputs(200), chunk=chunk)


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize(("heads", "K", "V"), [(1, 16, 16), (1, 1, 8), (3, 8, 1)])
def test_dimensions_of_one(heads: int, K: int, V: int, tokens: int) -> None:
    check_oracle(WKV7, make_inputs(tokens, batch=1, heads=heads, K=K, V=V))


@pytest.mark.parametrize("chunk", [32, MAX_CHUNK])
@pytest.mark.parametrize("log_w", [STRONGEST, -1e-7, 0.0])
def test_the_ends_of_the_decay_range(log_w: float, chunk: int) -> None:
    inputs = make_inputs(300)
    check_oracle(WKV7, inputs | {"log_w": torch.full_like(inputs["r"], log_w)}, chunk=chunk)


def test_a_correction_that_erases_one_direction_again_and_again() -> None:
    inputs = make_inputs(300)
    kappa = F.normalize(torch.ones_like(inputs["a"]), dim=-1)
    check_oracle(WKV7, inputs | {"a": -kappa, "b": kappa})


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 299), unique=True, min_size=1, max_size=4))
def test_any_split_with_the_state_carried_is_the_whole(cuts: list[int]) -> None:
    check_split(WKV7, make_inputs(300), cuts)


@pytest.mark.parametrize("tokens", [1, 130])
def test_a_batch_is_its_rows(tokens: int) -> None:
    check_batch(WKV7, make_inputs(tokens, batch=4))


@pytest.mark.parametrize("tokens", [1, 130])
def test_views_with_strides(tokens: int) -> None:
    check_strided(WKV7, make_inputs(tokens))


@pytest.mark.parametrize("tokens", [1, 130])
def test_bfloat16_inputs_keep_a_float32_state(tokens: int) -> None:
    check_oracle(WKV7, WKV7.narrowed(make_inputs(tokens), torch.bfloat16))


def test_memory_does_not_grow_with_the_state_times_the_length() -> None:
    check_memory(WKV7, make_inputs(4096, batch=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": torch.ones(10, 3, 16)}, r"r must be \[B, T, H, K\], got shape \[10, 3, 16\]"),
        ({"log_w": torch.ones(2, 10, 3, 8)}, r"log_w must be \[B, T, H, K\] = \[2, 10, 3, 16\]"),
        ({"v": torch.ones(2, 11, 3, 24)}, r"v must be \[B, T, H, V\] = \[2, 10, 3, 24\]"),
        ({"state": torch.ones(2, 3, 16, 24)}, r"state must be \[B, H, V, K\] = \[2, 3, 24, 16\]"),
        ({"state": torch.ones(2, 3, 24, 16).bfloat16()}, "state must be float32"),
        ({"chunk": 0}, "chunk must be 1 to 64, got 0"),
        ({"chunk": 65}, "chunk must be 1 to 64, got 65"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wkv7(**{**make_inputs(10), **change})
