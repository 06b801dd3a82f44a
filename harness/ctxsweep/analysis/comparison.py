"""What two runs say of each other: the types of ``comparison.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ctxsweep.analysis.interval import Estimate
from ctxsweep.frozen import Frozen

Outcome = Literal["FAST", "SLOW", "SAME", "AMBG"]
"""Better, worse (whatever the metric: more bytes are SLOW too), equal within the threshold, or not
to be told."""
Kind = Literal["cell", "curve", "bench"]


class Side(Frozen):
    """One of the two: a run, several runs of one scenario, or a file of pytest-benchmark."""

    label: str = Field(description="As it was named, for people.")
    run_ids: tuple[str, ...]
    commit: str | None = None
    dirty: bool | None = None
    started_at: str = ""
    machine: str = Field("", description="Processor or GPU, threads.")
    missing_cells: int = Field(0, description="Planned, and without a record.")


class Recheck(Frozen):
    """A suspect measured again: base and new in turn, so that what drifts falls on both."""

    rounds: int
    interleaved: bool = Field(description="False: only the new build could be measured again.")
    ratio: Estimate | None
    p_value: float | None


class Change(Frozen):
    """One line of the table: one metric of one cell, of one curve, or of one benchmark."""

    kind: Kind
    subject: str = Field(description="For people: ``gqa at 8K``, ``gqa ×4``, a benchmark's name.")
    series: str = Field(description="Of a benchmark: its name.")
    batch_size: int = 1
    context_tokens: int | None = None
    metric: str = Field(
        description="Of METRICS; of a curve with the parameter: ``itl_s.slope``, ``itl_s.class``, "
        "``itl_s.crossover``, ``cache_used_bytes.slope``; of a benchmark ``time_s``."
    )
    unit: str
    base: Estimate | None = Field(description="None where there is only a word, as of a class.")
    new: Estimate | None
    base_word: str = Field("", description="Where a side has no figure: a class, a status.")
    new_word: str = ""
    ratio: Estimate | None = Field(description="New over base, 95% interval; above 1 is worse.")
    p_value: float | None = Field(description="One-sided, that it is not worse; None: exact.")
    threshold: float = Field(description="Change, as a share, under which nobody is told.")
    outcome: Outcome
    why: str = Field("", description="What makes it AMBG, or what settled it.")
    suspect: bool = Field(False, description="Worth measuring again before anybody is told.")
    recheck: Recheck | None = None


class NotCompared(Frozen):
    """Cells and metrics of which no ratio is given, and why."""

    what: str
    count: int
    reason: str


class Scatter(Frozen):
    """How far apart two processes that do the same come out, beyond what their samples show."""

    metric: str
    relative: float
    freedom: float
    source: str = Field(description="Where it is taken from, for people.")


class Comparison(Frozen):
    """All of ``comparison.json``."""

    schema_version: int = 1
    scenario: str
    base: Side
    new: Side
    alarm_rate: float = Field(description="False alarms allowed per table of equal builds.")
    changes: tuple[Change, ...]
    not_compared: tuple[NotCompared, ...] = ()
    differences: tuple[str, ...] = Field(
        (), description="What differs between the two and was compared across."
    )
    scatter: tuple[Scatter, ...] = ()

    @property
    def regressions(self) -> tuple[Change, ...]:
        """What is SLOW, the largest first."""
        return self._largest("SLOW")

    @property
    def improvements(self) -> tuple[Change, ...]:
        """What is FAST, the largest first."""
        return self._largest("FAST")

    @property
    def blind(self) -> bool:
        """Whether no time was compared: what is left says nothing of speed."""
        return not any(
            change.kind == "bench" or change.metric in ("prefill_s", "itl_s", "status")
            for change in self.changes
        )

    def count(self, outcome: Outcome) -> int:
        """How many lines have this outcome."""
        return sum(change.outcome == outcome for change in self.changes)

    def _largest(self, outcome: Outcome) -> tuple[Change, ...]:
        found = [change for change in self.changes if change.outcome == outcome]
        return tuple(sorted(found, key=_size, reverse=True))


def _size(change: Change) -> float:
    """How much worse or better, as a factor; what has no figure comes first."""
    if change.ratio is None or change.ratio.value <= 0:
        return float("inf")
    return max(change.ratio.value, 1 / change.ratio.value)
