"""One layer's paged key/value cache: storage, its exact size, and runs of pages.

Pages and block tables follow PagedAttention (Kwon et al. 2023, arXiv:2309.06180). The storage is
head-major, so that consecutive physical pages of one head are one contiguous matrix and a run of
pages is read as a view. Which page belongs to whom is the caller's business: there is no free
list here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES, has_scales, storage_name

__all__ = ["PageRun", "PagedKV", "bytes_per_token", "runs"]

SCALE_BYTES = 4


def bytes_per_token(kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes that one token's keys and values take in one layer, int8 scales included."""
    _check_dtype(dtype)
    scale_bytes = SCALE_BYTES if has_scales(dtype) else 0
    return 2 * kv_heads * (head_dim * dtype.itemsize + scale_bytes)


@dataclass(frozen=True)
class PagedKV:
    """Keys and values of one layer.

    pages:  `[2, Hkv, P, page_size, D]`, keys then values, in the storage dtype.
    scales: `[2, Hkv, P, page_size]` float32, one per token and head, int8 only; one scale per
        token makes the stored value independent of how a prompt was cut into chunks.
    """

    pages: Tensor
    scales: Tensor | None = None

    def __post_init__(self) -> None:
        if self.pages.dim() != 5 or self.pages.shape[0] != 2 or not self.pages.is_contiguous():
            raise ValueError(
                "pages must be contiguous [2, Hkv, P, page_size, D], "
                f"got {list(self.pages.shape)} with strides {self.pages.stride()}"
            )
        _check_dtype(self.pages.dtype)
        if (self.scales is not None) != has_scales(self.pages.dtype):
            raise ValueError("scales go with int8 pages, and only with them")
        if self.scales is not None and self.scales.shape != self.pages.shape[:4]:
            raise ValueError(
                f"scales must be {list(self.pages.shape[:4])}, got {list(self.scales.shape)}"
            )

    @classmethod
    def allocate(
        cls,
        kv_heads: int,
        pages: int,
        page_size: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> PagedKV:
        """Reserve a pool. On a CPU the system commits its memory only when a page is written."""
        _check_dtype(dtype)
        for name, value in (
            ("kv_heads", kv_heads),
            ("pages", pages),
            ("page_size", page_size),
            ("head_dim", head_dim),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        shape = (2, kv_heads, pages, page_size)
        storage = torch.empty(*shape, head_dim, dtype=dtype, device=device)
        scales = torch.empty(shape, device=device) if has_scales(dtype) else None
        return cls(storage, scales)

    @property
    def kv_heads(self) -> int:
        return self.pages.shape[1]

    @property
    def page_count(self) -> int:
        return self.pages.shape[2]

    @property
    def page_size(self) -> int:
        return self.pages.shape[3]

    @property
    def head_dim(self) -> int:
        return self.pages.shape[4]

    @property
    def dtype(self) -> torch.dtype:
        return self.pages.dtype

    @property
    def device(self) -> torch.device:
        return self.pages.device

    @property
    def page_bytes(self) -> int:
        """Bytes of one page: keys, values and scales of all heads."""
        return self.page_size * bytes_per_token(self.kv_heads, self.head_dim, self.dtype)


class PageRun(NamedTuple):
    """`count` consecutive logical pages that are consecutive in storage too."""

    logical: int
    physical: int
    count: int


def runs(block_table_row: Tensor, first_page: int, last_page: int) -> list[PageRun]:
    """Cut logical pages `first_page .. last_page - 1` of one row into maximal physical runs.

    block_table_row: `[max_pages]` int32, logical page -> physical page, -1 where there is none.

    Raises:
        ValueError: the pages are out of the table's range, or one of them is not allocated.
    """
    if not 0 <= first_page <= last_page <= block_table_row.shape[0]:
        raise ValueError(
            f"pages {first_page}..{last_page} are outside a block table of "
            f"{block_table_row.shape[0]} pages"
        )
    if first_page == last_page:
        return []
    table = block_table_row[first_page:last_page].cpu().numpy()
    if table.min() < 0:
        missing = first_page + int((table < 0).argmax())
        raise ValueError(f"logical page {missing} is needed but is not allocated (-1)")
    breaks = (table[1:] != table[:-1] + 1).nonzero()[0] + 1
    cuts = [0, *breaks.tolist(), len(table)]
    return [PageRun(first_page + a, int(table[a]), b - a) for a, b in pairwise(cuts)]


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in STORAGE_DTYPES:
        allowed = ", ".join(storage_name(d) for d in STORAGE_DTYPES)
        raise ValueError(f"a cache cannot be stored as {storage_name(dtype)}; use one of {allowed}")
