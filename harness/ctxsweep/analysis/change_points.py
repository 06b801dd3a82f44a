"""Since which night a metric is different: Apache Otava over one metric's values in time order.

Otava (formerly Hunter: Fleming et al. 2023, doi 10.1145/3578244.3583719) splits a history where
its two parts differ most (E-divisive, arXiv 1306.4933) and keeps a split by Student's t. As it
stands, a page of 100 metrics would show false points every week: the t test takes nights for
independent and normal, and is asked at the place that looks worst. Hence these settings, whose
rates ``python -m ctxsweep.analysis.simulate_history`` measures:

- the window is the whole history: every further window is one more chance of a false point;
- the first pass takes all that is likely (p ≤ ``FIRST_PASS_P_VALUE``): a metric that got worse and
  better again shows its two points only together;
- what stays must have p ≤ ``MAX_P_VALUE``, far under Otava's 0.001: many places times many metrics
  are looked at;
- a change under ``MIN_CHANGE`` is nobody's business;
- a level lasts ``MIN_NIGHTS`` nights or more: one bad night, the last one too, is the business of
  the comparison with the baseline, not of a trend;
- where the nights of a level resemble their neighbours (a machine that has good and bad weeks), t
  is made smaller by what that resemblance costs, and the point must pass once more.

Metrics that are read and not sampled, as bytes of a cache, need none of that: for them every step
beyond rounding is a point, in its first night, and Otava is not asked.

Otava's own dependencies (BigQuery, Slack, an old NumPy) do not fit beside ours and its analysis
needs none of them: ``make`` installs the package alone into ``.venv/otava``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy.stats import t as student_t  # type: ignore[import-untyped]

from ctxsweep.analysis.estimate import inflation
from ctxsweep.analysis.fits import Array
from ctxsweep.frozen import Frozen
from ctxsweep.store import StoreError

FIRST_PASS_P_VALUE = 0.003
MAX_P_VALUE = 1e-5
MIN_CHANGE = 0.02
MIN_NIGHTS = 3
ROUNDING = 1e-6
OTAVA = Path(sys.prefix) / "otava"


class OtavaMissing(StoreError):
    """Apache Otava is not installed; the message says what brings it."""

    def __init__(self) -> None:
        super().__init__(
            "Apache Otava, which finds change points, is not installed: make nightly or make test "
            "brings it (elsewhere: pip install --no-deps apache-otava)"
        )


class ChangePoint(Frozen):
    """From the night ``index`` on, the metric is at another level. Means of the two levels; of an
    exact metric the values of the two nights."""

    index: int
    time: datetime
    commit: str | None
    before: float
    after: float
    relative: float | None = None
    """``after / before − 1``; None where one is zero or they differ in sign."""
    p_value: float


def change_points(
    values: Sequence[float],
    times: Sequence[datetime],
    commits: Sequence[str | None],
    *,
    exact: bool = False,
) -> list[ChangePoint]:
    """The change points of one metric, oldest first; ``exact``: the values carry no noise.

    ``values`` [nights] in time order, finite. Raises ``OtavaMissing``, and ``ValueError`` for
    values that are not finite or of which not every one has a time and a commit.
    """
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all() or not len(values) == len(times) == len(commits):
        raise ValueError("every night needs a finite value, a time and a commit")
    if len(array) < 2 or np.ptp(array) == 0:
        return []
    shifts = _steps(array) if exact else _lasting_shifts(array)
    return [_named(shift, times, commits) for shift in shifts]


@dataclass(frozen=True)
class _Shift:
    """The step between two levels of a history."""

    index: int
    before: float
    after: float
    p_value: float

    @property
    def size(self) -> float:
        """Change relative to the smaller level."""
        smaller = min(abs(self.before), abs(self.after))
        return abs(self.after - self.before) / smaller if smaller else np.inf


def _steps(values: Array) -> list[_Shift]:
    """Every night whose value differs from the night before by more than rounding."""
    pairs = enumerate(pairwise(values.tolist()), start=1)
    return [
        _Shift(index, before, after, 0.0)
        for index, (before, after) in pairs
        if abs(after - before) > ROUNDING * max(abs(before), abs(after), 1.0)
    ]


def _lasting_shifts(values: Array) -> list[_Shift]:
    """The steps between levels that Otava finds and that pass every limit of this module."""
    limits = _lasting(values, [0, *_split(values), len(values)])
    while len(limits) > 2:
        shifts = _shifts(values, limits, _resemblance(values, limits))
        weakest = max(shifts, key=lambda shift: (shift.p_value, -shift.size))
        if weakest.p_value <= MAX_P_VALUE:
            weakest = min(shifts, key=lambda shift: shift.size)
            if weakest.size >= MIN_CHANGE:
                return shifts
        limits.remove(weakest.index)  # its neighbours are now judged anew
    return []


def _shifts(values: Array, limits: list[int], noise: float) -> list[_Shift]:
    found = []
    for first, index, last in zip(limits, limits[1:], limits[2:], strict=False):
        before, after = values[first:index], values[index:last]
        p_value = _p_value(before, after, noise)
        found.append(_Shift(index, float(before.mean()), float(after.mean()), p_value))
    return found


def _named(shift: _Shift, times: Sequence[datetime], commits: Sequence[str | None]) -> ChangePoint:
    old, new = shift.before, shift.after
    return ChangePoint(
        index=shift.index,
        time=times[shift.index],
        commit=commits[shift.index],
        before=old,
        after=new,
        relative=new / old - 1 if old * new > 0 else None,
        p_value=shift.p_value,
    )


def _split(values: Array) -> list[int]:
    """Otava's change points: the first night of every new level."""
    otava, series = _otava(), values.tolist()
    with np.errstate(divide="ignore", invalid="ignore"):  # levels without any scatter
        weak = otava.split(series, 2 * len(series), FIRST_PASS_P_VALUE)
        points = otava.merge(weak, series, MAX_P_VALUE, MIN_CHANGE)
    return [int(point.index) for point in points]


def _lasting(values: Array, limits: list[int]) -> list[int]:
    """Those that remain when every level under ``MIN_NIGHTS`` has joined its likelier neighbour."""
    limits = list(limits)
    while len(limits) > 2:
        levels = [values[a:b] for a, b in pairwise(limits)]
        short = min(range(len(levels)), key=lambda i: len(levels[i]))
        if len(levels[short]) >= MIN_NIGHTS:
            break
        mean = levels[short].mean()
        neighbours = [i for i in (short - 1, short + 1) if 0 <= i < len(levels)]
        likelier = min(neighbours, key=lambda i: abs(levels[i].mean() - mean))
        del limits[max(short, likelier)]
    return limits


def _resemblance(values: Array, limits: list[int]) -> float:
    """How many nights make one independent night, 1 or more: from what the levels leave over."""
    levels = [values[a:b] for a, b in pairwise(limits)]
    return inflation(np.concatenate([level - np.median(level) for level in levels]))


def _p_value(before: Array, after: Array, noise: float) -> float:
    """Student's t, two-sided, each ``noise`` nights worth one; 0 for levels without scatter."""
    freedom = len(before) + len(after) - 2
    squares = ((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum()
    if freedom < 1 or squares == 0:
        return 0.0
    error = np.sqrt(noise * squares / freedom * (1 / len(before) + 1 / len(after)))
    return float(2 * student_t.sf(abs(after.mean() - before.mean()) / error, freedom))


def _otava() -> ModuleType:
    """Otava's analysis, from ``.venv/otava`` or from the environment."""
    beside = [str(OTAVA)] if OTAVA.is_dir() else []
    sys.path[:0] = beside
    try:
        return importlib.import_module("otava.analysis")
    except ImportError as error:
        raise OtavaMissing from error
    finally:
        for folder in beside:
            sys.path.remove(folder)
