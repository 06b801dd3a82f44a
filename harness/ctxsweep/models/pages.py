"""Which pages a context takes, as arithmetic. Never imports torch."""

from __future__ import annotations


def visible_pages(length: int, page_size: int, window: int | None) -> range:
    """The logical pages that the next token can see when ``length`` tokens are held.

    A window of W includes the token itself, so that of the past it sees W − 1 tokens.
    """
    first = max(0, length - window + 1) // page_size if window else 0
    return range(first, -(-length // page_size))


def pages_needed(max_tokens: int, max_call_tokens: int, page_size: int, window: int | None) -> int:
    """Pages that a sequence can take at most: a window bounds them, but for one call's tokens."""
    pages = -(-max_tokens // page_size)
    if window is None:
        return pages
    # Neither end of what is held need fall on a page's border.
    return min(pages, -(-(window + max_call_tokens) // page_size) + 1)
