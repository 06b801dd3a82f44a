"""Reading one row of a cache in position order: views where possible, bounded scratch elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ctxsweep_kernels.paged_cache import PagedKV, PageRun, runs
from ctxsweep_kernels.paged_cache.storage import dequantise

SCRATCH_BYTES = 4 << 20
SCRATCH_TOKENS = (1024, 8192)
SHORTEST_VIEW_TOKENS = 512


class Tile(NamedTuple):
    """Keys and values `[Hkv, stop - start, D]` of positions `start .. stop - 1`."""

    k: Tensor
    v: Tensor
    start: int
    stop: int


class PageReader:
    """Tiles of one row's keys and values in the dtype that attention computes in.

    A run of consecutive pages already in that dtype is yielded as one view, however long it is.
    Short runs and other dtypes pass through a tile of `scratch_tokens` at most: the cache
    is never copied or converted as a whole.
    """

    def __init__(self, cache: PagedKV, block_table_row: Tensor, dtype: torch.dtype) -> None:
        self.cache = cache
        self.table = block_table_row
        self.dtype = dtype
        flat = (2, cache.kv_heads, cache.page_count * cache.page_size)
        self._tokens = cache.pages.view(*flat, cache.head_dim)
        self._scales = None if cache.scales is None else cache.scales.view(flat)

    @property
    def scratch_tokens(self) -> int:
        """Tokens of a copied tile: a few megabytes, so that it is still in cache when used."""
        token_bytes = 2 * self.cache.kv_heads * self.cache.head_dim * self.dtype.itemsize
        least, most = SCRATCH_TOKENS
        return min(most, max(least, SCRATCH_BYTES // token_bytes))

    def tiles(self, start: int, stop: int, most: int | None = None) -> Iterator[Tile]:
        """Tiles that cover positions `start .. stop - 1` in order, of at most `most` tokens."""
        for tile in self._tiles(start, stop):
            count = tile.stop - tile.start
            for a in range(0, count, most or count):
                b = min(count, a + (most or count))
                yield Tile(tile.k[:, a:b], tile.v[:, a:b], tile.start + a, tile.start + b)

    def is_view(self, start: int, stop: int) -> bool:
        """Whether `span` needs no copy."""
        size = self.cache.page_size
        return (
            self.cache.dtype == self.dtype
            and len(runs(self.table, start // size, -(-stop // size))) <= 1
        )

    def _tiles(self, start: int, stop: int) -> Iterator[Tile]:
        size = self.cache.page_size
        short: list[PageRun] = []
        for run in runs(self.table, start // size, -(-stop // size)):
            if self.cache.dtype == self.dtype and run.count * size >= SHORTEST_VIEW_TOKENS:
                yield from self._gathered(short, start, stop)
                short = []
                yield self._view(run, start, stop)
            else:
                short.append(run)
        yield from self._gathered(short, start, stop)

    def span(self, start: int, stop: int) -> Tile:
        """All of positions `start .. stop - 1` as one tile; a copy unless it is one run."""
        size = self.cache.page_size
        found = runs(self.table, start // size, -(-stop // size))
        if len(found) == 1 and self.cache.dtype == self.dtype:
            return self._view(found[0], start, stop)
        return self._copy(found, start, stop)

    def _view(self, run: PageRun, start: int, stop: int) -> Tile:
        size = self.cache.page_size
        first, last = max(start, run.logical * size), min(stop, (run.logical + run.count) * size)
        offset = (run.physical - run.logical) * size
        k, v = self._tokens[:, :, first + offset : last + offset]
        return Tile(k, v, first, last)

    def _gathered(self, pending: list[PageRun], start: int, stop: int) -> Iterator[Tile]:
        pages_per_tile = max(1, self.scratch_tokens // self.cache.page_size)
        group: list[PageRun] = []
        room = pages_per_tile
        for run in pending:
            logical, physical, count = run
            while count:
                take = min(count, room)
                group.append(PageRun(logical, physical, take))
                logical, physical, count, room = (
                    logical + take, physical + take, count - take, room - take,
                )  # fmt: skip
                if room == 0:
                    yield self._copy(group, start, stop)
                    group, room = [], pages_per_tile
        if group:
            yield self._copy(group, start, stop)

    def _copy(self, group: list[PageRun], start: int, stop: int) -> Tile:
        """Gather and convert consecutive logical pages that lie in one or more runs."""
        size = self.cache.page_size
        begin = group[0].logical * size
        end = (group[-1].logical + group[-1].count) * size
        first, last = max(start, begin), min(stop, end)
        if len(group) == 1:
            offset = group[0].physical * size - begin
            where = slice(first + offset, last + offset)
            stored, scales = self._tokens[:, :, where], self._scales
            scales = None if scales is None else scales[:, :, where]
        else:
            pages = self.table[group[0].logical : group[-1].logical + group[-1].count]
            stored = self.cache.pages.index_select(2, pages).flatten(2, 3)
            stored = stored[:, :, first - begin : last - begin]
            scales = self.cache.scales
            if scales is not None:
                scales = scales.index_select(2, pages).flatten(2, 3)
                scales = scales[:, :, first - begin : last - begin]
        k, v = dequantise(stored, scales, self.dtype)
        return Tile(k, v, first, last)
