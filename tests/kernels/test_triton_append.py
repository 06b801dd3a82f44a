"""rope_append in Triton: rotation against complex numbers in float64, bytes against torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.reference import gather_row
from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES
from ctxsweep_kernels.rope_append import rope_append
from ctxsweep_kernels.rope_append.kernel import plan_append
from ctxsweep_kernels.rope_append.reference import rotate_reference
from ctxsweep_kernels.testing import (
    assert_within,
    budget,
    poisoned_cache,
    rounding_band,
    scattered_table,
)

GIVEN = [torch.float32, torch.bfloat16, torch.float16]
MOST_OF_SECOND_AXIS = 65535  # of a CUDA grid
SPECIAL = [0.0, -0.0, float("inf"), -float("inf"), 1e-45, -1e-40, 448.0, 464.0, 1e30, 65519.9]


def tokens(batch: int, heads: int, count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, heads, count, dim, generator=torch.Generator().manual_seed(seed))


def frequencies(rotary: int, theta: float = 10000.0) -> torch.Tensor:
    return (theta ** -(torch.arange(0, rotary, 2).double() / rotary)).float()


def append(
    device: torch.device,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cache: PagedKV,
    *rest: Any,
) -> tuple[torch.Tensor, PagedKV]:
    """Triton's rotated q and the cache, on the CPU; `cache` itself is not changed on a GPU."""
    scales = None if cache.scales is None else cache.scales.to(device)
    moved = PagedKV(cache.pages.to(device), scales)
    here = [x.to(device) if isinstance(x, torch.Tensor) else x for x in rest]
    out = rope_append(*(x.to(device) for x in (q, k, v)), moved, *here, impl="triton")
    scales = None if scales is None else scales.cpu()
    return out.cpu(), PagedKV(moved.pages.cpu(), scales)


def float32_angles(x: torch.Tensor, starts: torch.Tensor, *rotation: Any) -> torch.Tensor:
    """The oracle's rotation of float32 `x`, with cosines, sines and products in float32."""
    inv_freq, factor = rotation
    positions = (starts[:, None] + torch.arange(x.shape[2]))[:, None, :, None]
    angles = positions.float() * inv_freq
    cos, sin = angles.cos() * factor, angles.sin() * factor
    half = inv_freq.shape[0]
    a, b, rest = x.float().split([half, half, x.shape[3] - 2 * half], -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


@pytest.mark.parametrize("far", [0, 1_000_000], ids=["near", "far"])
@pytest.mark.parametrize("factor", [1.0, 1.25])
@pytest.mark.parametrize("rotary", [None, 8, 32, 40])
@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_rotation(
    device: torch.device, given: torch.dtype, rotary: int | None, factor: float, far: int
) -> None:
    dim, count = 40, 5
    heads = tokens(2, count, 7, dim).to(given).transpose(1, 2)  # as split from one projection
    q, k, v = heads.split([3, 2, 2], 1)
    cache = poisoned_cache(2, 6, 16, dim, torch.float32)
    starts = torch.tensor([far + 13, 29])
    table = torch.full((2, (far + 64) // 16), -1, dtype=torch.int32)
    for row, start in enumerate(starts.tolist()):
        table[row, start // 16], table[row, start // 16 + 1] = 1 + 2 * row, 2 + 2 * row
    inv_freq = None if rotary is None else frequencies(rotary)
    out, cache = append(device, q, k, v, cache, table, starts, inv_freq, factor)
    for x, got in ((q, out), (k, None)):
        exact = rotate_reference(x, starts, inv_freq, factor)
        allowed = 0.0
        if inv_freq is not None:
            plain = float32_angles(x, starts, inv_freq, factor)
            allowed = budget(exact, plain, given) * (2 if given == torch.bfloat16 else 1)
        for row, start in enumerate(starts.tolist()):
            span = slice(start, start + count)
            if got is not None:
                assert_within(got[row], exact[row], allowed)
                continue
            page = table[row, torch.arange(span.start, span.stop) // 16].long()
            slot = torch.arange(span.start, span.stop) % 16
            assert_within(cache.pages[0, :, page, slot], exact[row], allowed)
            assert torch.equal(cache.pages[1, :, page, slot], v[row].float())
    assert int(cache.pages.isnan().sum()) == 2 * 2 * dim * (6 * 16 - 2 * count)


def test_tokens_past_32_bit_offsets(device: torch.device) -> None:
    """Most of the memory is never touched, and so never there on a CPU."""
    q = tokens(1, 1, 3, 8).half()
    step = 2**30 + 16
    far = torch.empty(2 * step + 8, dtype=torch.float16, device=device)
    apart = far.as_strided(q.shape, (0, 0, step, 1)).copy_(q)
    cache, table = poisoned_cache(1, 3, 16, 8, torch.float16), scattered_table([3], 16, 3)
    start, inv_freq = torch.tensor([0]), frequencies(8)
    near = append(device, q, q, q, cache, table, start, inv_freq)
    out = append(device, apart, apart, apart, cache, table, start, inv_freq)
    assert torch.equal(near[0], out[0])
    assert torch.equal(near[1].pages.nan_to_num(), out[1].pages.nan_to_num())


def test_positions_and_tables_of_any_stride(device: torch.device) -> None:
    x = tokens(2, 1, 3, 8)
    cache, table = poisoned_cache(1, 6, 16, 8, torch.float32), scattered_table([20, 9], 16, 6)
    starts = torch.tensor([17, 6])
    expected = append(device, x, x, x, cache, table, starts)[1].pages
    strided = torch.stack([starts, -starts], 1)[:, 0], table.T.contiguous().T
    got = append(device, x, x, x, cache, strided[1], strided[0])[1].pages
    assert torch.equal(expected.nan_to_num(), got.nan_to_num())


def test_a_grid_takes_more_tokens_than_its_second_axis() -> None:
    q = torch.empty(1, 4, 100_000, 64, dtype=torch.float16, device="meta")
    cache = PagedKV.allocate(4, 1600, 64, 64, torch.float16, "meta")
    table = torch.empty(1, 1600, dtype=torch.int32, device="meta")
    starts = torch.empty(1, dtype=torch.int64, device="meta")
    (launch,) = plan_append(q, q, q, cache, table, starts, None, 1.0, None)
    assert launch.grid[0] == 100_000 and max(launch.grid[1:]) <= MOST_OF_SECOND_AXIS


def test_rotation_is_exact_at_every_quarter(device: torch.device) -> None:
    x = tokens(1, 1, 300, 2)
    cache, table = poisoned_cache(1, 20, 16, 2, torch.float32), scattered_table([300], 16, 20)
    start, inv_freq = torch.tensor([0]), torch.ones(1)
    out, _ = append(device, x, x, x, cache, table, start, inv_freq)
    exact = rotate_reference(x, start, inv_freq)
    assert float((out - exact).abs().max()) <= 4 * float(rounding_band(exact, torch.float32))


def awkward(count: int, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """`[1, 8, count, dim]`: random bits, float16 numbers, ties between fp8 codes, limits."""
    generator = torch.Generator().manual_seed(count)
    bits = torch.randint(-(2**31), 2**31 - 1, (8 * count * dim,), generator=generator)
    values = bits.to(torch.int32).view(torch.float32)
    halves = torch.arange(-(2**15), 2**15, 29).to(torch.int16).view(torch.float16).float()
    codes = torch.arange(0, 0x7B, dtype=torch.uint8)
    known = [torch.tensor(SPECIAL), halves]
    for fp8 in (torch.float8_e4m3fn, torch.float8_e5m2):
        exact = codes.view(fp8).float()
        ties = (exact[1:] + exact[:-1]) / 2
        known += [ties, -ties]
    first = torch.cat(known)
    values[: len(first)] = first
    return torch.where(values.isnan(), 0.5, values).view(1, 8, count, dim).to(dtype)


def same_codes(expected: torch.Tensor, got: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Where two stored tensors agree; interpreted bfloat16 is truncated: one code apart."""
    if expected.dtype == torch.bfloat16 and device.type == "cpu":
        return (expected.view(torch.int16).int() - got.view(torch.int16).int()).abs() <= 1
    if expected.itemsize == 4:
        return expected.view(torch.int32) == got.view(torch.int32)
    bits = torch.uint8 if expected.itemsize == 1 else torch.int16
    return expected.view(bits) == got.view(bits)


@pytest.mark.parametrize("stored", STORAGE_DTYPES, ids=str)
@pytest.mark.parametrize("given", GIVEN, ids=str)
@pytest.mark.parametrize("dim", [128, 40])
def test_stored_bits_are_those_of_torch(
    device: torch.device, given: torch.dtype, stored: torch.dtype, dim: int
) -> None:
    count = -(-4000 // (8 * dim))
    k = awkward(count, dim, given)
    if device.type == "cpu" and torch.bfloat16 in (given, stored):
        # The interpreter converts no subnormal bfloat16.
        k = torch.where(k.float().abs() < 2 * torch.finfo(torch.bfloat16).tiny, 0.0, k)
    if stored == torch.int8:  # an infinite row has no int8 form
        k = torch.where(k.float().abs() > 1e30, 1.0, k)
    v = k.flip(2)
    pages = -(-count // 16)
    table, start = scattered_table([count], 16, pages), torch.tensor([0])
    expected = poisoned_cache(8, pages, 16, dim, stored)
    rope_append(k, k, v, expected, table, start, impl="torch")
    out, got = append(device, k, k, v, poisoned_cache(8, pages, 16, dim, stored), table, start)
    assert torch.equal(out, k)
    same = same_codes(expected.pages, got.pages, device)
    written = torch.zeros_like(same)
    positions = torch.arange(count)
    written[:, :, table[0, positions // 16].long(), positions % 16] = True
    assert same[written].all(), f"{int((~same[written]).sum())} codes differ"
    if expected.scales is not None and got.scales is not None:
        assert torch.equal(expected.scales[written[..., 0]], got.scales[written[..., 0]])
        assert got.scales[~written[..., 0]].isnan().all()


@pytest.mark.parametrize("stored", STORAGE_DTYPES, ids=str)
def test_nan_is_kept(device: torch.device, stored: torch.dtype) -> None:
    k = torch.ones(1, 1, 16, 16)
    k[0, 0, 3, 5], k[0, 0, 4, 6] = float("nan"), -float("nan")
    cache, table = poisoned_cache(1, 1, 16, 16, stored), scattered_table([16], 16, 1)
    _, cache = append(device, k, k, k, cache, table, torch.tensor([0]))
    held = cache.pages.float() if cache.scales is None else cache.scales.unsqueeze(-1)
    assert held.isnan()[:, 0, 0, 3:5].any(-1).all() and not held.isnan()[:, 0, 0, :3].any()
    if stored.itemsize == 1 and stored != torch.int8:
        assert int(cache.pages.view(torch.uint8)[0, 0, 0, 4, 6]) == 0x7F


@pytest.mark.parametrize("stored", STORAGE_DTYPES, ids=str)
def test_pieces_are_the_whole(device: torch.device, stored: torch.dtype) -> None:
    q, k, v = (tokens(1, heads, 50, 16, heads) * 50 for heads in (9, 2, 2))
    table, inv_freq = scattered_table([70], 16, 10), frequencies(16)
    whole, pieces = (poisoned_cache(2, 10, 16, 16, stored) for _ in range(2))
    out, whole = append(device, q, k, v, whole, table, torch.tensor([20]), inv_freq)
    for first, last in ((0, 1), (1, 20), (20, 50)):
        new = (x[:, :, first:last] for x in (q, k, v))
        got, pieces = append(device, *new, pieces, table, torch.tensor([20 + first]), inv_freq)
        assert torch.equal(got, out[:, :, first:last])
    assert torch.equal(whole.pages.view(torch.uint8), pieces.pages.view(torch.uint8))


def test_row_of_a_batch_is_a_batch_of_one(device: torch.device) -> None:
    q, k, v = (tokens(3, heads, 9, 24, heads) for heads in (4, 2, 2))
    starts, table = torch.tensor([0, 40, 7]), scattered_table([9, 49, 16], 16, 9)
    inv_freq = frequencies(12)
    arguments = table, starts, inv_freq, 0.7
    empty = poisoned_cache(2, 9, 16, 24, torch.int8)
    together, cache = append(device, q, k, v, empty, *arguments)
    for row in range(3):
        one = slice(row, row + 1)
        fresh = poisoned_cache(2, 9, 16, 24, torch.int8)
        arguments = table[one], starts[one], inv_freq, 0.7
        alone, single = append(device, q[one], k[one], v[one], fresh, *arguments)
        assert torch.equal(alone, together[one])
        stop = int(starts[row]) + 9
        for got, expected in zip(
            gather_row(single, table[row], stop), gather_row(cache, table[row], stop), strict=True
        ):
            assert torch.equal(got[:, -9:], expected[:, -9:])


def test_a_rolling_buffer_reuses_its_pages(device: torch.device) -> None:
    cache = poisoned_cache(1, 3, 16, 16, torch.float32)
    table = torch.tensor([[0, 1, 2, 0, 1, 2, 0]], dtype=torch.int32)
    k = tokens(1, 1, 100, 16)
    for first in range(0, 100, 20):
        new = k[:, :, first : first + 20]
        _, cache = append(device, new, new, new, cache, table, torch.tensor([first]))
    held, _ = gather_row(cache, table[0], 100, torch.float32)
    assert torch.equal(held[:, 64:], k[0, :, 64:])


def test_pages_that_are_missing(device: torch.device) -> None:
    k = tokens(1, 1, 20, 16)
    cache, start = poisoned_cache(1, 2, 16, 16, torch.float32), torch.tensor([0])
    table = torch.tensor([[1, -1]], dtype=torch.int32)
    if device.type == "cpu":
        with pytest.raises(ValueError, match="logical page 1 is needed but is not allocated"):
            append(device, k, k, k, cache, table, start)
        return
    _, cache = append(device, k, k, k, cache, table, start)  # written nowhere
    assert torch.equal(cache.pages[0, 0, 1], k[0, 0, :16]) and cache.pages[:, :, 0].isnan().all()
