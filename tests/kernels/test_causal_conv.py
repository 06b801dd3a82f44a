from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep_kernels.causal_conv import causal_conv1d
from ctxsweep_kernels.causal_conv.cpu import SEGMENT
from ctxsweep_kernels.causal_conv.reference import causal_conv1d_reference
from ctxsweep_kernels.testing.recurrences import (
    Recurrence,
    assert_within_budget,
    check_batch,
    check_memory,
    check_oracle,
    check_split,
    check_strided,
)


def with_activation(activation: str | None) -> Recurrence:
    def reference(**inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return causal_conv1d_reference(**inputs, activation=activation)

    def op(**inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return causal_conv1d(**inputs, activation=activation)

    return Recurrence(op, reference, ("x",))


CONV, CONV_SILU = with_activation(None), with_activation("silu")


def make_inputs(
    tokens: int, batch: int = 2, channels: int = 12, taps: int = 4
) -> dict[str, torch.Tensor]:
    torch.manual_seed(tokens)
    return {
        "x": torch.randn(batch, tokens, channels),
        "weight": torch.randn(channels, taps),
        "bias": torch.randn(channels),
        "state": torch.randn(batch, taps - 1, channels),
    }


@pytest.mark.parametrize("conv", [CONV, CONV_SILU])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 31, 500, SEGMENT + 2, SEGMENT + 3, SEGMENT + 4])
def test_every_length_matches_the_token_loop(conv: Recurrence, tokens: int) -> None:
    check_oracle(conv, make_inputs(tokens))


@pytest.mark.parametrize("tokens", [1, 2, 5, 50])
@pytest.mark.parametrize("taps", [2, 3, 7])
def test_any_number_of_taps(taps: int, tokens: int) -> None:
    check_oracle(CONV_SILU, make_inputs(tokens, taps=taps))


@pytest.mark.parametrize("tokens", [1, 50])
def test_one_tap_needs_no_state(tokens: int) -> None:
    inputs = make_inputs(tokens, taps=1)
    y, state = causal_conv1d(**inputs)
    torch.testing.assert_close(y, inputs["x"] * inputs["weight"][:, 0] + inputs["bias"])
    assert state.shape == (2, 0, 12)


@pytest.mark.parametrize("tokens", [1, 50])
def test_without_bias(tokens: int) -> None:
    inputs = make_inputs(tokens)
    conv = Recurrence(
        lambda **given: causal_conv1d(bias=None, **given),
        lambda **given: causal_conv1d_reference(bias=None, **given),
        ("x",),
    )
    del inputs["bias"]
    check_oracle(conv, inputs)


def test_the_library_convolution_agrees() -> None:
    inputs = {name: t.double() for name, t in make_inputs(100).items()}
    padded = torch.cat((inputs["state"], inputs["x"]), dim=1).mT
    exact = F.conv1d(padded, inputs["weight"][:, None], inputs["bias"], groups=12).mT
    plain, _ = CONV.reference(**make_inputs(100))
    assert_within_budget(CONV.op(**make_inputs(100))[0], exact, plain)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 39), unique=True, min_size=1, max_size=10))
def test_any_split_with_the_state_carried_is_the_whole(cuts: list[int]) -> None:
    check_split(CONV_SILU, make_inputs(40), cuts)


@pytest.mark.parametrize("tokens", [1, 2, 50])
def test_a_batch_is_its_rows(tokens: int) -> None:
    check_batch(CONV_SILU, make_inputs(tokens, batch=4))


@pytest.mark.parametrize("tokens", [1, 2, 50])
def test_views_with_strides(tokens: int) -> None:
    check_strided(CONV_SILU, make_inputs(tokens))


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 2, 50])
def test_bfloat16_inputs_are_summed_in_float32(tokens: int, state_dtype: torch.dtype) -> None:
    inputs = CONV_SILU.narrowed(make_inputs(tokens, taps=200), torch.bfloat16)
    check_oracle(CONV_SILU, inputs | {"state": inputs["state"].to(state_dtype)})


def test_memory_stays_that_of_the_output() -> None:
    check_memory(CONV_SILU, CONV_SILU.narrowed(make_inputs(8192, batch=1), torch.bfloat16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(2, 12)}, r"x must be \[B, T, C\], got shape \[2, 12\]"),
        ({"weight": torch.ones(4, 12)}, r"weight must be \[C, K\] = \[12, 12\], got .*\[4, 12\]"),
        ({"bias": torch.ones(4)}, r"bias must be \[C\] = \[12\]"),
        ({"state": torch.ones(2, 4, 12)}, r"state must be \[B, K - 1, C\] = \[2, 3, 12\]"),
        ({"activation": "relu"}, "activation must be 'silu' or None, got 'relu'"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**{**make_inputs(10), **change})
