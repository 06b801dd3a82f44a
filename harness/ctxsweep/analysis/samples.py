"""Reading a record's samples: climbs, decode steps, and flags for outliers and contention."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from ctxsweep.analysis.estimate import Flags, outliers, smooth_trend
from ctxsweep.analysis.fits import Array
from ctxsweep.records import Record, Sample

Phase = Literal["prefill", "decode"]

CONTENDED_SHARE = 0.8
"""A sample that got less than this part of the processor that quiet samples got is contended."""
QUIET_QUANTILE = 0.9


@dataclass(frozen=True)
class Run:
    """Samples of one repetition in order of position: a climb, or a run of decode steps."""

    repeat: int
    position: Array
    tokens: Array
    wall_s: Array

    @property
    def whole_s(self) -> float:
        """Wall time of all its calls."""
        return float(self.wall_s.sum())


def of_phase(record: Record, phase: Phase) -> list[Sample]:
    """Samples of a phase, by repetition and position; the order of storing does not matter."""
    chosen = (s for s in record.samples if s.phase == phase)
    return sorted(chosen, key=lambda s: (s.repeat, s.position))


def runs(record: Record, phase: Phase) -> list[Run]:
    """The phase's repetitions."""
    result = []
    for repeat, group in groupby(of_phase(record, phase), key=lambda s: s.repeat):
        rows = np.array([(s.position, s.tokens, s.wall_s) for s in group], dtype=float)
        result.append(Run(repeat, rows[:, 0], rows[:, 1], rows[:, 2]))
    return result


def climbs(record: Record) -> list[Run]:
    """Repetitions whose chunks lead from 0 to the cell's context without a gap."""
    return [run for run in runs(record, "prefill") if _reaches(run, record.cell.context_tokens)]


def _reaches(run: Run, context_tokens: int) -> bool:
    ends = run.position + run.tokens
    return bool(
        run.position[0] == 0
        and ends[-1] == context_tokens
        and (run.position[1:] == ends[:-1]).all()
    )


def step_times(record: Record) -> Array:
    """Wall time per decoded token of every decode sample, in seconds."""
    decode = of_phase(record, "decode")
    return np.array([s.wall_s / s.tokens for s in decode], dtype=float)


def outlier_flags(samples: list[Sample]) -> Flags:
    """Which of one phase's samples lie far off; prefill chunks are judged around their trend."""
    values = np.array([s.wall_s / s.tokens for s in samples], dtype=float)
    if len(values) < 6:
        return np.zeros(len(values), dtype=bool)
    if samples[0].phase == "prefill":
        trend = smooth_trend(np.array([s.position for s in samples], dtype=float), values)
        values = values / np.maximum(trend, 1e-3 * np.median(values))
    return outliers(values)


def contended_flags(samples: list[Sample]) -> Flags | None:
    """Which of one phase's samples had to share the processor; None where that cannot be told.

    CPU time under wall time times threads is normal: much of a step runs on one thread. What
    shows contention is a sample whose CPU seconds per wall second fall under ``CONTENDED_SHARE``
    of what the quiet samples of the same cell and phase get (their 90th percentile, and never
    less than one thread: a call that computes keeps at least its own thread busy, so that a cell
    that was squeezed throughout is seen too). With device time there is a wait in every call and
    CPU time says nothing; where another process does the work there is none.
    """
    cpu_s = [s.cpu_s for s in samples if s.cpu_s is not None and s.device_s is None]
    if not samples or len(cpu_s) < len(samples):
        return None
    wall_s = [s.wall_s for s in samples]
    pairs = zip(cpu_s, wall_s, strict=True)
    busy = np.array([cpu / wall if wall > 0 else np.inf for cpu, wall in pairs])
    quiet = max(1.0, float(np.quantile(busy, QUIET_QUANTILE)))
    flags: Flags = busy < CONTENDED_SHARE * quiet
    return flags


def contended_share(record: Record) -> float | None:
    """Share of a record's samples that are contended; None where that cannot be told."""
    flags = [contended_flags(of_phase(record, phase)) for phase in ("prefill", "decode")]
    known = [f for f in flags if f is not None]
    return float(np.concatenate(known).mean()) if known else None


def outlier_count(record: Record) -> int:
    """How many of a record's samples are flagged as outliers; all of them stay in."""
    return sum(int(outlier_flags(of_phase(record, p)).sum()) for p in ("prefill", "decode"))
