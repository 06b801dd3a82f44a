from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep_kernels.ssd import ssd_chunk_scan
from ctxsweep_kernels.ssd.reference import ssd_chunk_scan_reference
from ctxsweep_kernels.testing.recurrences import (
    Recurrence,
    check_batch,
    check_memory,
    check_oracle,
    check_split,
    check_strided,
)

SSD = Recurrence(ssd_chunk_scan, ssd_chunk_scan_reference, ("x", "dt", "B", "C"))


def make_inputs(
    tokens: int, batch: int = 2, heads: int = 4, groups: int = 2, P: int = 16, N: int = 8
) -> dict[str, torch.Tensor]:
    torch.manual_seed(tokens)
    return {
        "x": torch.randn(batch, tokens, heads, P),
        "dt": torch.rand(batch, tokens, heads) * 0.2 + 1e-3,
        "A": -torch.rand(heads) * 8 - 0.1,
        "B": torch.randn(batch, tokens, groups, N),
        "C": torch.randn(batch, tokens, groups, N),
        "state": torch.randn(batch, heads, P, N),
        "D": torch.randn(heads),
    }


@pytest.mark.parametrize("tokens", [1, 2, 31, 64, 65, 500, 1000])
def test_every_length_matches_the_token_loop(tokens: int) -> None:
    check_oracle(SSD, make_inputs(tokens))


@pytest.mark.parametrize("chunk", [1, 16, 64, 100, 512])
def test_the_chunk_does_not_change_the_result(chunk: int) -> None:
    check_oracle(SSD, make_inputs(200), chunk=chunk)


@pytest.mark.parametrize(("heads", "groups"), [(1, 1), (4, 1), (4, 4), (6, 3)])
@pytest.mark.parametrize("tokens", [1, 70])
def test_groups(heads: int, groups: int, tokens: int) -> None:
    check_oracle(SSD, make_inputs(tokens, heads=heads, groups=groups))


@pytest.mark.parametrize(("P", "N"), [(1, 8), (16, 1), (1, 1)])
@pytest.mark.parametrize("tokens", [1, 70])
def test_dimensions_of_one(P: int, N: int, tokens: int) -> None:
    check_oracle(SSD, make_inputs(tokens, batch=1, heads=1, groups=1, P=P, N=N))


@pytest.mark.parametrize("rate", [1e-7, 1.0, 1e4])
def test_decay_from_almost_none_to_instant(rate: float) -> None:
    inputs = make_inputs(300)
    check_oracle(SSD, inputs | {"A": -rate * (torch.rand(4) + 0.5)})


def test_without_skip() -> None:
    inputs = make_inputs(70)
    del inputs["D"]
    check_oracle(SSD, inputs)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 299), unique=True, min_size=1, max_size=4))
def test_any_split_with_the_state_carried_is_the_whole(cuts: list[int]) -> None:
    check_split(SSD, make_inputs(300), cuts)


@pytest.mark.parametrize("tokens", [1, 130])
def test_a_batch_is_its_rows(tokens: int) -> None:
    check_batch(SSD, make_inputs(tokens, batch=4))


@pytest.mark.parametrize("tokens", [1, 130])
def test_views_with_strides(tokens: int) -> None:
    check_strided(SSD, make_inputs(tokens))


@pytest.mark.parametrize("tokens", [1, 130])
def test_bfloat16_inputs_keep_a_float32_state(tokens: int) -> None:
    check_oracle(SSD, SSD.narrowed(make_inputs(tokens), torch.bfloat16))


def test_memory_does_not_grow_with_the_state_times_the_length() -> None:
    check_memory(SSD, make_inputs(4096, batch=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(2, 10, 4)}, r"x must be \[B, T, H, P\], got shape \[2, 10, 4\]"),
        ({"dt": torch.ones(2, 9, 4)}, r"dt must be \[B, T, H\] = \[2, 10, 4\], got .*9"),
        ({"A": torch.ones(3)}, r"A must be \[H\] = \[4\], got shape \[3\]"),
        ({"C": torch.ones(2, 10, 2, 7)}, r"C must be \[B, T, G, N\] = \[2, 10, 2, 8\]"),
        ({"state": torch.ones(2, 4, 8, 16)}, r"state must be \[B, H, P, N\]"),
        ({"state": torch.ones(2, 4, 16, 8).bfloat16()}, "state must be float32"),
        ({"D": torch.ones(4, 16)}, r"D must be \[H\]"),
        ({"B": torch.ones(2, 10, 3, 8), "C": torch.ones(2, 10, 3, 8)}, "3 groups do not divide 4"),
        ({"x": torch.ones(2, 0, 4, 16)}, "x .* is empty"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"impl": "cuda"}, "impl='cuda' is unknown"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ssd_chunk_scan(**{**make_inputs(10), **change})
