"""RWKV-7 and retention in Triton: on the GPU if there is one, else in Triton's interpreter."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ctxsweep_kernels.chunking import unfit_sizes
from ctxsweep_kernels.dispatch import UnsupportedImplementation
from ctxsweep_kernels.retention import retention
from ctxsweep_kernels.retention.reference import retention_reference
from ctxsweep_kernels.testing import RAGGED_LENGTHS, assert_within, budget
from ctxsweep_kernels.testing.recurrences import (
    Inputs,
    Recurrence,
    Result,
    check_batch,
    check_oracle,
    check_split,
    check_strided,
    poisoned_memory,
)
from ctxsweep_kernels.wkv7 import wkv7
from ctxsweep_kernels.wkv7.reference import wkv7_reference

STRONGEST = -0.6065  # RWKV-7's bound on a log decay, -exp(-1/2)
WKV7 = Recurrence(
    functools.partial(wkv7, impl="triton"), wkv7_reference, ("r", "log_w", "k", "v", "a", "b")
)
RETENTION = Recurrence(
    functools.partial(retention, impl="triton"), retention_reference, ("q", "k", "v")
)
OPS = {"wkv7": WKV7, "retention": RETENTION}


@pytest.fixture
def make(device: torch.device) -> Callable[..., Inputs]:
    """Inputs of an op by its name, on the device that the kernels run on."""

    def build(
        op: str, tokens: int, batch: int = 1, heads: int = 2, K: int = 16, V: int = 24
    ) -> Inputs:
        generator = torch.Generator().manual_seed(7)
        draw = functools.partial(torch.randn, generator=generator)
        made = {
            "k": draw(batch, tokens, heads, K),
            "v": draw(batch, tokens, heads, V),
        }
        if op == "retention":
            made["k"] *= K**-0.5
            made["q"] = draw(batch, tokens, heads, K)
            made["log_gamma"] = torch.log1p(-(2.0 ** (-5 - torch.arange(heads))))
            made["state"] = draw(batch, heads, K, V)
        else:
            kappa = F.normalize(draw(batch, tokens, heads, K), dim=-1)
            made["r"] = draw(batch, tokens, heads, K)
            made["log_w"] = STRONGEST * torch.sigmoid(3 * draw(batch, tokens, heads, K))
            made["a"] = -kappa
            made["b"] = kappa * draw(batch, tokens, heads, K).sigmoid()
            made["state"] = draw(batch, heads, V, K)
        return {name: tensor.to(device) for name, tensor in made.items()}

    return build


@pytest.mark.parametrize("tokens", RAGGED_LENGTHS)
@pytest.mark.parametrize("op", OPS)
def test_every_length_matches_the_token_loop(make, op: str, tokens: int) -> None:
    check_oracle(OPS[op], make(op, tokens))


@pytest.mark.parametrize("op", OPS)
def test_pieces_with_the_state_carried_are_the_whole(make, op: str) -> None:
    check_split(OPS[op], make(op, 300), [1, 2, 65, 129, 256])


@pytest.mark.parametrize("tokens", [1, 130])
@pytest.mark.parametrize("op", OPS)
def test_a_batch_is_its_rows(make, op: str, tokens: int) -> None:
    check_batch(OPS[op], make(op, tokens, batch=3))


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize("op", OPS)
def test_views_with_strides(make, op: str, tokens: int) -> None:
    check_strided(OPS[op], make(op, tokens, batch=2))


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize(("K", "V"), [(1, 8), (8, 1), (20, 40), (64, 64), (32, 160)])
@pytest.mark.parametrize("op", OPS)
def test_dimensions_that_do_not_fill_a_tile(make, op: str, K: int, V: int, tokens: int) -> None:
    check_oracle(OPS[op], make(op, tokens, heads=1, K=K, V=V))


@pytest.mark.parametrize("V", [64, 200])
@pytest.mark.parametrize("op", OPS)
def test_the_tiles_of_a_device_that_is_full(
    make, monkeypatch: pytest.MonkeyPatch, op: str, V: int
) -> None:
    monkeypatch.setattr(f"ctxsweep_kernels.{op}.plan.multiprocessors", lambda device: 1)
    for tokens in (1, 40):
        check_oracle(OPS[op], make(op, tokens, heads=4, K=32, V=V))


@pytest.mark.parametrize("log_w", [STRONGEST, -1e-7, 0.0])
def test_wkv7_at_the_ends_of_the_decay_range(make, log_w: float) -> None:
    inputs = make("wkv7", 300)
    check_oracle(WKV7, inputs | {"log_w": torch.full_like(inputs["r"], log_w)})


def test_wkv7_erasing_one_direction_again_and_again(make) -> None:
    inputs = make("wkv7", 300)
    kappa = F.normalize(torch.ones_like(inputs["a"]), dim=-1)
    check_oracle(WKV7, inputs | {"a": -kappa, "b": kappa})


@pytest.mark.parametrize("log_gamma", [-100.0, -1.0, -1e-7, 0.0])
def test_retention_from_instant_decay_to_none(make, log_gamma: float) -> None:
    inputs = make("retention", 300)
    check_oracle(RETENTION, inputs | {"log_gamma": torch.full_like(inputs["log_gamma"], log_gamma)})


@pytest.mark.parametrize("tokens", [1, 63, 500])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_narrow_inputs_keep_a_float32_state(make, op: str, dtype: torch.dtype, tokens: int) -> None:
    given = OPS[op].narrowed(make(op, tokens), dtype)
    with poisoned_memory():
        result = OPS[op].op(**given)
    exact = OPS[op].reference(**{name: tensor.double() for name, tensor in given.items()})
    plain = PLAIN[op](**{name: tensor.float() for name, tensor in given.items()}, dtype=dtype)
    truncated = dtype == torch.bfloat16 and result[0].device.type == "cpu"
    for got, true, narrow in zip(result, exact, plain, strict=True):
        allowed = budget(true, narrow.to(got.dtype), got.dtype)
        assert_within(got, true, allowed * (2 if truncated else 1))


@pytest.mark.parametrize(
    ("op", "change", "message"),
    [
        ("wkv7", {"K": 65}, "K = 65 and it takes at most 64"),
        ("retention", {"K": 257}, "K = 257 and it takes at most 256"),
    ],
)
def test_heads_too_large_are_refused(make, op: str, change: dict[str, int], message: str) -> None:
    with pytest.raises(UnsupportedImplementation, match=message):
        OPS[op].op(**make(op, 2, **change))


@pytest.mark.parametrize("op", OPS)
def test_more_heads_than_a_grid_takes_are_refused(make, op: str) -> None:
    with pytest.raises(UnsupportedImplementation, match=r"B \* H = 65536 .* split the batch"):
        OPS[op].op(**make(op, 2, heads=65536, K=1, V=1))


def test_decode_takes_more_heads() -> None:
    sizes = {"B": 1024, "T": 1, "H": 64, "K": 64, "V": 64}
    assert unfit_sizes(sizes, most_keys=64) is None


@pytest.mark.parametrize("op", OPS)
def test_a_float64_state_is_refused(make, op: str) -> None:
    inputs = make(op, 2)
    with pytest.raises(UnsupportedImplementation, match=r"state is torch\.float64"):
        OPS[op].op(**inputs | {"state": inputs["state"].double()})


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x as an operand of that precision, and of float32's range, has it."""
    if dtype == torch.bfloat16:
        return x.bfloat16().float()
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)


def spans(tokens: int, chunk: int) -> list[slice]:
    return [slice(a, b) for a, b in pairwise([*range(0, tokens, chunk), tokens])]


def plain_retention(
    q: Tensor, k: Tensor, v: Tensor, log_gamma: Tensor, state: Tensor, dtype: torch.dtype
) -> Result:
    """Retention in chunks, in torch, with the operands of every product rounded to `dtype`."""
    if q.shape[1] == 1:
        return retention_reference(q, k, v, log_gamma, state)
    narrow = functools.partial(rounded, dtype=dtype)
    rate, outputs = log_gamma[:, None, None], []
    for span in spans(q.shape[1], 64):
        q_, k_, v_ = (t[:, span].transpose(1, 2) for t in (q, k, v))
        i = torch.arange(q_.shape[2], device=q.device)
        decay = torch.exp(rate * (i[:, None] - i).clamp(min=0)).tril()
        y = q_ @ narrow(state) * torch.exp(rate * (i[:, None] + 1))
        outputs.append(y + narrow(q_ @ k_.mT * decay) @ v_)
        kept = narrow(k_ * torch.exp(rate * (len(i) - 1 - i)[:, None]))
        state = state * torch.exp(rate * len(i)) + kept.mT @ v_
    return torch.cat(outputs, dim=2).transpose(1, 2), state


def plain_wkv7(
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    dtype: torch.dtype,
) -> Result:
    """RWKV-7 in chunks, in torch, with the operands of every product rounded to `dtype`."""
    if r.shape[1] == 1:
        return wkv7_reference(r, log_w, k, v, a, b, state)
    narrow = functools.partial(rounded, dtype=dtype)
    outputs = []
    for span in spans(r.shape[1], 32):
        r_, w, k_, v_, a_, b_ = (t[:, span].transpose(1, 2) for t in (r, log_w, k, v, a, b))
        sums = w.cumsum(2)
        sums = sums - sums[:, :, sums.shape[2] // 2, None]
        start, end = torch.exp(w[:, :, :1] - sums[:, :, :1]), torch.exp(sums[:, :, -1:])
        Qa, Qr = narrow(a_ * torch.exp(sums - w)), narrow(r_ * torch.exp(sums))
        Kb, Kk = narrow(b_ * torch.exp(-sums)), narrow(k_ * torch.exp(-sums))
        Mab = narrow((Qa @ Kb.mT).tril(-1))
        X = narrow(torch.linalg.inv(torch.eye(Mab.shape[-1], device=r.device) - Mab))
        Tv = narrow(X @ narrow(narrow((Qa @ Kk.mT).tril(-1)) @ v_))
        state = state * start
        S = narrow(state)
        u = narrow(narrow(X @ Qa) @ S.mT + Tv)
        Mrb, Mrk = narrow((Qr @ Kb.mT).tril()), narrow((Qr @ Kk.mT).tril())
        outputs.append(Qr @ S.mT + Mrb @ u + Mrk @ v_)
        state = (state + u.mT @ Kb + v_.mT @ Kk) * end
    return torch.cat(outputs, dim=2).transpose(1, 2), state


PLAIN = {"retention": plain_retention, "wkv7": plain_wkv7}
