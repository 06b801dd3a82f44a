from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep_kernels.retention import retention
from ctxsweep_kernels.retention.reference import retention_parallel, retention_reference
from ctxsweep_kernels.testing.recurrences import (
    Recurrence,
    assert_within_budget,
    check_batch,
    check_memory,
    check_oracle,
    check_split,
    check_strided,
)

RETENTION = Recurrence(retention, retention_reference, ("q", "k", "v"))


def make_inputs(
    tokens: int, batch: int = 2, heads: int = 3, K: int = 16, V: int = 24
) -> dict[str, torch.Tensor]:
    torch.manual_seed(tokens)
    return {
        "q": torch.randn(batch, tokens, heads, K),
        "k": torch.randn(batch, tokens, heads, K) * K**-0.5,
        "v": torch.randn(batch, tokens, heads, V),
        "log_gamma": torch.log1p(-(2.0 ** (-5 - torch.arange(heads)))),  # the paper's decays
        "state": torch.randn(batch, heads, K, V),
    }


@pytest.mark.parametrize("tokens", [1, 2, 31, 64, 65, 500, 1000])
def test_every_length_matches_the_token_loop(tokens: int) -> None:
    check_oracle(RETENTION, make_inputs(tokens))


@pytest.mark.parametrize("tokens", [1, 31, 65, 500])
def test_chunked_is_the_parallel_form(tokens: int) -> None:
    inputs = make_inputs(tokens)
    inputs["state"].zero_()
    sequences = {name: inputs[name] for name in ("q", "k", "v", "log_gamma")}
    exact = retention_parallel(**{name: t.double() for name, t in sequences.items()})
    y, _ = retention(**inputs)
    assert_within_budget(y, exact, retention_parallel(**sequences))


@pytest.mark.parametrize("chunk", [1, 2, 16, 50, 256])
def test_the_chunk_does_not_change_the_result(chunk: int) -> None:
    check_oracle(RETENTION, make_inputs(200), chunk=chunk)


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize(("heads", "K", "V"), [(1, 16, 16), (1, 1, 8), (3, 8, 1)])
def test_dimensions_of_one(heads: int, K: int, V: int, tokens: int) -> None:
    check_oracle(RETENTION, make_inputs(tokens, batch=1, heads=heads, K=K, V=V))


@pytest.mark.parametrize("log_gamma", [-100.0, -1.0, -1e-7, 0.0])
def test_decay_from_instant_to_none(log_gamma: float) -> None:
    check_oracle(RETENTION, make_inputs(300) | {"log_gamma": torch.full((3,), log_gamma)})


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 299), unique=True, min_size=1, max_size=4))
def test_any_split_with_the_state_carried_is_the_whole(cuts: list[int]) -> None:
    check_split(RETENTION, make_inputs(300), cuts)


@pytest.mark.parametrize("tokens", [1, 130])
def test_a_batch_is_its_rows(tokens: int) -> None:
    check_batch(RETENTION, make_inputs(tokens, batch=4))


@pytest.mark.parametrize("tokens", [1, 130])
def test_views_with_strides(tokens: int) -> None:
    check_strided(RETENTION, make_inputs(tokens))


@pytest.mark.parametrize("tokens", [1, 130])
def test_bfloat16_inputs_keep_a_float32_state(tokens: int) -> None:
    check_oracle(RETENTION, RETENTION.narrowed(make_inputs(tokens), torch.bfloat16))


def test_memory_does_not_grow_with_the_state_times_the_length() -> None:
    check_memory(RETENTION, make_inputs(4096, batch=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.ones(10, 3, 16)}, r"q must be \[B, T, H, K\], got shape \[10, 3, 16\]"),
        ({"k": torch.ones(2, 10, 1, 16)}, r"k must be \[B, T, H, K\] = \[2, 10, 3, 16\]"),
        ({"v": torch.ones(2, 9, 3, 24)}, r"v must be \[B, T, H, V\] = \[2, 10, 3, 24\]"),
        ({"log_gamma": torch.ones(4)}, r"log_gamma must be \[H\] = \[3\], got shape \[4\]"),
        ({"state": torch.ones(2, 3, 24, 16)}, r"state must be \[B, H, K, V\] = \[2, 3, 16, 24\]"),
        ({"state": torch.ones(2, 3, 16, 24).bfloat16()}, "state must be float32"),
        ({"chunk": -1}, "chunk must be at least 1, got -1"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retention(**{**make_inputs(10), **change})
