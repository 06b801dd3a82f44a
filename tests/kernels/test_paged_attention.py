"""Prefill and decode over a paged cache against a dense float64 softmax over the same cache.

Every page that is not written holds NaN, and pages past a window are -1 in the table, so a read
of what must not be read cannot pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch

from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES
from ctxsweep_kernels.paged_decode import MAX_DECODE_TOKENS, paged_decode_attention
from ctxsweep_kernels.paged_prefill import paged_prefill_attention
from ctxsweep_kernels.paged_prefill.reference import paged_attention_reference
from ctxsweep_kernels.rope_append import rope_append
from ctxsweep_kernels.testing import (
    RAGGED_LENGTHS,
    assert_within,
    budget,
    poisoned_cache,
    scattered_table,
)

SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 65},
    "sinks": {"window": 64, "sinks": 70},
    "alibi": {"alibi_slopes": SLOPES},
    "softcap": {"softcap": 2.0, "scale": 0.7},
    "all": {"window": 100, "sinks": 5, "alibi_slopes": SLOPES, "softcap": 3.0},
}


@dataclass
class Case:
    """One filled cache with the queries of all its positions."""

    lengths: list[int]
    dtype: torch.dtype = torch.float32
    cache_dtype: torch.dtype = torch.float32
    kv_heads: int = 2
    group: int = 2
    page_size: int = 16
    head_dim: int = 16
    shuffled: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        batch, longest = len(self.lengths), max(self.lengths)
        pages = 3 + sum(-(-n // self.page_size) for n in self.lengths)
        self.cache: PagedKV = poisoned_cache(
            self.kv_heads, pages, self.page_size, self.head_dim, self.cache_dtype
        )
        self.table = scattered_table(self.lengths, self.page_size, pages, shuffled=self.shuffled)
        generator = torch.Generator().manual_seed(sum(self.lengths))

        def draw(heads: int) -> torch.Tensor:
            x = torch.randn(batch, heads, longest, self.head_dim, generator=generator)
            return x.to(self.dtype)

        self.q, k, v = draw(self.kv_heads * self.group), draw(self.kv_heads), draw(self.kv_heads)
        for row, n in enumerate(self.lengths):
            part = slice(row, row + 1), slice(None), slice(0, n)
            zero = torch.tensor([0])
            table = self.table[row : row + 1]
            rope_append(self.q[part], k[part], v[part], self.cache, table, zero)

    def last(self, row: int, count: int) -> torch.Tensor:
        n = self.lengths[row]
        return self.q[row : row + 1, :, n - count : n]

    def check_row(self, row: int, counts: tuple[int, ...], op: Any) -> None:
        n, table = self.lengths[row], self.table[row : row + 1]
        length, options = torch.tensor([n]), self.options
        most = self.last(row, min(n, max(64, *counts)))
        arguments = (most, self.cache, table, length)
        exact = paged_attention_reference(*arguments, **options)
        plain = paged_attention_reference(*arguments, dtype=self.dtype, **options)
        allowed = budget(exact, plain, self.dtype)
        for count in counts:
            if count <= n:
                out = op(self.last(row, count), self.cache, table, length, **options)
                assert out.dtype == self.dtype
                assert_within(out, exact[:, :, -count:], allowed)


PREFILL_COUNTS = (1, 30, 300, 1000)
DECODE_COUNTS = (1, 2, 5, 8)
prefill_torch = partial(paged_prefill_attention, impl="torch")
prefill_c = partial(paged_prefill_attention, impl="c")
decode_torch = partial(paged_decode_attention, impl="torch")
decode_c = partial(paged_decode_attention, impl="c")
IMPLEMENTATIONS = [
    pytest.param(prefill_torch, id="prefill-torch"),
    pytest.param(prefill_c, id="prefill-c"),
    pytest.param(decode_torch, id="decode-torch"),
    pytest.param(decode_c, id="decode-c"),
]
OPS = [
    pytest.param(prefill_torch, PREFILL_COUNTS, id="prefill-torch"),
    pytest.param(prefill_c, PREFILL_COUNTS, id="prefill-c"),
    pytest.param(decode_torch, DECODE_COUNTS, id="decode-torch"),
    pytest.param(decode_c, DECODE_COUNTS, id="decode-c"),
]


@pytest.mark.parametrize("op, counts", OPS)
@pytest.mark.parametrize("cache_dtype", STORAGE_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(op: Any, counts: tuple[int, ...], cache_dtype: torch.dtype, dtype: torch.dtype):
    for options in (OPTIONS["plain"], OPTIONS["window"]):
        case = Case([500], dtype, cache_dtype, options=options)
        case.check_row(0, counts, op)


@pytest.mark.parametrize("op, counts", OPS)
@pytest.mark.parametrize("window", [None, 1, 7, 64, 65, 0, 1000000])
@pytest.mark.parametrize("length", RAGGED_LENGTHS)
def test_lengths_and_windows(op: Any, counts: tuple[int, ...], window: int | None, length: int):
    window = length if window == 0 else window
    Case([length], options={"window": window}).check_row(0, counts, op)


@pytest.mark.parametrize("op, counts", OPS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.int8], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_options(op: Any, counts: tuple[int, ...], options: dict, cache_dtype, dtype):
    Case([1000], dtype, cache_dtype, options=options).check_row(0, counts, op)


@pytest.mark.parametrize("op, counts", OPS)
@pytest.mark.parametrize("kv_heads, group", [(4, 1), (2, 4), (1, 8), (3, 16)])
@pytest.mark.parametrize("page_size", [16, 64, 128])
def test_groups_and_pages(op: Any, counts: tuple[int, ...], kv_heads, group, page_size):
    for shuffled in (True, False):
        case = Case([700], kv_heads=kv_heads, group=group, page_size=page_size, shuffled=shuffled)
        case.check_row(0, counts, op)


@pytest.mark.parametrize(
    "op, count", [(paged_prefill_attention, 100), (decode_torch, 8), (decode_c, 8)]
)
@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("shuffled", [True, False])
def test_long_rows_use_views_and_scratch(op: Any, count: int, cache_dtype, shuffled) -> None:
    Case([5000], cache_dtype=cache_dtype, head_dim=8, shuffled=shuffled).check_row(0, (count,), op)


def test_a_long_chunk_over_a_converted_cache_goes_in_blocks() -> None:
    case = Case([2500], cache_dtype=torch.float8_e4m3fn, head_dim=8, kv_heads=1)
    case.check_row(0, (2500,), paged_prefill_attention)


@pytest.mark.parametrize("op", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_row_of_a_ragged_batch_is_a_batch_of_one(op: Any, options: dict) -> None:
    case = Case([700, 8, 129, 300])
    q = torch.cat([case.last(row, 8) for row in range(4)])
    lengths = torch.tensor(case.lengths)
    together = op(q, case.cache, case.table, lengths, **options)
    for row in range(4):
        part = slice(row, row + 1)
        alone = op(q[part], case.cache, case.table[part], lengths[part], **options)
        assert torch.equal(together[part], alone)


@pytest.mark.parametrize("decode", [decode_torch, decode_c], ids=["torch", "c"])
@pytest.mark.parametrize("cache_dtype", STORAGE_DTYPES, ids=str)
@pytest.mark.parametrize("options", [OPTIONS["plain"], OPTIONS["sinks"]], ids=["plain", "sinks"])
def test_chunked_is_whole_and_decode_is_a_row_of_prefill(decode, cache_dtype, options) -> None:
    case = Case([600], cache_dtype=cache_dtype)
    whole = paged_prefill_attention(case.q, case.cache, case.table, torch.tensor([600]), **options)
    exact, plain = (
        paged_attention_reference(
            case.q, case.cache, case.table, torch.tensor([600]), dtype=dtype, **options
        )
        for dtype in (torch.float64, torch.float32)
    )
    allowed = 2 * budget(exact, plain, torch.float32)
    for first, last in ((0, 100), (100, 437), (437, 600)):
        length = torch.tensor([last])
        chunk = paged_prefill_attention(
            case.q[:, :, first:last], case.cache, case.table, length, **options
        )
        assert_within(chunk, whole[:, :, first:last], allowed)
    for position in (0, 63, 64, 65, 200, 599):
        length = torch.tensor([position + 1])
        row = case.q[:, :, position : position + 1]
        out = decode(row, case.cache, case.table, length, **options)
        assert_within(out, whole[:, :, position : position + 1], allowed)


@pytest.mark.parametrize("op", IMPLEMENTATIONS)
@pytest.mark.parametrize("sinks", [0, 5])
def test_pages_past_the_window_are_never_read(op: Any, sinks: int) -> None:
    case = Case([1000], options={"window": 100, "sinks": sinks})
    expected = op(case.last(0, 8), case.cache, case.table, torch.tensor([1000]), **case.options)
    first_needed = (1000 - 8 - 100 + 1) // 16
    freed = case.table[0, 1 if sinks else 0 : first_needed]
    case.cache.pages[:, :, freed.long()] = float("nan")
    freed.fill_(-1)
    out = op(case.last(0, 8), case.cache, case.table, torch.tensor([1000]), **case.options)
    assert torch.equal(out, expected)
    case.table[0, first_needed] = -1
    with pytest.raises(ValueError, match=f"logical page {first_needed} is needed"):
        op(case.last(0, 8), case.cache, case.table, torch.tensor([1000]), **case.options)


@pytest.mark.parametrize("op", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float8_e4m3fn, torch.int8], ids=str)
def test_nan_in_a_visible_key_is_not_hidden(op: Any, options: dict, cache_dtype) -> None:
    case = Case([1000], cache_dtype=cache_dtype)
    stored = case.cache.pages if case.cache.scales is None else case.cache.scales
    stored[0, 0, case.table[0, 990 // 16].item(), 990 % 16] = float("nan")
    for count in (1, 8):
        out = op(case.last(0, count), case.cache, case.table, torch.tensor([1000]), **options)
        assert out[:, :2].isnan().all() and out[:, 2:].isfinite().all()


@pytest.mark.parametrize("op", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "change, message",
    [
        ({"lengths": torch.tensor([65])}, "capacity of 64"),
        ({"lengths": torch.tensor([3])}, "the 4 new tokens"),
        ({"lengths": torch.tensor([64], dtype=torch.int32)}, "lengths must be int64"),
        ({"q": torch.ones(1, 4, 4, 8)}, "head size 8, the cache 16"),
        ({"q": torch.ones(1, 5, 4, 16)}, "5 query heads do not divide by 2"),
        ({"q": torch.ones(4, 4, 16)}, "q must be"),
        ({"block_table": torch.zeros(2, 4, dtype=torch.int32)}, "block_table must be"),
        ({"window": 0}, "window"),
        ({"sinks": -2}, "sinks"),
    ],
    ids=lambda x: x if isinstance(x, str) else next(iter(x)),
)
def test_bad_arguments(op: Any, change: dict, message: str) -> None:
    case = Case([64])
    arguments = {
        "q": case.last(0, 4),
        "cache": case.cache,
        "block_table": case.table,
        "lengths": torch.tensor([64]),
    }
    with pytest.raises(ValueError, match=message):
        op(**(arguments | change))


def test_decode_takes_a_few_tokens_only() -> None:
    case = Case([64])
    q = case.last(0, MAX_DECODE_TOKENS + 1)
    with pytest.raises(ValueError, match="use paged_prefill_attention"):
        paged_decode_attention(q, case.cache, case.table, torch.tensor([64]))
