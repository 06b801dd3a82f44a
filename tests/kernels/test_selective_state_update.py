from __future__ import annotations

import pytest
import torch

from ctxsweep_kernels.selective_scan import selective_scan
from ctxsweep_kernels.selective_state_update import selective_state_update
from ctxsweep_kernels.selective_state_update.reference import selective_state_update_reference
from ctxsweep_kernels.ssd import ssd_chunk_scan
from ctxsweep_kernels.testing.recurrences import assert_within_budget

PARAMETERS = ("state", "A", "D")


def mamba1(batch: int = 3, Dm: int = 24, N: int = 8) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "state": torch.randn(batch, Dm, N),
        "x": torch.randn(batch, Dm),
        "dt": torch.rand(batch, Dm),
        "A": -torch.rand(Dm, N),
        "B": torch.randn(batch, N),
        "C": torch.randn(batch, N),
        "D": torch.randn(Dm),
    }


def mamba2(batch: int = 3, H: int = 4, groups: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return {
        "state": torch.randn(batch, H, 16, 8),
        "x": torch.randn(batch, H, 16),
        "dt": torch.rand(batch, H),
        "A": -torch.rand(H),
        "B": torch.randn(batch, groups, 8),
        "C": torch.randn(batch, groups, 8),
        "D": torch.randn(H),
    }


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [mamba1, mamba2])
def test_one_step_matches_the_oracle(make, dtype: torch.dtype, skip: bool) -> None:
    inputs = {n: t if n in PARAMETERS else t.to(dtype) for n, t in make().items()}
    if not skip:
        del inputs["D"]
    oracle = selective_state_update_reference(**{n: t.double() for n, t in inputs.items()})
    plain = selective_state_update_reference(**{n: t.float() for n, t in inputs.items()})
    y, state = selective_state_update(**inputs)
    assert y.dtype == dtype
    assert state is inputs["state"], "the step is documented to change the state in place"
    assert_within_budget(y, oracle[0], plain[0].to(dtype))
    assert_within_budget(state, oracle[1], plain[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [mamba1, mamba2])
def test_a_narrow_state_is_updated_in_float32(make, dtype: torch.dtype) -> None:
    inputs = make()
    inputs["state"] = inputs["state"].to(dtype)
    oracle = selective_state_update_reference(**{n: t.double() for n, t in inputs.items()})
    plain = selective_state_update_reference(**{n: t.float() for n, t in inputs.items()})
    y, state = selective_state_update(**inputs)
    assert state is inputs["state"] and state.dtype == dtype
    assert_within_budget(y, oracle[0], plain[0])
    assert_within_budget(state, oracle[1], plain[1])


@pytest.mark.parametrize(("make", "scan"), [(mamba1, selective_scan), (mamba2, ssd_chunk_scan)])
def test_steps_continue_a_scan(make, scan) -> None:
    inputs, tokens = make(), 9
    state, A, D = (inputs.pop(name) for name in PARAMETERS)
    sequence = [{n: torch.rand_like(t) for n, t in inputs.items()} for _ in range(tokens)]
    stacked = [torch.stack([s[n] for s in sequence], 1) for n in ("x", "dt", "B", "C")]
    x, dt, B, C = stacked
    y, last = scan(x, dt, A, B, C, state, D)
    for t, step in enumerate(sequence):
        y_t, state = selective_state_update(state, A=A, D=D, **step)
        torch.testing.assert_close(y_t, y[:, t], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (mamba1, {"state": torch.ones(24, 8)}, r"\[B, Dm, N\] \(Mamba-1\) or"),
        (mamba1, {"A": torch.ones(24)}, r"A must be \[Dm, N\], got shape \[24\]"),
        (mamba1, {"state": torch.ones(3, 8, 24).mT}, "must be contiguous"),
        (mamba2, {"x": torch.ones(3, 16, 4)}, r"x must be \[B, H, P\] = \[3, 4, 16\]"),
        (mamba2, {"B": torch.ones(3, 3, 8), "C": torch.ones(3, 3, 8)}, "3 groups do not divide"),
        (mamba2, {"state": torch.ones(3, 4, 16, 8).int()}, "state must be float32, bfloat16 or"),
    ],
)
def test_bad_arguments_are_named(make, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selective_state_update(**{**make(), **change})
