"""The block table: who holds which page, in every order of growing, trimming and going back."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep.models.cache import PageTable
from ctxsweep.models.pages import pages_needed, visible_pages

CPU = torch.device("cpu")


def table(
    batch: int = 2, tokens: int = 64, call: int = 64, page: int = 4, window: int | None = None
) -> PageTable:
    return PageTable(batch, tokens, call, page, window, CPU)


def pages_of(t: PageTable) -> list[list[int]]:
    """Allocated pages of each sequence, in the order of their tokens."""
    return [[p for p in row if p >= 0] for row in t.block_table.tolist()]


def check(t: PageTable) -> None:
    """Every sequence holds exactly its visible pages, and no page is held twice."""
    visible = visible_pages(t.length, t.page_size, t.window)
    for row in t.block_table.tolist():
        assert [i for i, page in enumerate(row) if page >= 0] == list(visible)
    held = [page for row in pages_of(t) for page in row]
    assert len(set(held)) == len(held) == t.live_pages
    assert sorted(t.live().tolist()) == sorted(held)
    assert all(0 <= page < t.pool_pages for page in held)


@given(
    calls=st.lists(st.integers(1, 20), min_size=1, max_size=40),
    page=st.integers(1, 9),
    window=st.none() | st.integers(1, 30),
    batch=st.integers(1, 3),
)
def test_any_calls_fit_the_pool_and_hold_what_is_visible(
    calls: list[int], page: int, window: int | None, batch: int
) -> None:
    t = table(batch, sum(calls), max(calls), page, window)
    for tokens in calls:
        start = t.length
        t.extend(tokens)
        assert t.starts.tolist() == [start] * batch
        assert t.lengths.tolist() == [t.length] * batch
        # During the call its first query sees its window, and the new tokens have a place.
        seen = range(visible_pages(start, page, window).start, -(-t.length // page))
        assert (t.block_table[:, seen.start : seen.stop] >= 0).all()
        t.trim()
        check(t)


@given(
    calls=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    more=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    window=st.none() | st.integers(1, 20),
)
def test_restore_puts_the_same_tokens_in_the_same_pages(
    calls: list[int], more: list[int], window: int | None
) -> None:
    t = table(2, sum(calls) + sum(more), 12, 4, window)
    for tokens in calls:
        t.extend(tokens)
        t.trim()
    mark, before = t.mark(), t.block_table.clone()
    for _ in range(2):
        for tokens in more:
            t.extend(tokens)
            t.trim()
        t.restore(mark)
        assert torch.equal(t.block_table, before)
        check(t)
    t.clear()
    assert t.live_pages == 0


def test_growing_keeps_a_sequence_in_one_stretch() -> None:
    t = table(batch=3, tokens=64, page=4)
    for _ in range(64):
        t.extend(1)
    for pages in pages_of(t):
        assert pages == list(range(pages[0], pages[0] + 16))


def test_a_window_uses_its_pages_again_in_turn() -> None:
    t = table(batch=1, tokens=400, call=1, page=4, window=16)
    assert t.pool_pages == 6
    breaks = 0
    for _ in range(400):
        t.extend(1)
        t.trim()
        assert t.live_pages <= 5
        (pages,) = pages_of(t)
        breaks = sum(b != a + 1 for a, b in pairwise(pages))
        assert breaks <= 1  # the ring's end


def test_a_full_pool_says_by_how_much_and_changes_nothing() -> None:
    t = table(batch=2, tokens=20, page=4)
    t.extend(18)
    before = t.block_table.clone()
    with pytest.raises(MemoryError, match=r"5 tokens after 18 need 1 pages of 4 tokens.*0 of 5"):
        t.extend(5)
    assert t.length == 18
    assert torch.equal(t.block_table, before)
    t.extend(2)


def test_a_windowed_pool_is_bounded_by_window_and_call() -> None:
    assert pages_needed(1 << 20, 512, 256, 4096) == 4096 // 256 + 512 // 256 + 1
    assert pages_needed(1 << 20, 512, 256, None) == 4096
    assert pages_needed(1000, 512, 256, 4096) == 4  # never more than without a window
