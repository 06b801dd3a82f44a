"""Innermost loops of machine code, from its control flow.

A loop is what its back edge's target dominates and can come back from. Addresses alone do not tell:
ptxas moves the spins of barrier waits behind the kernel's end, from where they jump back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHORTEST = 12  # instructions; shorter loops spin on a barrier


@dataclass(frozen=True)
class Flow:
    """How control leaves an instruction: to indices `targets`, and to the next if it `falls`."""

    targets: tuple[int, ...] = ()
    falls: bool = True


def reachable(flows: Sequence[Flow]) -> list[int]:
    """Indices of the instructions that the first can come to, calls not followed.

    What is left out is padding, and functions of the compiler that are called when all is lost.
    """
    starts, successors = _blocks(flows)
    ends = [*starts[1:], len(flows)]
    return [i for b in sorted(_postorder(successors)) for i in range(starts[b], ends[b])]


def innermost(flows: Sequence[Flow]) -> list[list[int]]:
    """Indices of the instructions of every innermost loop, in the order of their headers."""
    starts, successors = _blocks(flows)
    ends = [*starts[1:], len(flows)]
    loops = _natural_loops(successors)
    long = {
        header: body
        for header, body in loops.items()
        if sum(ends[b] - starts[b] for b in body) >= SHORTEST
    }
    return [
        [i for b in sorted(body) for i in range(starts[b], ends[b])]
        for header, body in sorted(long.items())
        if not any(other != header and inner < body for other, inner in long.items())
    ]


def _blocks(flows: Sequence[Flow]) -> tuple[list[int], list[list[int]]]:
    """First instruction and successors of every basic block."""
    places = {0}
    for index, flow in enumerate(flows):
        places.update(flow.targets)
        if flow.targets or not flow.falls:
            places.add(index + 1)
    starts = sorted(place for place in places if place < len(flows))
    block_of = {start: block for block, start in enumerate(starts)}
    successors = []
    for end in [*starts[1:], len(flows)]:
        last = flows[end - 1]
        following = (end, *last.targets) if last.falls else last.targets
        successors.append([block_of[place] for place in following if place in block_of])
    return starts, successors


def _natural_loops(successors: list[list[int]]) -> dict[int, set[int]]:
    """Blocks of the loop of every header; those with one header are one loop."""
    order = _postorder(successors)
    predecessors: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for successor in successors[block]:
            predecessors[successor].append(block)
    dominator = _dominators(order, predecessors)
    loops: dict[int, set[int]] = {}
    for block in order:
        for header in successors[block]:
            if not _dominates(header, block, dominator):
                continue
            body = loops.setdefault(header, {header})
            waiting = [block]
            while waiting:
                member = waiting.pop()
                if member not in body:
                    body.add(member)
                    waiting += predecessors[member]
    return loops


def _postorder(successors: list[list[int]]) -> list[int]:
    order: list[int] = []
    seen = {0}
    path = [(0, iter(successors[0]))]
    while path:
        block, rest = path[-1]
        for successor in rest:
            if successor not in seen:
                seen.add(successor)
                path.append((successor, iter(successors[successor])))
                break
        else:
            order.append(block)
            path.pop()
    return order


def _dominators(order: list[int], predecessors: dict[int, list[int]]) -> dict[int, int]:
    """Immediate dominators (Cooper, Harvey, Kennedy: A simple, fast dominance algorithm)."""
    rank = {block: place for place, block in enumerate(order)}
    dominator = {0: 0}
    changed = True
    while changed:
        changed = False
        for block in reversed(order[:-1]):
            known = [p for p in predecessors[block] if p in dominator]
            new = known[0]
            for other in known[1:]:
                new = _common(new, other, dominator, rank)
            if dominator.get(block) != new:
                dominator[block] = new
                changed = True
    return dominator


def _common(a: int, b: int, dominator: dict[int, int], rank: dict[int, int]) -> int:
    while a != b:
        while rank[a] < rank[b]:
            a = dominator[a]
        while rank[b] < rank[a]:
            b = dominator[b]
    return a


def _dominates(above: int, block: int, dominator: dict[int, int]) -> bool:
    while block != above:
        if block == dominator[block]:
            return False
        block = dominator[block]
    return True
