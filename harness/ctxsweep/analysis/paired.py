"""Losses of the same targets, one against the other: within a pass, nothing else is comparable.

All passes of a stretch end at one place of the text, ``end_offset`` tokens earlier or not; blocks
of targets are therefore told by their distance from that place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ctxsweep.analysis.block_bootstrap import Mean, mean_of
from ctxsweep.analysis.fits import Array
from ctxsweep.records import Record

BOOTSTRAP_TOKENS = 64
"""Targets that are redrawn together, at least."""


@dataclass(frozen=True)
class PassKey:
    """Whose passes: the cell's series and context; the pass's own context and end."""

    series: str
    cell_tokens: int
    context_tokens: int
    end_offset: int = 0


class Losses:
    """All passes of a run. ``block_tokens`` targets make one stored loss, in the whole run."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._held: dict[PassKey, dict[int, Array]] = defaultdict(dict)
        self.block_tokens = 1
        for record in records:
            for one in record.quality.passes if record.quality else ():
                cell = record.cell
                key = PassKey(
                    cell.series.name, cell.context_tokens, one.context_tokens, one.end_offset
                )
                self._held[key][one.stretch] = np.array(one.losses, dtype=np.float64)
                self.block_tokens = one.block_tokens

    def own(self, series: str, context_tokens: int) -> PassKey:
        """The pass of a cell over its own context."""
        return PassKey(series, context_tokens, context_tokens)

    def stretches(self, key: PassKey) -> dict[int, Array]:
        """Losses of a pass by stretch, each [blocks] in the order of the text; empty if unknown."""
        return self._held.get(key, {})

    def short(self, series: str, cell_tokens: int, context_tokens: int) -> PassKey | None:
        """A cell's pass of ``context_tokens`` to the end of the text."""
        key = PassKey(series, cell_tokens, context_tokens)
        return key if key in self._held else None

    def nearest_short(self, series: str, cell_tokens: int, context_tokens: int) -> PassKey | None:
        """The same of the series' cell with the nearest context that has one."""
        keys = [
            key
            for key in self._held
            if (key.series, key.context_tokens, key.end_offset) == (series, context_tokens, 0)
        ]
        return min(keys, key=lambda key: abs(key.cell_tokens - cell_tokens), default=None)

    def offsets(self, series: str, context_tokens: int) -> tuple[int, ...]:
        """Ends of the passes of a cell over its own context, nearest to the end first."""
        return tuple(
            sorted(
                key.end_offset
                for key in self._held
                if (key.series, key.cell_tokens, key.context_tokens)
                == (series, context_tokens, context_tokens)
            )
        )

    def mean(self, key: PassKey, targets: int) -> float | None:
        """Mean loss of the last ``targets`` of every stretch; None if unknown."""
        count = max(1, targets // self.block_tokens)
        kept = [losses[-count:] for losses in self.stretches(key).values()]
        return float(np.concatenate(kept).mean()) if any(map(len, kept)) else None

    def differences(self, one: PassKey, other: PassKey, targets: int) -> Array | None:
        """``one`` − ``other`` of the last ``targets``, or of the fewer that both have.

        [stretches, blocks] in nats; None where the two share no stretch.
        """
        first, second = self.stretches(one), self.stretches(other)
        shared = sorted(first.keys() & second.keys())
        sizes = [min(len(first[s]), len(second[s])) for s in shared]
        count = min([max(1, targets // self.block_tokens), *sizes])
        if not shared or not count:
            return None
        return np.stack([first[s][-count:] - second[s][-count:] for s in shared])

    def compare(self, one: PassKey | None, other: PassKey | None, targets: int) -> Mean | None:
        """Mean of the paired differences with its interval."""
        if one is None or other is None:
            return None
        found = self.differences(one, other, targets)
        return None if found is None else self.mean_of(found)

    def mean_of(self, differences: Array) -> Mean:
        """Mean of [stretches, blocks] with its interval."""
        return mean_of(differences, max(1, round(BOOTSTRAP_TOKENS / self.block_tokens)))
