"""The key/value cache of a model: which page of the pool holds which tokens.

One ``PageTable`` serves all attention layers of a model, since all of them hold the same tokens;
each layer has its own pool of pages. Growing takes pages from a free list and never copies what is
there. Under a sliding window the pages that have left it are given back and used again, so the
memory is flat (the rolling buffer of Mistral, arXiv 2310.06825, on pages as in vLLM,
arXiv 2309.06180).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ctxsweep.models.pages import pages_needed, visible_pages


@dataclass(frozen=True)
class TableMark:
    """Which page of the pool held which logical page at a length."""

    length: int
    live: dict[int, int]


class PageTable:
    """Block table of a batch of sequences of equal length.

    ``block_table [B, max_pages]`` int32 holds the pool's page of each logical page, −1 where there
    is none. ``starts [B]`` and ``lengths [B]`` int64 are the tokens held before and after the call
    that ``extend`` made room for. Every sequence has its own region of the pool, so that a long
    run of its pages is one stretch of memory; the regions are laid out alike.
    """

    def __init__(
        self,
        batch_size: int,
        max_tokens: int,
        max_call_tokens: int,
        page_size: int,
        window: int | None,
        device: torch.device,
    ) -> None:
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.page_size = page_size
        self.window = window
        self.region_pages = pages_needed(max_tokens, max_call_tokens, page_size, window)
        columns = -(-max_tokens // page_size)
        self.block_table = torch.empty(batch_size, columns, dtype=torch.int32, device=device)
        self.starts = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self._regions = torch.arange(batch_size, dtype=torch.int32)[:, None] * self.region_pages
        self.length = 0
        self._live: dict[int, int] = {}  # logical page -> page of the region
        self._free: set[int] = set()
        self.clear()

    @property
    def pool_pages(self) -> int:
        """Pages of a layer's pool."""
        return self.batch_size * self.region_pages

    @property
    def live_pages(self) -> int:
        """Pages taken, over the batch."""
        return self.batch_size * len(self._live)

    def live(self) -> torch.Tensor:
        """The pool's pages that are taken, ``[live_pages]`` int64 on the CPU."""
        local = torch.tensor(list(self._live.values()), dtype=torch.int64)
        return (self._regions + local).flatten()

    def extend(self, tokens: int) -> None:
        """Take the pages for ``tokens`` more tokens of every sequence.

        Raises:
            MemoryError: the pool does not have them; nothing has changed then.
        """
        length = self.length + tokens
        first, last = -(-self.length // self.page_size), -(-length // self.page_size)
        if length > self.max_tokens or last - first > len(self._free):
            raise MemoryError(
                f"the key/value cache is full: {tokens} tokens after {self.length} need "
                f"{last - first} pages of {self.page_size} tokens for each sequence, "
                f"{len(self._free)} of {self.region_pages} are free; "
                f"it was loaded for {self.max_tokens} tokens"
            )
        if last > first:
            pages = [self._take(logical) for logical in range(first, last)]
            local = torch.tensor(pages, dtype=torch.int32)
            self.block_table[:, first:last] = self._regions + local
        self.starts.fill_(self.length)
        self.lengths.fill_(length)
        self.length = length

    def trim(self) -> None:
        """Give back the pages that no later token can see."""
        if self.window is None:
            return
        first = visible_pages(self.length, self.page_size, self.window).start
        left = [logical for logical in self._live if logical < first]
        for logical in left:
            self._free.add(self._live.pop(logical))
        if left:
            self.block_table[:, min(left) : first] = -1

    def mark(self) -> TableMark:
        """The present, for ``restore``."""
        return TableMark(self.length, dict(self._live))

    def restore(self, mark: TableMark) -> None:
        """Return to a mark: the same tokens are in the same pages, later ones are forgotten."""
        self.length = mark.length
        self._live = dict(mark.live)
        self._free = set(range(self.region_pages)) - set(self._live.values())
        self.block_table.fill_(-1)
        if self._live:
            first = min(self._live)
            local = torch.tensor(list(self._live.values()), dtype=torch.int32)
            self.block_table[:, first : first + len(local)] = self._regions + local

    def clear(self) -> None:
        """Forget all tokens."""
        self.restore(TableMark(0, {}))

    def _take(self, logical: int) -> int:
        """A free page, the one after its predecessor if it can be: long runs read fastest."""
        page = self._live.get(logical - 1, -1) + 1
        if page not in self._free:
            page = min(self._free)
        self._free.remove(page)
        self._live[logical] = page
        return page
