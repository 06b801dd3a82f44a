"""The C prefill: every instruction set, both ways of multiplying, odd sizes, parts and tiles."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch

from ctxsweep_kernels.dispatch import C_SOURCES
from ctxsweep_kernels.native.build import library
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES
from ctxsweep_kernels.paged_prefill import c, paged_prefill_attention
from ctxsweep_kernels.paged_prefill.reference import paged_attention_reference
from ctxsweep_kernels.rope_append import rope_append
from ctxsweep_kernels.testing import assert_within, budget, poisoned_cache, scattered_table

# The narrowest that every machine of a kind has, and wider ones that this machine may have.
ARCHITECTURES = {
    "x86_64": {"x86-64": "sse2", "x86-64-v3": "avx2", "x86-64-v4": "avx512bw", "native": ""},
    "aarch64": {"armv8-a": "", "native": ""},
}.get(platform.machine(), {"native": ""})
SLOPES = torch.tensor([0.5, 0.25, 0.1, 0.01, 0.0, 1.0])


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


def queries(heads: int, tokens: int, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(heads + tokens)
    return torch.randn(1, heads, tokens, head_dim, generator=generator).to(dtype)


def check(q: torch.Tensor, where: tuple[Any, ...], **options: Any) -> None:
    exact = paged_attention_reference(q, *where, **options)
    plain = paged_attention_reference(q, *where, dtype=q.dtype, **options)
    out = paged_prefill_attention(q, *where, impl="c", **options)
    assert out.dtype == q.dtype
    assert_within(out, exact, budget(exact, plain, q.dtype))


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
    functions = library(C_SOURCES["paged_prefill_attention"], architecture)
    monkeypatch.setattr(c, "_library", lambda: functions)
    for head_dim in (64, 20):
        where = filled(300, 2, head_dim, dtype)
        for q_dtype in (torch.float32, torch.bfloat16):
            q = queries(6, 70, head_dim, q_dtype)
            check(q, where)
            check(q, where, window=70, sinks=3, softcap=2.0, alibi_slopes=SLOPES)


@pytest.mark.parametrize("head_dim", [1, 7, 32, 48, 80, 96, 128, 192, 257])
@pytest.mark.parametrize("group", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_head_dimensions_and_groups(head_dim: int, group: int, dtype: torch.dtype) -> None:
    where = filled(150, 2, head_dim, dtype, page_size=24)
    check(queries(2 * group, 41, head_dim, dtype), where)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 127, 128, 129, 1500])
@pytest.mark.parametrize("window", [None, 1, 128, 400])
def test_tiles_and_parts_end_anywhere(tokens: int, window: int | None, dtype: torch.dtype) -> None:
    """1500 tokens of 5 heads are more than one part; tiles are of 128 keys."""
    where = filled(1600, 1, 64, dtype)
    check(queries(5, tokens, 64, dtype), where, window=window, sinks=2 if window else 0)


def test_neither_threads_nor_torch_in_between_change_a_bit() -> None:
    where = filled(3000, 2, 32, torch.bfloat16)
    q = queries(8, 700, 32, torch.bfloat16)
    before = torch.get_num_threads()
    outs = []
    try:
        for threads in (1, 2, 3, 2, 8):
            torch.set_num_threads(threads)
            for _ in range(3):
                torch.ones(1 << 20).sum()
                outs.append(paged_prefill_attention(q, *where, impl="c"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("side", [0, 1], ids=["key", "value"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8], ids=str
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_hidden_stays_hidden(side: int, dtype: torch.dtype, bad: float) -> None:
    if bad == float("inf") and dtype == torch.float8_e4m3fn:
        bad = float("nan")  # this type has no infinity
    cache, table, length = filled(200, 1, 16, dtype)
    stored = cache.pages if cache.scales is None else cache.scales
    for position in (199, 200 - 8 - 30):  # the newest; one that only the first query's window has
        stored[side, 0, table[0, position // 16].long(), position % 16] = bad
    for q_dtype in (torch.float32, torch.bfloat16):
        q = queries(1, 8, 16, q_dtype)
        out = paged_prefill_attention(q, cache, table, length, window=31, impl="c")
        assert out[0, 0, 1:7].isfinite().all()
        if bad != float("inf"):
            assert out[0, 0, [0, 7]].isnan().any(-1).all()
        elif side == 1:
            assert not out[0, 0, [0, 7]].isfinite().all(-1).any()


def test_the_default_dtype_of_torch_does_not_matter() -> None:
    where = filled(40, 1, 16, torch.float32)
    q = queries(2, 9, 16, torch.float32)
    out = paged_prefill_attention(q, *where, impl="c")
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(paged_prefill_attention(q, *where, impl="c"), out)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_page_outside_the_pool_is_refused() -> None:
    cache, table, length = filled(64, 1, 16, torch.float32)
    table[0, 2] = cache.page_count
    with pytest.raises(ValueError, match=r"logical page 2 is needed but is not allocated \(6\)"):
        paged_prefill_attention(queries(1, 9, 16, torch.float32), cache, table, length, impl="c")


def test_huge_scores_and_strided_arguments() -> None:
    cache, table, length = filled(300, 2, 16, torch.float32)
    where = cache, table.repeat_interleave(2, 1)[:, ::2], length
    # Many queries: where a score is the small difference of huge terms, one query's rounding says
    # little about another's.
    q = queries(64, 9, 16, torch.float32).flip(1) * 1e4
    check(q, where, scale=1.0)
    check(q, where, scale=1.0, softcap=50.0)
    check(q, where, scale=-1.0)
