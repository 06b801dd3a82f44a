"""A comparison as Markdown: for a pull request or the page of a job."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ctxsweep.analysis.comparison import Change, Comparison
from ctxsweep.report.compare_words import (
    counted,
    headline,
    method_line,
    metric_name,
    not_compared_line,
    of_outcome,
    remark,
    side_line,
    sides,
    size,
)

MOST_FOLDED = 150
"""A comment on a pull request holds 65,536 characters."""
HEADS = ("", "What", "Metric", "Change", "Base → new", "Why")


def markdown(comparison: Comparison) -> str:
    """The headline, what is SLOW or FAST, and the rest folded."""
    parts = [f"**{_escaped(headline(comparison))}**\n"]
    changed = of_outcome(comparison, "SLOW", "FAST")
    if changed:
        parts.append(_table(changed))
    parts += [
        _folded(f"{counted(len(lines), 'line')} {outcome}", _table(lines))
        for outcome in ("AMBG", "SAME")
        if (lines := of_outcome(comparison, outcome))
    ]
    if comparison.not_compared:
        count = sum(entry.count for entry in comparison.not_compared)
        entries = [not_compared_line(entry) for entry in comparison.not_compared]
        parts.append(_folded(f"{count} not compared", _list(entries)))
    parts.append(_folded("What was compared, and how", _list(_about(comparison))))
    return "\n".join(parts)


def _about(comparison: Comparison) -> list[str]:
    return [
        f"Scenario: {comparison.scenario}",
        f"Base: {side_line(comparison.base)}",
        f"New: {side_line(comparison.new)}",
        *(f"Differs: {difference}" for difference in comparison.differences),
        method_line(comparison),
    ]


def _table(changes: Sequence[Change]) -> str:
    shown = changes[:MOST_FOLDED]
    rows = [
        (
            change.outcome,
            change.subject,
            metric_name(change),
            size(change.ratio),
            sides(change),
            remark(change),
        )
        for change in shown
    ]
    kept = [i for i in range(len(HEADS)) if i < 5 or any(row[i] for row in rows)]
    lines = [[HEADS[i] for i in kept], ["---"] * len(kept)]
    lines += [[_escaped(row[i]) for i in kept] for row in rows]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    more = len(changes) - len(shown)
    return f"{text}\nand {counted(more, 'line')} more\n" if more else text


def _folded(title: str, body: str) -> str:
    # The empty line is what makes Markdown of the body.
    return f"<details><summary>{title}</summary>\n\n{body}\n</details>\n"


def _list(entries: Sequence[str]) -> str:
    return "".join(f"- {_escaped(entry)}\n" for entry in entries)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is: in one line, ends no cell, makes no tag, calls nobody."""
    one_line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    marked = re.sub(r"[\\|*`~]|(?<!\w)_|_(?!\w)|(?<=\])\(", r"\\\g<0>", one_line)
    return re.sub(r"@(?=\w)", "@&#8203;", marked)
