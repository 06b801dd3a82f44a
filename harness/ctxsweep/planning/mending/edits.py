"""The smallest edits that make a mapping valid, found by trying them, cheapest first.

What is valid is told by the validator alone: no rule is written down here a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ctxsweep.frozen import Frozen

Path = tuple[str, ...]
Fields = dict[str, Any]
Edited = tuple[float, int]

MOST_EDITS = 12
MOST_TRIED = 1500
"""Edits that are tried for one problem: seconds, if nothing is found."""
SCANNED = 64
"""How far up and down from a number its neighbours are tried one by one."""


class CannotMend(ValueError):
    """No valid mapping is near; the message says what is wrong."""


class Change(Frozen):
    """One edit: ``key`` from ``before`` to ``after``, as they are written, and why."""

    key: str
    before: str
    after: str
    why: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} → {self.after} ({self.why})"


class Removed:
    """Stands for the value of a key that is taken out."""


REMOVED = Removed()


@dataclass(frozen=True)
class Problem:
    """What is wrong first: where, in words, and how much is wrong in all."""

    path: Path
    message: str
    count: int = 1
    kind: str = "value_error"
    context: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Edit:
    """Values for paths, and what it costs to believe that this was meant."""

    cost: float
    values: tuple[tuple[Path, Any], ...]


def mended(
    fields: Mapping[str, Any],
    problem_of: Callable[[Fields], Problem | None],
    edits_for: Callable[[Fields, Problem], Iterable[Edit]],
) -> tuple[Fields, tuple[Change, ...]]:
    """A valid mapping, and the changes on the way there. Raises ``CannotMend``."""
    now, changes = dict(fields), list[Change]()
    first = problem = problem_of(now)
    while problem is not None:
        found = _cheapest(now, problem, problem_of, edits_for)
        if found is None or len(changes) == MOST_EDITS:
            # Without a path the problem may be one of our own making: then tell the first.
            shown = problem if problem.path else first or problem
            where = f"{'.'.join(shown.path)}: " if shown.path else ""
            more = ", and nothing else tells it" if shown.kind == "missing" else ""
            raise CannotMend(f"{where}{shown.message}{more}")
        changes.append(_change(now, found, problem))
        now = applied(now, found)
        problem = problem_of(now)
    return now, tuple(changes)


def applied(fields: Mapping[str, Any], edit: Edit) -> Fields:
    """The mapping with an edit made; what it was is left alone."""
    result = dict(fields)
    for path, value in edit.values:
        result = _put(result, path, value)
    return result


def read(fields: Mapping[str, Any], path: Path) -> Any:
    """The value at a path; None if there is none."""
    here: Any = fields
    for key in path:
        here = here.get(key) if isinstance(here, Mapping) else None
    return here


def leaves(fields: Mapping[str, Any], under: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value that is no mapping, with its path."""
    for key, value in fields.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*under, key))
        else:
            yield (*under, key), value


def neighbours(value: int, others: Iterable[int], weight: float = 1.0) -> Iterator[Edited]:
    """Numbers near ``value`` with what each costs: octaves away, and for being unusual.

    A number that is unusual itself is the likelier mistake, and cheaper to leave.
    """
    tried = {*range(value - SCANNED, value + SCANNED + 1)}
    tried |= {1 << bits for bits in range(21)}
    for other in others:
        tried |= {other - 1, other, other + 1, value // other * other, -(-value // other) * other}
        tried |= {other // parts for parts in range(1, 17) if other % parts == 0}
    doubt = 0.25 if _unusual(value) > 1 else 1.0
    for number in tried - {value}:
        if number >= 1:
            octaves = abs(math.log2(number / max(value, 1)))
            yield weight * doubt * octaves + 0.1 * _unusual(number), number


def _unusual(number: int) -> int:
    """From 0, a multiple of 16 or a power of two, to 4, a large odd number."""
    twos = (number & -number).bit_length() - 1
    return max(0, min(4, number.bit_length() - 1) - twos)


def spelled(value: Any) -> str:
    """A value as YAML has it, a long one cut."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key}: {spelled(one)}" for key, one in value.items())
        text = f"{{{inner}}}"
    else:
        text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:58]}…"


def _cheapest(
    now: Fields,
    problem: Problem,
    problem_of: Callable[[Fields], Problem | None],
    edits_for: Callable[[Fields, Problem], Iterable[Edit]],
) -> Edit | None:
    """The cheapest edit after which all is well, else the cheapest that gets rid of the problem."""
    next_best: Edit | None = None
    edits = sorted(edits_for(now, problem), key=lambda one: one.cost)
    for edit in edits[:MOST_TRIED]:
        left = problem_of(applied(now, edit))
        if left is None:
            return edit
        solved = left.count < problem.count or (
            left.count == problem.count and (left.path, left.kind) != (problem.path, problem.kind)
        )
        if problem.count == 1:  # validators tell one broken rule at a time: others may be behind it
            solved = solved or left.message != problem.message
            solved = solved and _first_key(left.message) != _first_key(problem.message)
            solved = solved and not any(path[-1] in left.message for path, _ in edit.values)
        if solved and problem.count > 1:
            return edit
        next_best = next_best or (edit if solved else None)
    return next_best


def _first_key(message: str) -> str:
    """The key that a message begins with: the same rule with other numbers is no progress."""
    return message.split(" = ")[0]


def _change(now: Fields, edit: Edit, problem: Problem) -> Change:
    """An edit in words; a renamed key is one change."""
    (path, value), *more = edit.values
    why = problem.message.split("; ")[0]
    if path != problem.path and " = " not in why and problem.kind != "value_error":
        why = f"{'.'.join(problem.path)} {why}"
    before = read(now, path)
    missing = before is None and not _has(now, path)
    after = "removed" if value is REMOVED else spelled(value)
    if value is REMOVED and more:
        after = "; ".join(f"{'.'.join(to)}: {spelled(new)}" for to, new in more)
    return Change(
        key=".".join(path), before="missing" if missing else spelled(before), after=after, why=why
    )


def _has(fields: Mapping[str, Any], path: Path) -> bool:
    inner = read(fields, path[:-1]) if path[:-1] else fields
    return isinstance(inner, Mapping) and path[-1] in inner


def _put(fields: Mapping[str, Any], path: Path, value: Any) -> Fields:
    result, (key, *rest) = dict(fields), path
    if rest:
        inner = result.get(key)
        result[key] = _put(inner if isinstance(inner, Mapping) else {}, tuple(rest), value)
    elif value is REMOVED:
        result.pop(key, None)
    else:
        result[key] = value
    return result
