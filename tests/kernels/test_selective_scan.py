from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep_kernels.selective_scan import selective_scan
from ctxsweep_kernels.selective_scan.reference import selective_scan_reference
from ctxsweep_kernels.testing.recurrences import (
    Recurrence,
    check_batch,
    check_memory,
    check_oracle,
    check_split,
    check_strided,
)

SCAN = Recurrence(selective_scan, selective_scan_reference, ("u", "dt", "B", "C"))


def make_inputs(tokens: int, batch: int = 2, Dm: int = 24, N: int = 8) -> dict[str, torch.Tensor]:
    torch.manual_seed(tokens)
    return {
        "u": torch.randn(batch, tokens, Dm),
        "dt": torch.rand(batch, tokens, Dm) * 0.2 + 1e-3,
        "A": -torch.rand(Dm, N) * 8 - 0.1,
        "B": torch.randn(batch, tokens, N),
        "C": torch.randn(batch, tokens, N),
        "state": torch.randn(batch, Dm, N),
        "D": torch.randn(Dm),
    }


@pytest.mark.parametrize("tokens", [1, 2, 31, 64, 65, 500, 1000])
def test_every_length_matches_the_token_loop(tokens: int) -> None:
    check_oracle(SCAN, make_inputs(tokens))


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize(("Dm", "N"), [(1, 8), (24, 1), (1, 1)])
def test_dimensions_of_one(Dm: int, N: int, tokens: int) -> None:
    check_oracle(SCAN, make_inputs(tokens, batch=1, Dm=Dm, N=N))


def test_a_state_too_large_for_a_long_segment() -> None:
    check_oracle(SCAN, make_inputs(40, batch=3, Dm=2048, N=16))


@pytest.mark.parametrize("rate", [1e-7, 1.0, 1e4])
def test_decay_from_almost_none_to_instant(rate: float) -> None:
    inputs = make_inputs(300)
    check_oracle(SCAN, inputs | {"A": -rate * (torch.rand(24, 8) + 0.5)})


def test_without_skip() -> None:
    inputs = make_inputs(70)
    del inputs["D"]
    check_oracle(SCAN, inputs)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 299), unique=True, min_size=1, max_size=4))
def test_any_split_with_the_state_carried_is_the_whole(cuts: list[int]) -> None:
    check_split(SCAN, make_inputs(300), cuts)


@pytest.mark.parametrize("tokens", [1, 130])
def test_a_batch_is_its_rows(tokens: int) -> None:
    check_batch(SCAN, make_inputs(tokens, batch=4))


@pytest.mark.parametrize("tokens", [1, 130])
def test_views_with_strides(tokens: int) -> None:
    check_strided(SCAN, make_inputs(tokens))


@pytest.mark.parametrize("tokens", [1, 130])
def test_bfloat16_inputs_keep_a_float32_state(tokens: int) -> None:
    check_oracle(SCAN, SCAN.narrowed(make_inputs(tokens), torch.bfloat16))


def test_memory_does_not_grow_with_the_state_times_the_length() -> None:
    check_memory(SCAN, make_inputs(4096, batch=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.ones(2, 24)}, r"u must be \[B, T, Dm\], got shape \[2, 24\]"),
        ({"dt": torch.ones(2, 10, 23)}, r"dt must be \[B, T, Dm\] = \[2, 10, 24\]"),
        ({"A": torch.ones(8, 24)}, r"A must be \[Dm, N\]"),
        ({"C": torch.ones(2, 10, 7)}, r"C must be \[B, T, N\] = \[2, 10, 8\]"),
        ({"state": torch.ones(1, 24, 8)}, r"state must be \[B, Dm, N\] = \[2, 24, 8\]"),
        ({"state": torch.ones(2, 24, 8).half()}, "state must be float32"),
        ({"D": torch.ones(8)}, r"D must be \[Dm\] = \[24\]"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**make_inputs(10), **change})
