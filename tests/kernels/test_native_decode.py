"""The C decode: every instruction set, odd sizes, long rows, and what its queries must not see."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch

from ctxsweep_kernels.dispatch import C_SOURCES
from ctxsweep_kernels.native.build import library
from ctxsweep_kernels.native.calls import parallel_region
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES
from ctxsweep_kernels.paged_decode import c, paged_decode_attention
from ctxsweep_kernels.paged_prefill.reference import paged_attention_reference
from ctxsweep_kernels.rope_append import rope_append
from ctxsweep_kernels.testing import assert_within, budget, poisoned_cache, scattered_table

# The narrowest that every machine of a kind has, and wider ones that this machine may have.
ARCHITECTURES = {
    "x86_64": {"x86-64": "sse2", "x86-64-v3": "avx2", "native": ""},
    "aarch64": {"armv8-a": "", "native": ""},
}.get(platform.machine(), {"native": ""})


def filled(
    length: int, kv_heads: int, head_dim: int, dtype: torch.dtype, page_size: int = 16
) -> tuple[PagedKV, torch.Tensor, torch.Tensor]:
    pages = 2 + -(-length // page_size)
    cache = poisoned_cache(kv_heads, pages, page_size, head_dim, dtype)
    table = scattered_table([length], page_size, pages)
    generator = torch.Generator().manual_seed(length + head_dim)
    k, v = torch.randn(2, 1, kv_heads, length, head_dim, generator=generator)
    rope_append(k, k, v, cache, table, torch.tensor([0]), impl="torch")
    return cache, table, torch.tensor([length])


def check(q: torch.Tensor, where: tuple[Any, ...], **options: Any) -> torch.Tensor:
    exact = paged_attention_reference(q, *where, **options)
    plain = paged_attention_reference(q, *where, dtype=torch.float32, **options)
    out = paged_decode_attention(q, *where, impl="c", **options)
    assert_within(out, exact, budget(exact, plain, torch.float32))
    return out


def has(instructions: str) -> bool:
    if not instructions:
        return True
    with open("/proc/cpuinfo") as cpuinfo:
        return instructions in cpuinfo.read().split()


@pytest.mark.parametrize("architecture", [a for a, needs in ARCHITECTURES.items() if has(needs)])
@pytest.mark.parametrize("dtype", STORAGE_DTYPES, ids=str)
def test_every_instruction_set(
    architecture: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = library(C_SOURCES["paged_decode_attention"], architecture).decode
    monkeypatch.setattr(c, "_decode", lambda: function)
    slopes = torch.tensor([0.5, 0.25, 0.1, 0.01, 0.0, 1.0])
    for head_dim in (64, 20):
        where = filled(300, 2, head_dim, dtype)
        for tokens in (1, 3):
            q = torch.randn(1, 6, tokens, head_dim, generator=torch.Generator().manual_seed(1))
            check(q, where)
            check(q, where, window=70, sinks=3, softcap=2.0, alibi_slopes=slopes)


@pytest.mark.parametrize("head_dim", [1, 7, 32, 48, 80, 96, 128, 192, 257])
@pytest.mark.parametrize("group", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn], ids=str)
def test_head_dimensions_and_groups(head_dim: int, group: int, dtype: torch.dtype) -> None:
    where = filled(150, 2, head_dim, dtype, page_size=24)
    generator = torch.Generator().manual_seed(group)
    check(torch.randn(1, 2 * group, 1, head_dim, generator=generator), where)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn], ids=str)
def test_a_row_longer_than_its_largest_cut(dtype: torch.dtype) -> None:
    where = filled(100_000, 1, 16, dtype)
    generator = torch.Generator().manual_seed(3)
    for tokens in (1, 2):
        check(torch.randn(1, 2, tokens, 16, generator=generator), where)


def test_neither_threads_nor_torch_in_between_change_a_bit() -> None:
    assert parallel_region() is not None, "the ops must run on torch's own threads"
    where = filled(20_000, 2, 32, torch.bfloat16)
    q = torch.randn(1, 8, 1, 32)
    before = torch.get_num_threads()
    outs = []
    try:
        for threads in (1, 2, 3, 2, 8):
            torch.set_num_threads(threads)
            for _ in range(5):
                torch.ones(1 << 20).sum()
                outs.append(paged_decode_attention(q, *where, impl="c"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("side", [0, 1], ids=["key", "value"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn, torch.int8], ids=str)
def test_a_hidden_nan_stays_hidden(side: int, dtype: torch.dtype) -> None:
    cache, table, length = filled(200, 1, 16, dtype)
    stored = cache.pages if cache.scales is None else cache.scales
    for position in (199, 200 - 8 - 30):  # the newest; one that only the first query's window has
        stored[side, 0, table[0, position // 16].long(), position % 16] = float("nan")
    q = torch.randn(1, 1, 8, 16)
    out = paged_decode_attention(q, cache, table, length, window=31, impl="c")
    assert out[0, 0, [0, 7]].isnan().any(-1).all()
    assert out[0, 0, 1:7].isfinite().all()


def test_a_page_outside_the_pool_is_refused() -> None:
    cache, table, length = filled(64, 1, 16, torch.float32)
    table[0, 2] = cache.page_count
    q = torch.randn(1, 1, 1, 16)
    with pytest.raises(ValueError, match=r"logical page 2 is needed but is not allocated \(6\)"):
        paged_decode_attention(q, cache, table, length, impl="c")
    with pytest.raises(ValueError, match="logical page 2 is needed"):
        kv = torch.ones(1, 1, 1, 16)
        rope_append(q, kv, kv, cache, table, torch.tensor([32]), impl="c")


def test_huge_scores_and_strided_arguments() -> None:
    cache, table, length = filled(300, 2, 16, torch.float32)
    where = cache, table.repeat_interleave(2, 1)[:, ::2], length
    # Many queries: where a score is the small difference of huge terms, one query's rounding says
    # little about another's.
    q = torch.randn(128, 1, 1, 16, generator=torch.manual_seed(1)).transpose(0, 1) * 1e4
    check(q, where, scale=1.0)
    check(q, where, scale=1.0, softcap=50.0)
