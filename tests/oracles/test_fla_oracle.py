"""flash-linear-attention's own functions and kernels against our retention, RWKV-6 and -7.

Its chunked retention cannot be had here: Triton's interpreter gives that kernel's loop a plain
integer, which it asks for ``.to``. The recurrent kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ctxsweep.models.retnet import log_decay
from ctxsweep_kernels.retention import retention
from ctxsweep_kernels.retention.reference import retention_reference
from ctxsweep_kernels.wkv6 import wkv6
from ctxsweep_kernels.wkv7 import wkv7

pytestmark = [
    pytest.mark.usefixtures("oracles"),
    pytest.mark.filterwarnings("ignore:Triton is not supported on current platform"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]
BATCH, TOKENS, HEADS, DIM = 2, 70, 4, 16
FLOAT32 = 2e-5
"""Of the largest value: sums of some hundred float32 terms in another order."""


def off(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


def decay() -> Tensor:
    return log_decay(HEADS, torch.device("cpu"))


def test_retention_is_their_quadratic_form() -> None:
    """``naive_retention``: the parallel form of arXiv 2307.08621, from an empty state."""
    from fla.ops.retention.naive import naive_retention

    q, k, v = torch.randn(3, BATCH, TOKENS, HEADS, DIM)
    wanted = naive_retention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)
    empty = torch.zeros(BATCH, HEADS, DIM, DIM)
    scaled = q * DIM**-0.5
    y, _ = retention(scaled, k, v, decay().float(), empty)
    assert off(y, wanted) < FLOAT32
    y, _ = retention_reference(*(t.double() for t in (scaled, k, v)), decay(), empty.double())
    assert off(y, wanted.double()) < FLOAT32


def test_retention_is_their_recurrent_kernel(interpreted: Callable[[str], None]) -> None:
    """Queries and keys narrower than values; from a state, to a state."""
    from fla.ops.retention import fused_recurrent_retention

    interpreted("fla")
    q, k = torch.randn(2, BATCH, TOKENS, HEADS, DIM)
    v = torch.randn(BATCH, TOKENS, HEADS, 2 * DIM)
    start = torch.randn(BATCH, HEADS, DIM, 2 * DIM)
    wanted, last = fused_recurrent_retention(q, k, v, initial_state=start, output_final_state=True)
    y, state = retention(q * DIM**-0.5, k, v, decay().float(), start)
    assert off(y, wanted) < FLOAT32
    assert off(state, last) < FLOAT32


def test_rwkv6_is_their_recurrence() -> None:
    from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6

    r, k, v = torch.randn(3, BATCH, TOKENS, HEADS, DIM)
    log_w = -torch.exp(torch.randn(BATCH, TOKENS, HEADS, DIM) - 1)
    bonus, start = torch.randn(HEADS, DIM), torch.randn(BATCH, HEADS, DIM, DIM)
    theirs = [t.transpose(1, 2) for t in (r, k, v, log_w)]
    wanted, last = naive_recurrent_rwkv6(*theirs, bonus, 1.0, start, output_final_state=True)
    y, state = wkv6(r, log_w, k, v, bonus, start)
    assert off(y, wanted.transpose(1, 2)) < FLOAT32
    assert off(state, last) < FLOAT32


def test_rwkv7_is_their_recurrence() -> None:
    """RWKV-7 is their generalized delta rule, diagonal plus low rank, whose state is transposed
    and whose queries are scaled."""
    from fla.ops.generalized_delta_rule.dplr.naive import dplr_recurrence

    r, k, v = torch.randn(3, BATCH, TOKENS, HEADS, DIM)
    log_w = -0.6 * torch.rand(BATCH, TOKENS, HEADS, DIM)
    kappa = F.normalize(torch.randn(BATCH, TOKENS, HEADS, DIM), dim=-1)
    a, b = -kappa, kappa * torch.rand(BATCH, TOKENS, HEADS, DIM)
    start = torch.randn(BATCH, HEADS, DIM, DIM)  # [B, H, V, K]
    theirs = [t.transpose(1, 2) for t in (r * DIM**0.5, k, v, a, b, log_w)]
    wanted, last = dplr_recurrence(*theirs, initial_state=start.transpose(-1, -2))
    y, state = wkv7(r, log_w, k, v, a, b, start)
    assert off(y, wanted.transpose(1, 2)) < FLOAT32
    assert off(state, last.transpose(-1, -2)) < FLOAT32
