"""rope_append in C stores the very bits that the torch path stores, for any value and layout."""

from __future__ import annotations

import pytest
import torch

from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES
from ctxsweep_kernels.rope_append import rope_append
from ctxsweep_kernels.rope_append.reference import rotate_reference
from ctxsweep_kernels.testing import poisoned_cache, scattered_table

GIVEN = [torch.float32, torch.bfloat16, torch.float16]
SPECIAL = [
    0.0,
    -0.0,
    float("inf"),
    -float("inf"),
    1e-45,
    -1e-40,
    448.0,
    464.0,
    1e30,
    65519.9,
    65520,
]


def awkward(count: int, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """`[1, 2, count, dim]`: random float32 bits, every float16, ties between fp8 codes, limits."""
    generator = torch.Generator().manual_seed(count)
    bits = torch.randint(-(2**31), 2**31 - 1, (2 * count * dim,), generator=generator)
    values = bits.to(torch.int32).view(torch.float32)
    values = torch.where(values.isnan(), 0.5, values)
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16).float()
    halves = torch.where(halves.isnan(), 0.25, halves)
    codes = torch.arange(0, 0x7E, dtype=torch.uint8)
    fp8 = codes.view(torch.float8_e4m3fn).float()
    ties = (fp8[1:] + fp8[:-1]) / 2
    known = torch.cat([torch.tensor(SPECIAL), halves, ties, -ties])
    values[: len(known)] = known
    return values.view(1, 2, count, dim).to(dtype)


@pytest.mark.parametrize("stored", STORAGE_DTYPES, ids=str)
@pytest.mark.parametrize("given", GIVEN, ids=str)
@pytest.mark.parametrize("dim", [128, 40, 7])
def test_stored_bits_are_those_of_torch(given: torch.dtype, stored: torch.dtype, dim: int) -> None:
    count = -(-70000 // (2 * dim))
    k = awkward(count, dim, given)
    if stored == torch.int8:  # an infinite row has no int8 form
        k = torch.where(k.float().abs() > 1e30, 1.0, k)
    v = k.flip(2)
    pages = -(-count // 16)
    table = scattered_table([count], 16, pages)
    filled = []
    for impl in ("torch", "c"):
        cache = poisoned_cache(2, pages, 16, dim, stored)
        rope_append(k, k, v, cache, table, torch.tensor([0]), impl=impl)
        filled.append(cache)
    expected, got = filled
    differ = expected.pages.view(torch.uint8) != got.pages.view(torch.uint8)
    assert not differ.any(), f"{int(differ.sum())} bytes differ"
    if stored == torch.int8:
        written = ~expected.scales.isnan()
        assert torch.equal(expected.scales[written], got.scales[written])


@pytest.mark.parametrize("stored", STORAGE_DTYPES, ids=str)
def test_nan_is_kept(stored: torch.dtype) -> None:
    k = torch.ones(1, 1, 16, 16)
    k[0, 0, 3, 5] = float("nan")
    cache, table = poisoned_cache(1, 1, 16, 16, stored), scattered_table([16], 16, 1)
    rope_append(k, k, k, cache, table, torch.tensor([0]), impl="c")
    held = (cache.pages.float() if cache.scales is None else cache.scales.unsqueeze(-1)).isnan()
    assert held[:, 0, 0, 3].any() and not held[:, 0, 0, :3].any()


@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_strided_heads_and_far_positions(given: torch.dtype) -> None:
    heads = torch.randn(2, 5, 7, 64).to(given).transpose(1, 2)  # as split from one projection
    q, k, v = heads.split([3, 2, 2], 1)
    inv_freq = 10000.0 ** -(torch.arange(0, 64, 2) / 64)
    starts = torch.tensor([1_000_000, 3])
    table = torch.full((2, 63000), -1, dtype=torch.int32)
    table[0, 62500:62501], table[1, 0] = 0, 1
    cache = poisoned_cache(2, 2, 16, 64, torch.float32)
    out = rope_append(q, k, v, cache, table, starts, inv_freq, impl="c")
    # The angle itself is a float32, as in transformers: at a million radians, 1 / 32 apart.
    angles = torch.stack([(torch.arange(5) + s).float()[:, None] * inv_freq for s in starts])
    cos, sin = angles.double().cos()[:, None], angles.double().sin()[:, None]
    a, b = q.double().split(32, -1)
    exact = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    assert (out.double() - exact).abs().max() <= 8 * torch.finfo(given).eps
    assert torch.equal(cache.pages[1, :, 1, 3:8].to(given), v[1])


def test_rotation_is_exact_at_every_quarter() -> None:
    x = torch.randn(1, 1, 300, 2)
    cache, table = poisoned_cache(1, 20, 16, 2, torch.float32), scattered_table([300], 16, 20)
    out = rope_append(x, x, x, cache, table, torch.tensor([0]), torch.ones(1), impl="c")
    exact = rotate_reference(x, torch.tensor([0]), torch.ones(1))
    assert (out - exact).abs().max() <= 1e-6


def test_threads_do_not_change_a_bit() -> None:
    k = torch.randn(3, 2, 100, 32)
    table, starts = scattered_table([100] * 3, 16, 21), torch.tensor([0, 0, 0])
    pages = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            cache = poisoned_cache(2, 21, 16, 32, torch.bfloat16)
            rope_append(k, k, k, cache, table, starts, torch.ones(16), impl="c")
            pages.append(cache.pages.view(torch.uint8))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(pages[0], pages[1]) and torch.equal(pages[0], pages[2])
