"""rope_append: rotation against complex numbers in float64, storage against its rules."""

from __future__ import annotations

import pytest
import torch

from ctxsweep_kernels.dispatch import Impl
from ctxsweep_kernels.paged_cache.reference import gather_row
from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES, dequantise, quantise
from ctxsweep_kernels.rope_append import rope_append
from ctxsweep_kernels.rope_append.reference import rotate_reference
from ctxsweep_kernels.testing import assert_within, poisoned_cache, scattered_table


def frequencies(rotary: int, theta: float = 10000.0) -> torch.Tensor:
    return theta ** -(torch.arange(0, rotary, 2).double() / rotary)


def tokens(batch: int, heads: int, count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, heads, count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["torch", "c"])
def impl(request: pytest.FixtureRequest) -> Impl:
    return request.param


@pytest.mark.parametrize("rotary", [None, 8, 32])
@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_rotation_matches_the_oracle(impl: Impl, rotary: int | None, factor: float) -> None:
    q, k, v = tokens(2, 4, 70, 32), tokens(2, 2, 70, 32, 1), tokens(2, 2, 70, 32, 2)
    cache, table = poisoned_cache(2, 40, 16, 32, torch.float32), scattered_table([200, 99], 16, 40)
    starts = torch.tensor([130, 29])
    inv_freq = None if rotary is None else frequencies(rotary)
    rotated = rope_append(q, k, v, cache, table, starts, inv_freq, factor, impl)
    # float32 angles of up to 200 radians are off by up to 200 * 2^-24 each.
    allowed = 0.0 if rotary is None else 5e-5
    assert_within(rotated, rotate_reference(q, starts, inv_freq, factor), allowed)
    expected = rotate_reference(k, starts, inv_freq, factor)
    for row, start in enumerate(starts.tolist()):
        stored_k, stored_v = gather_row(cache, table[row], start + 70)
        assert_within(stored_k[:, start:], expected[row], allowed)
        assert torch.equal(stored_v[:, start:], v[row].double())
        assert stored_k[:, :start].isnan().all(), "a position that is not new was written"


def test_rotation_is_that_of_transformers_llama(impl: Impl) -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k = tokens(1, 4, 50, 16), tokens(1, 2, 50, 16, 1)
    inv_freq = frequencies(16).float()
    angles = torch.arange(20, 70).float().unsqueeze(-1) * inv_freq
    both = torch.cat([angles, angles], -1).unsqueeze(0)
    expected, expected_k = apply_rotary_pos_emb(q, k, both.cos(), both.sin())
    cache, table = poisoned_cache(2, 8, 16, 16, torch.float32), scattered_table([70], 16, 8)
    rotated = rope_append(q, k, k, cache, table, torch.tensor([20]), inv_freq, impl=impl)
    torch.testing.assert_close(rotated, expected, rtol=0, atol=1e-6)
    stored, _ = gather_row(cache, table[0], 70, torch.float32)
    torch.testing.assert_close(stored[:, 20:], expected_k[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", STORAGE_DTYPES, ids=str)
def test_stored_values_do_not_depend_on_chunks(impl: Impl, dtype: torch.dtype) -> None:
    k, v = tokens(1, 2, 100, 16) * 50, tokens(1, 2, 100, 16, 1)
    table = scattered_table([100], 16, 10)
    whole, chunked = (poisoned_cache(2, 10, 16, 16, dtype) for _ in range(2))
    rope_append(k, k, v, whole, table, torch.tensor([0]), impl=impl)
    for first, last in ((0, 1), (1, 40), (40, 64), (64, 100)):
        new_k, new_v = k[:, :, first:last], v[:, :, first:last]
        rope_append(new_k, new_k, new_v, chunked, table, torch.tensor([first]), impl=impl)
    assert torch.equal(whole.pages.view(torch.uint8), chunked.pages.view(torch.uint8))
    got_k, got_v = gather_row(chunked, table[0], 100, torch.float32)
    for got, given in ((got_k, k[0]), (got_v, v[0])):
        assert torch.equal(got, dequantise(*quantise(given, dtype), torch.float32))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": tokens(1, 3, 4, 16), "v": tokens(1, 3, 4, 16)}, "k and v must be"),
        ({"v": tokens(1, 2, 4, 8)}, "k and v"),
        ({"starts": torch.tensor([-1])}, "outside the block table's capacity"),
        ({"starts": torch.tensor([30])}, "outside the block table's capacity of 32"),
        ({"starts": torch.tensor([0], dtype=torch.int32)}, "starts must be int64"),
        ({"inv_freq": torch.ones(9)}, "inv_freq"),
        ({"block_table": torch.tensor([[0, -1]], dtype=torch.int32)}, "not allocated"),
        ({"block_table": torch.tensor([[0, 1]])}, "int32"),
        ({"v": tokens(1, 2, 4, 16).half()}, "one dtype"),
    ],
    ids=lambda x: x if isinstance(x, str) else next(iter(x)),
)
def test_bad_arguments(impl: Impl, change: dict, message: str) -> None:
    arguments = {
        "q": tokens(1, 4, 4, 16),
        "k": tokens(1, 2, 4, 16),
        "v": tokens(1, 2, 4, 16),
        "cache": poisoned_cache(2, 4, 16, 16, torch.float32),
        "block_table": torch.tensor([[0, 1]], dtype=torch.int32),
        "starts": torch.tensor([14]),
    }
    with pytest.raises(ValueError, match=message):
        rope_append(**(arguments | change), impl=impl)
