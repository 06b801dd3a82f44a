"""Mixture of experts: routing, weights, and what it leaves untouched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ctxsweep.models.config import FeedForward
from ctxsweep.models.feed_forward import Gated, MixtureOfExperts, Plain

HIDDEN, SIZE, EXPERTS = 24, 40, 6


def mixture(kind: str = "swiglu", top: int = 2, seed: int = 0) -> MixtureOfExperts:
    torch.manual_seed(seed)
    section = FeedForward(kind=kind, size=SIZE, experts=EXPERTS, experts_per_token=top)
    return MixtureOfExperts(HIDDEN, section).double().requires_grad_(False)


def one_token(moe: MixtureOfExperts, x: Tensor, kind: str) -> Tensor:
    """Equation 1 of Mixtral (arXiv 2401.04088) for ``x [hidden]``, every expert computed."""
    logits = moe.router.weight @ x
    chosen = logits.sort(descending=True).indices[: moe.experts_per_token]
    masked = torch.full_like(logits, float("-inf"))
    masked[chosen] = logits[chosen]
    total = torch.zeros_like(x)
    for gate, up, down in zip(masked.softmax(0), moe.up, moe.down, strict=True):
        inner = up @ x
        if kind == "swiglu":
            first, second = inner[:SIZE], inner[SIZE:]
            inner = first * torch.sigmoid(first) * second
        else:
            inner = functional.gelu(inner, approximate="tanh")
        total += gate * (down @ inner)
    return total


@pytest.mark.parametrize("kind", ["swiglu", "gelu"])
@pytest.mark.parametrize("top", [1, 2, EXPERTS])
@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (2, 37)])
def test_equals_the_sum_over_all_experts_token_by_token(
    kind: str, top: int, shape: tuple[int, int]
) -> None:
    moe = mixture(kind, top)
    x = torch.randn(*shape, HIDDEN, dtype=torch.float64)
    wanted = torch.stack([one_token(moe, t, kind) for t in x.flatten(0, 1)]).view_as(x)
    torch.testing.assert_close(moe(x), wanted, rtol=0, atol=1e-12)


def test_experts_that_no_token_chose_are_not_read() -> None:
    moe = mixture()
    x = torch.randn(1, 1, HIDDEN, dtype=torch.float64)
    chosen = set(moe.router(x).topk(2).indices.flatten().tolist())
    for expert in set(range(EXPERTS)) - chosen:
        moe.up[expert] = float("nan")
        moe.down[expert] = float("nan")
    assert moe(x).isfinite().all()
    moe.up[chosen.pop()] = float("nan")
    assert moe(x).isnan().any()


def test_one_expert_is_a_dense_block() -> None:
    section = FeedForward(kind="swiglu", size=SIZE, experts=1, experts_per_token=1)
    moe, dense = MixtureOfExperts(HIDDEN, section), Gated(HIDDEN, FeedForward(size=SIZE))
    with torch.no_grad():
        dense.gate_up.weight.copy_(moe.up[0])
        dense.down.weight.copy_(moe.down[0])
    x = torch.randn(2, 9, HIDDEN)
    torch.testing.assert_close(moe(x), dense(x))


def test_gelu_is_the_tanh_form() -> None:
    block = Plain(HIDDEN, FeedForward(kind="gelu", size=SIZE, bias=True)).double()
    x = torch.randn(3, HIDDEN, dtype=torch.float64)
    u = x @ block.up.weight.T + block.up.bias
    inner = 0.5 * u * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3)))
    wanted = inner @ block.down.weight.T + block.down.bias
    torch.testing.assert_close(block(x), wanted, rtol=0, atol=1e-12)
