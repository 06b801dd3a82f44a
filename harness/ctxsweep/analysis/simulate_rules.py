"""The rules that a simulation compares: ours, with and without rechecks, and three plain ones.

Ours is the real decision code, from samples on: see ``level_table``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import mannwhitneyu, ttest_ind  # type: ignore[import-untyped]

from ctxsweep.analysis.change import level_of_samples
from ctxsweep.analysis.comparison import Outcome
from ctxsweep.analysis.fits import Array
from ctxsweep.analysis.level_table import LevelLine, Verdicts, judge_levels, settle_levels
from ctxsweep.analysis.simulate_machine import CONTEXTS
from ctxsweep.scenario_regression import Regression

Flags = npt.NDArray[np.bool_]

METRIC = "itl_s"
PLAN = Regression()
MEANS_LIMIT = 0.05
P_LIMIT = 0.05


@dataclass(frozen=True)
class Judged:
    """A table of one metric after the first judgement."""

    lines: tuple[LevelLine, ...]
    first: Verdicts

    def settled(self, turns: Array) -> tuple[Outcome, ...]:
        """Outcomes after rounds of the chosen cells, base and new ``[2, rounds, chosen, n]``."""
        differences = [
            [_log(new) - _log(base) for base, new in zip(*sides, strict=True)]
            for sides in np.moveaxis(turns, 2, 0)
        ]
        return settle_levels(self.lines, self.first, differences, PLAN)


def compare_samples(base: Sequence[Array], new: Sequence[Array]) -> Judged:
    """Judge a table. A side is its cells ``[24, n]`` and its sentinels ``[S, n]``."""
    lines = tuple(
        LevelLine(
            series=f"series {cell // CONTEXTS}",
            context_tokens=1024 << (cell % CONTEXTS),
            metric=METRIC,
            base=level_of_samples(before),
            new=level_of_samples(after),
        )
        for cell, (before, after) in enumerate(zip(base[0], new[0], strict=True))
    )
    sentinels = [[level_of_samples(x) for x in side[1]] for side in (base, new)]
    return Judged(lines, judge_levels(lines, {METRIC: sentinels}, PLAN))


def means_apart(base: Array, new: Array) -> Flags:
    """Slower by 5% on means; of samples ``[..., n]`` one flag for every ``[...]``."""
    slower: Flags = new.mean(axis=-1) > (1 + MEANS_LIMIT) * base.mean(axis=-1)
    return slower


def mann_whitney(base: Array, new: Array) -> Flags:
    """Slower by a two-sided rank test at 0.05, cell by cell."""
    found = mannwhitneyu(new, base, axis=-1, method="asymptotic")
    slower: Flags = (found.pvalue < P_LIMIT) & (found.statistic > new.shape[-1] ** 2 / 2)
    return slower


def welch(base: Array, new: Array) -> Flags:
    """Slower by Welch's two-sided t test at 0.05, cell by cell."""
    found = ttest_ind(new, base, axis=-1, equal_var=False)
    slower: Flags = (found.pvalue < P_LIMIT) & (found.statistic > 0)
    return slower


RIVALS: dict[str, Callable[[Array, Array], Flags]] = {
    "5% on means": means_apart,
    "Mann-Whitney": mann_whitney,
    "Welch's t": welch,
}


def _log(samples: Array) -> float:
    return level_of_samples(samples).log
