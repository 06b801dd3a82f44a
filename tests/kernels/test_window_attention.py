"""sliding_window_attention against a dense float64 softmax."""

from __future__ import annotations

import pytest
import torch

from ctxsweep_kernels.sliding_window import sliding_window_attention
from ctxsweep_kernels.sliding_window.reference import attention_reference, ragged_reference
from ctxsweep_kernels.testing import RAGGED_LENGTHS, assert_within, budget

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS = {
    "plain": {},
    "sinks": {"sinks": 5},
    "alibi": {"alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])},
    "softcap": {"softcap": 2.0, "scale": 0.7},
    "all": {
        "sinks": 70,
        "alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.01]),
        "softcap": 3.0,
    },
}


def inputs(
    length: int, dtype: torch.dtype, kv_heads: int = 2, batch: int = 1, dim: int = 16
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(length)
    return tuple(
        torch.randn(batch, heads, length, dim, generator=generator).to(dtype)
        for heads in (4, kv_heads, kv_heads)
    )


def check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: object) -> None:
    out = sliding_window_attention(q, k, v, **options)
    assert out.dtype == q.dtype and out.shape == q.shape
    for row in range(q.shape[0]):
        rows = q[row], k[row], v[row]
        exact = attention_reference(*(x.double() for x in rows), **options)
        plain = attention_reference(*rows, **options)
        assert_within(out[row], exact, budget(exact, plain, q.dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", RAGGED_LENGTHS)
@pytest.mark.parametrize("window", [None, 1, 7, 64, 65, 300, 0, 1000000])
def test_windows_and_lengths(dtype: torch.dtype, length: int, window: int | None) -> None:
    window = length if window == 0 else window
    check(*inputs(length, dtype), window=window)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("window", [None, 3, 256, 500])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_options(options: dict, window: int | None, dtype: torch.dtype) -> None:
    check(*inputs(700, dtype), window=window, **options)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_groups_and_batch(kv_heads: int) -> None:
    check(*inputs(200, torch.float32, kv_heads, batch=3), window=64)


def test_window_of_the_length_or_more_is_plain_causal() -> None:
    q, k, v = inputs(500, torch.float32)
    plain = sliding_window_attention(q, k, v)
    for window in (500, 501):
        assert torch.equal(sliding_window_attention(q, k, v, window), plain)


def test_long_windowed_sequence_crosses_sections() -> None:
    check(*inputs(2900, torch.float32, dim=8), window=300, sinks=4)


def test_keys_outside_the_window_cannot_be_felt() -> None:
    q, k, v = inputs(600, torch.float32)
    out = sliding_window_attention(q, k, v, window=64)
    k[:, :, :100], v[:, :, :100] = 1e3, -1e3
    changed = sliding_window_attention(q, k, v, window=64)
    assert torch.equal(out[:, :, 163:], changed[:, :, 163:])
    assert not torch.equal(out[:, :, 162], changed[:, :, 162])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("kind", [torch.int32, torch.int64], ids=str)
def test_ragged_batches(dtype: torch.dtype, window: int | None, kind: torch.dtype) -> None:
    edges = [0, 1, 64, 64, 300]
    q, k, v = inputs(edges[-1], dtype)
    bounds = torch.tensor(edges, dtype=kind)
    out = sliding_window_attention(q, k, v, window, sinks=3, cu_seqlens=bounds)
    options = {"window": window, "sinks": 3}
    exact = ragged_reference(q[0].double(), k[0].double(), v[0].double(), edges, **options)
    plain = ragged_reference(q[0], k[0], v[0], edges, **options)
    assert_within(out[0], exact, budget(exact, plain, dtype))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"window": 0}, "window must be at least 1"),
        ({"sinks": -1}, "sinks"),
        ({"softcap": 0.0}, "softcap"),
        ({"alibi_slopes": torch.ones(3)}, r"alibi_slopes must be \[4\]"),
        ({"q": torch.ones(1, 3, 8, 16)}, "3 query heads do not divide by 2 KV heads"),
        ({"q": torch.ones(1, 4, 9, 16)}, "must agree"),
        ({"q": torch.ones(1, 4, 8, 16, dtype=torch.float64)}, "one dtype"),
        ({"v": torch.ones(1, 2, 8, 8)}, "k and v must both be"),
        ({"cu_seqlens": torch.tensor([0, 8.0])}, "int32 or int64"),
        ({"cu_seqlens": torch.tensor([0, 7])}, "rise from 0 to N = 8"),
        ({"cu_seqlens": torch.tensor([0, 5, 4, 8])}, "rise from 0 to N = 8"),
        ({"impl": "cuda"}, "impl='cuda' is unknown"),
    ],
    ids=lambda x: x if isinstance(x, str) else next(iter(x)),
)
def test_bad_arguments(change: dict, message: str) -> None:
    q, k, v = inputs(8, torch.float32)
    with pytest.raises(ValueError, match=message):
        sliding_window_attention(**({"q": q, "k": k, "v": v} | change))


def test_ragged_batches_are_one_row() -> None:
    q, k, v = (x.expand(2, -1, -1, -1) for x in inputs(8, torch.float32))
    with pytest.raises(ValueError, match="with cu_seqlens q must be"):
        sliding_window_attention(q, k, v, cu_seqlens=torch.tensor([0, 8]))
