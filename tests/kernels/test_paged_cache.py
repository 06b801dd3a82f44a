"""The paged cache: exact sizes, runs of pages, storage rules."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep_kernels.paged_cache import PagedKV, PageRun, bytes_per_token, runs
from ctxsweep_kernels.paged_cache.reader import PageReader
from ctxsweep_kernels.paged_cache.reference import gather_row
from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES, dequantise, quantise
from ctxsweep_kernels.testing import scattered_table


def storage_bytes(cache: PagedKV) -> int:
    scales = 0 if cache.scales is None else cache.scales.nbytes
    return cache.pages.nbytes + scales


@pytest.mark.parametrize("dtype", STORAGE_DTYPES, ids=str)
def test_page_bytes_are_what_the_tensors_take(dtype: torch.dtype) -> None:
    cache = PagedKV.allocate(3, 5, 16, 24, dtype)
    assert cache.page_bytes * 5 == storage_bytes(cache)
    assert bytes_per_token(3, 24, dtype) * 5 * 16 == storage_bytes(cache)


def test_an_fp8_cache_takes_half_of_bf16() -> None:
    bf16 = bytes_per_token(8, 128, torch.bfloat16)
    assert bytes_per_token(8, 128, torch.float8_e4m3fn) * 2 == bf16
    assert bytes_per_token(8, 128, torch.int8) == bf16 // 2 + 2 * 8 * 4


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.data())
def test_runs_tile_the_table_and_are_maximal(table: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(table)))
    last = data.draw(st.integers(first, len(table)))
    found = runs(torch.tensor(table, dtype=torch.int32), first, last)
    assert [r.physical + i for r in found for i in range(r.count)] == table[first:last]
    assert [r.logical + i for r in found for i in range(r.count)] == list(range(first, last))
    for a, b in pairwise(found):
        assert a.physical + a.count != b.physical


def test_runs_of_a_row_in_order_are_one() -> None:
    assert runs(torch.arange(7, 1007, dtype=torch.int32), 0, 1000) == [PageRun(0, 7, 1000)]


def test_runs_name_the_missing_page() -> None:
    with pytest.raises(ValueError, match="logical page 2 is needed but is not allocated"):
        runs(torch.tensor([0, 1, -1, 3], dtype=torch.int32), 0, 4)
    with pytest.raises(ValueError, match="outside a block table of 4 pages"):
        runs(torch.tensor([0, 1, -1, 3], dtype=torch.int32), 0, 5)


@pytest.mark.parametrize("bad", [{"kv_heads": 0}, {"pages": 0}, {"dtype": torch.int32}], ids=str)
def test_allocate_refuses(bad: dict) -> None:
    good = {"kv_heads": 1, "pages": 2, "page_size": 4, "head_dim": 8, "dtype": torch.float32}
    with pytest.raises(ValueError):
        PagedKV.allocate(**(good | bad))


def test_storage_must_have_the_documented_layout() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        PagedKV(torch.zeros(2, 3, 4, 8, 16).transpose(1, 2))
    with pytest.raises(ValueError, match="int8"):
        PagedKV(torch.zeros(2, 1, 4, 8, 16, dtype=torch.int8))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_fp8_saturates_and_keeps_what_it_can_represent(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    stored, scales = quantise(torch.tensor([1e9, -1e9, 0.0, 1.5, largest]), dtype)
    assert scales is None
    assert stored.float().tolist() == [largest, -largest, 0.0, 1.5, largest]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("wide", [torch.float32, torch.bfloat16], ids=str)
def test_every_fp8_code_is_read_exactly(dtype: torch.dtype, wide: torch.dtype) -> None:
    codes = torch.arange(256).to(torch.uint8).view(dtype)
    finite = codes[codes.float().isfinite()]
    assert torch.equal(dequantise(finite, None, wide), finite.to(wide))
    assert torch.equal(dequantise(codes, None, wide).isnan(), codes.float().isnan())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_fp8_keeps_nan(dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, float("nan"), -float("nan"), 2.0]])
    assert dequantise(*quantise(x, dtype), torch.float32).isnan().tolist() == [
        [False, True, True, False]
    ]


@given(st.floats(1e-30, 1e30), st.integers(0, 2**31))
def test_int8_is_within_half_a_step(size: float, seed: int) -> None:
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(seed)) * size
    stored, scales = quantise(x, torch.int8)
    error = (dequantise(stored, scales, torch.float64) - x.double()).abs()
    assert (error <= 0.5001 * scales.double().unsqueeze(-1)).all()


def test_int8_of_zero_is_zero() -> None:
    stored, scales = quantise(torch.zeros(2, 8), torch.int8)
    assert (dequantise(stored, scales, torch.float32) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("start, stop", [(0, 1), (5, 3000), (63, 64), (100, 10000), (2048, 4096)])
def test_reader_gives_every_position_once(
    dtype: torch.dtype, shuffled: bool, start: int, stop: int
) -> None:
    cache = PagedKV.allocate(2, 640, 16, 32, dtype)
    stored, scales = quantise(torch.randn(cache.pages.shape), dtype)
    cache.pages.copy_(stored)
    if cache.scales is not None and scales is not None:
        cache.scales.copy_(scales)
    table = scattered_table([10000], 16, 640, shuffled=shuffled)[0]
    k, v = gather_row(cache, table, 10000, torch.float32)
    reader = PageReader(cache, table, torch.float32)
    tiles = list(reader.tiles(start, stop))
    assert tiles[0].start == start and tiles[-1].stop == stop
    assert torch.equal(torch.cat([t.k for t in tiles], 1), k[:, start:stop])
    assert torch.equal(torch.cat([t.v for t in tiles], 1), v[:, start:stop])
    span = reader.span(start, stop)
    assert torch.equal(span.k, k[:, start:stop]) and torch.equal(span.v, v[:, start:stop])
    for tile in tiles:
        view = tile.k.untyped_storage().data_ptr() == cache.pages.untyped_storage().data_ptr()
        assert view or tile.k.shape[1] <= reader.scratch_tokens
