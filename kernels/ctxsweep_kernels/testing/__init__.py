"""How ops are judged: error budgets from an fp64 oracle, poisoned memory, ragged shapes.

A tolerance is never typed in: it is twice what the same formula, computed plainly in the working
precision, already loses against float64, plus the rounding of the output itself (the rule of
attention-gym's tests).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctxsweep_kernels.paged_cache import PagedKV

RAGGED_LENGTHS = (1, 63, 64, 500, 1000)


def rounding_band(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Half a unit in the last place of `dtype` at the largest magnitude of `exact`."""
    return exact.abs().max() * torch.finfo(dtype).eps / 2


def budget(exact: Tensor, reference: Tensor, dtype: torch.dtype) -> float:
    """Largest absolute error allowed: `2 * (reference_error + rounding_band)`."""
    reference_error = (reference.double() - exact.double()).abs().max()
    return float(2 * (reference_error + rounding_band(exact.double(), dtype)))


def assert_within(actual: Tensor, exact: Tensor, allowed: float) -> None:
    """Fail unless every element of `actual` is finite and within `allowed` of `exact`."""
    assert actual.shape == exact.shape, f"{list(actual.shape)} is not {list(exact.shape)}"
    assert torch.isfinite(actual).all(), "the output holds NaN or infinity"
    error = float((actual.double() - exact.double()).abs().max())
    assert error <= allowed, f"error {error:.3e} is above the budget {allowed:.3e}"


def poison(x: Tensor) -> Tensor:
    """Fill with NaN in place (int8: the code -128, which no quantised value takes)."""
    if x.dtype.is_floating_point:
        x.copy_(torch.full((), float("nan")).expand(x.shape))
        return x
    return x.fill_(-128)


def poisoned_cache(
    kv_heads: int, pages: int, page_size: int, head_dim: int, dtype: torch.dtype
) -> PagedKV:
    """A cache in which everything not written yet is NaN (fp8 e4m3 and e5m2 have NaN as well)."""
    cache = PagedKV.allocate(kv_heads, pages, page_size, head_dim, dtype)
    poison(cache.pages)
    if cache.scales is not None:
        poison(cache.scales)
    return cache


def scattered_table(
    lengths: list[int], page_size: int, pages: int, seed: int = 0, shuffled: bool = True
) -> Tensor:
    """Block table `[B, max_pages]` int32 for rows of `lengths`; -1 past each row's end.

    Physical pages are drawn without repetition, at random or (`shuffled=False`) in order.
    """
    needed = [-(-length // page_size) for length in lengths]
    if sum(needed) > pages:
        raise ValueError(f"{sum(needed)} pages are needed, the pool has {pages}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(pages, generator=generator) if shuffled else torch.arange(pages)
    table = torch.full((len(lengths), max(needed)), -1, dtype=torch.int32)
    taken = 0
    for row, count in enumerate(needed):
        table[row, :count] = order[taken : taken + count].to(torch.int32)
        taken += count
    return table
