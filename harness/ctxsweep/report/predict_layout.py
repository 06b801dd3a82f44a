"""Tables that are wider than the terminal: broken into groups of columns, never cut."""

from __future__ import annotations

from collections.abc import Sequence


def column_groups(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, gap: int
) -> list[tuple[int, ...]]:
    """The columns that stand beside one another in ``width``, the first one in every group.

    gap: characters between columns. A head may have several lines.
    """
    widths = [
        max(*(len(line) for line in head.split("\n")), *(len(row[i]) for row in rows), 0)
        for i, head in enumerate(heads)
    ]
    groups, used = [[0]], widths[0]
    for i, wide in enumerate(widths[1:], 1):
        if used + gap + wide > width and len(groups[-1]) > 1:
            groups.append([0])
            used = widths[0]
        groups[-1].append(i)
        used += gap + wide
    return [tuple(group) for group in groups]
