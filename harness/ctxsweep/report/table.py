"""What a table of the page is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A heading, sentences, and rows of text under ``heads``.

    ``folded`` starts closed; ``first`` stands above the charts, ``lead`` above the verdicts.
    """

    name: str
    title: str
    heads: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()
    notes: tuple[str, ...] = ()
    folded: bool = False
    first: bool = False
    lead: bool = False
