"""mamba-ssm's own functions and kernels against ours: both start from a state and leave one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ctxsweep_kernels.selective_scan import selective_scan
from ctxsweep_kernels.selective_scan.reference import selective_scan_reference
from ctxsweep_kernels.selective_state_update import selective_state_update
from ctxsweep_kernels.ssd import ssd_chunk_scan
from ctxsweep_kernels.ssd.reference import ssd_chunk_scan_reference

pytestmark = pytest.mark.usefixtures("oracles")
BATCH, TOKENS, INNER, STATE = 2, 70, 48, 16
HEADS, HEAD_DIM = 4, 16
FLOAT32 = 2e-5
"""Of the largest value: sums of some hundred float32 terms in another order."""
FLOAT64 = 1e-12


def off(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


def drawn(dtype: torch.dtype = torch.float32, groups: int = 1) -> dict[str, Tensor]:
    """Inputs of Mamba-2's scan; ``raw`` and ``bias`` are what softplus makes ``dt`` of."""
    values = {
        "x": torch.randn(BATCH, TOKENS, HEADS, HEAD_DIM, dtype=dtype),
        "raw": torch.randn(BATCH, TOKENS, HEADS, dtype=dtype),
        "bias": torch.randn(HEADS, dtype=dtype) - 2,
        "A": -torch.rand(HEADS, dtype=dtype) - 0.1,
        "B": torch.randn(BATCH, TOKENS, groups, STATE, dtype=dtype),
        "C": torch.randn(BATCH, TOKENS, groups, STATE, dtype=dtype),
        "D": torch.randn(HEADS, dtype=dtype),
        "state": torch.randn(BATCH, HEADS, HEAD_DIM, STATE, dtype=dtype),
    }
    return values | {"dt": F.softplus(values["raw"] + values["bias"])}


def test_selective_scan_is_their_reference() -> None:
    """Mamba-1 from an empty state: their function takes no other; softplus and bias inside."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_ref

    u, raw = torch.randn(2, BATCH, TOKENS, INNER)
    bias, D = torch.randn(2, INNER)
    A = -torch.rand(INNER, STATE) * 4
    B, C = torch.randn(2, BATCH, TOKENS, STATE)
    flat = [t.transpose(1, 2) for t in (u, raw, B, C)]
    wanted, last = selective_scan_ref(
        flat[0], flat[1], A, *flat[2:], D, None, bias, delta_softplus=True, return_last_state=True
    )
    dt = F.softplus(raw + bias)
    empty = torch.zeros(BATCH, INNER, STATE)
    y, state = selective_scan(u, dt, A, B, C, empty, D)
    assert off(y, wanted.transpose(1, 2)) < FLOAT32
    assert off(state, last) < FLOAT32
    wide = [t.double() for t in (u, dt, A, B, C, empty, D)]
    y, state = selective_scan_reference(*wide)
    assert off(y, wanted.transpose(1, 2).double()) < FLOAT32
    assert off(state, last.double()) < FLOAT32


def test_selective_scan_goes_on_where_their_steps_go_on() -> None:
    """From a state: their step function, token by token."""
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update_ref

    u = torch.randn(BATCH, TOKENS, INNER)
    dt = torch.rand(BATCH, TOKENS, INNER)
    A, D = -torch.rand(INNER, STATE) * 4, torch.randn(INNER)
    B, C = torch.randn(2, BATCH, TOKENS, STATE)
    start = torch.randn(BATCH, INNER, STATE)
    theirs = start.clone()
    steps = [
        selective_state_update_ref(theirs, u[:, t], dt[:, t], A, B[:, t], C[:, t], D)
        for t in range(TOKENS)
    ]
    y, state = selective_scan(u, dt, A, B, C, start, D)
    assert off(y, torch.stack(steps, dim=1)) < FLOAT32
    assert off(state, theirs) < FLOAT32


@pytest.mark.parametrize("kernel", [False, True], ids=["reference", "triton"])
@pytest.mark.parametrize("groups", [1, 2])
def test_one_step_of_mamba2_is_theirs(
    kernel: bool, groups: int, interpreted: Callable[[str], None]
) -> None:
    from mamba_ssm.ops.triton import selective_state_update as module

    interpreted("mamba_ssm")
    step = module.selective_state_update if kernel else module.selective_state_update_ref
    v = drawn(groups=groups)
    ours, theirs = v["state"].clone(), v["state"].clone()

    def wide(of_head: Tensor) -> Tensor:
        """Their Mamba-2 is a Mamba-1 whose channels of a head share what is a head's."""
        return of_head[..., None].expand(*of_head.shape, HEAD_DIM).contiguous()

    A = wide(v["A"])[..., None].expand(HEADS, HEAD_DIM, STATE)
    D, bias = wide(v["D"]), wide(v["bias"])
    for t in range(5):
        x, raw, B, C = (v[name][:, t] for name in ("x", "raw", "B", "C"))
        wanted = step(theirs, x, wide(raw), A, B, C, D, dt_bias=bias, dt_softplus=True)
        y, _ = selective_state_update(ours, x, v["dt"][:, t], v["A"], B, C, v["D"])
        assert off(y, wanted) < FLOAT32
        assert off(ours, theirs) < FLOAT32


@pytest.mark.parametrize("kernel", [False, True], ids=["reference", "triton"])
def test_one_step_of_mamba1_is_theirs(kernel: bool, interpreted: Callable[[str], None]) -> None:
    from mamba_ssm.ops.triton import selective_state_update as module

    interpreted("mamba_ssm")
    step = module.selective_state_update if kernel else module.selective_state_update_ref
    x, raw = torch.randn(2, BATCH, INNER)
    bias, D = torch.randn(2, INNER)
    A = -torch.rand(INNER, STATE) * 4
    B, C = torch.randn(2, BATCH, STATE)
    ours = torch.randn(BATCH, INNER, STATE)
    theirs = ours.clone()
    wanted = step(theirs, x, raw, A, B, C, D, dt_bias=bias, dt_softplus=True)
    y, _ = selective_state_update(ours, x, F.softplus(raw + bias), A, B, C, D)
    assert off(y, wanted) < FLOAT32
    assert off(ours, theirs) < FLOAT32


@pytest.mark.parametrize("groups", [1, 2])
def test_the_dual_form_is_their_reference(groups: int) -> None:
    """Their plain function of the chunked form; softplus and bias inside, no state."""
    from mamba_ssm.ops.triton.ssd_combined import ssd_chunk_scan_combined_ref

    v = drawn(groups=groups)
    tokens = 64  # whole chunks
    x, raw, dt, B, C = (v[name][:, :tokens] for name in ("x", "raw", "dt", "B", "C"))
    wanted = ssd_chunk_scan_combined_ref(
        x, raw, v["A"], B, C, 32, D=v["D"], dt_bias=v["bias"], dt_softplus=True
    )
    y, _ = ssd_chunk_scan(x, dt, v["A"], B, C, torch.zeros_like(v["state"]), v["D"])
    assert off(y, wanted) < FLOAT32


def test_the_dual_form_is_the_papers_listing_in_float64() -> None:
    """Listing 1 of arXiv 2405.21060 from a state, as the package carries it."""
    from mamba_ssm.modules.ssd_minimal import ssd_minimal_discrete

    v = drawn(torch.float64)
    tokens = 64
    x, dt, B, C = (v[name][:, :tokens] for name in ("x", "dt", "B", "C"))
    heads = [t.expand(-1, -1, HEADS, -1) for t in (B, C)]
    wanted, last = ssd_minimal_discrete(
        x * dt[..., None], dt * v["A"], *heads, 16, initial_states=v["state"][:, None]
    )
    y, state = ssd_chunk_scan_reference(x, dt, v["A"], B, C, v["state"])
    assert off(y, wanted) < FLOAT64
    assert off(state, last) < FLOAT64
    single = [t.float() for t in (x, dt, v["A"], B, C, v["state"])]
    y, state = ssd_chunk_scan(*single)
    assert off(y.double(), wanted) < FLOAT32
    assert off(state.double(), last) < FLOAT32


@pytest.mark.parametrize("groups", [1, 2])
def test_the_dual_form_is_their_kernels(groups: int, interpreted: Callable[[str], None]) -> None:
    """Kernels of ``mamba_chunk_scan_combined``: a ragged tail, from a state, to a state."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    interpreted("mamba_ssm")
    v = drawn(groups=groups)
    wanted, last = mamba_chunk_scan_combined(
        v["x"],
        v["raw"],
        v["A"],
        v["B"],
        v["C"],
        32,
        D=v["D"],
        dt_bias=v["bias"],
        initial_states=v["state"],
        dt_softplus=True,
        return_final_states=True,
    )
    y, state = ssd_chunk_scan(v["x"], v["dt"], v["A"], v["B"], v["C"], v["state"], v["D"])
    assert off(y, wanted) < FLOAT32
    assert off(state, last) < FLOAT32
