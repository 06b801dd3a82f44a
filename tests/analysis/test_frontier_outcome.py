"""What a single try says: within the limits, over which of them, or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from ctxsweep.analysis.frontier_outcome import outcome_of
from ctxsweep.records import Cell, MemoryReading, Reached, Record, Sample, Series, Status
from ctxsweep.scenario_frontier import Within

CELL = Cell(
    scenario="s",
    series=Series(name="a", model="m"),
    context_tokens=1024,
    generate_tokens=8,
    procedure="independent",
    role="frontier",
)
BOTH = Within(decode=0.02, prefill=2.0)
DECODE = Within(decode=1.0)
MEMORY = Within(memory=1 << 30)


def ran(prefill_s: float = 1.0, step_s: float = 0.01, **peaks: int) -> Record:
    sample = {"position": 0, "cpu_s": None}
    prefill = Sample(phase="prefill", tokens=1024, wall_s=prefill_s, **sample)
    decode = (Sample(phase="decode", tokens=1, wall_s=step_s, **sample),) * 8
    reading = MemoryReading(
        phase="prefill",
        position=1024,
        weights_bytes=1,
        cache_used_bytes=1,
        cache_reserved_bytes=1,
        **peaks,
    )
    return Record(cell=CELL, status=Status.OK, samples=(prefill, *decode), memory=(reading,))


def ended(status: Status, **fields: Any) -> Record:
    return Record(cell=CELL, status=status, detail="why", **fields)


def timed_out(prefill_s: float | None, decode_s: float | None, elapsed_s: float = 60.0) -> Record:
    reached = Reached(position=1024, prefill_s=prefill_s, decode_s=decode_s)
    return ended(Status.TIMEOUT, elapsed_s=elapsed_s, reached=reached)


def said(record: Record, within: Within) -> tuple[str, str | None]:
    outcome = outcome_of(record, within)
    return outcome.kind, outcome.reason


@pytest.mark.parametrize(
    ("record", "within", "reason"),
    [
        (ran(), BOTH, None),
        (ran(step_s=0.021), BOTH, "decode"),
        (ran(prefill_s=2.1), BOTH, "prefill"),
        (ran(prefill_s=2.1, step_s=0.1), BOTH, "decode"),
        (ran(process_peak_bytes=1 << 30), MEMORY, None),
        (ran(process_peak_bytes=(1 << 30) + 1), MEMORY, "memory"),
        (ran(process_peak_bytes=9 << 30, device_peak_bytes=1 << 29), MEMORY, None),
        (ran(process_peak_bytes=1 << 29, device_peak_bytes=9 << 30), MEMORY, "memory"),
        (ran(process_peak_bytes=9 << 30), DECODE, None),
        (ran(), MEMORY, None),
    ],
)
def test_a_cell_that_ran(record: Record, within: Within, reason: str | None) -> None:
    assert said(record, within) == ("over" if reason else "passes", reason)
    ran_but = "it ran, with a peak of" if reason == "memory" else ""
    assert outcome_of(record, within).detail.startswith(ran_but)


@pytest.mark.parametrize(
    ("record", "within", "expected"),
    [
        (timed_out(3.0, None), BOTH, ("over", "prefill")),
        (timed_out(1.0, 0.05), BOTH, ("over", "decode")),
        (timed_out(1.0, 0.01), BOTH, ("says_nothing", "time")),
        (timed_out(1.0, None), BOTH, ("says_nothing", "time")),
        (timed_out(None, None), BOTH, ("says_nothing", "time")),
        (timed_out(50.0, None), DECODE, ("says_nothing", "time")),
        (ended(Status.TIMEOUT, elapsed_s=60.0), BOTH, ("says_nothing", "time")),
        (ended(Status.TIMEOUT), BOTH, ("says_nothing", "load")),
        (ended(Status.OVER_BUDGET, predicted_s=9.0), BOTH, ("over", "prefill")),
        (ended(Status.OVER_BUDGET, predicted_s=1.0), BOTH, ("says_nothing", "time")),
        (ended(Status.OVER_BUDGET, predicted_s=9.0), DECODE, ("says_nothing", "time")),
        (ended(Status.OOM), BOTH, ("over", "memory")),
        (ended(Status.UNSUPPORTED), BOTH, ("says_nothing", "unsupported")),
        (ended(Status.ERROR), BOTH, ("says_nothing", "error")),
    ],
)
def test_a_cell_that_did_not(record: Record, within: Within, expected: tuple[str, str]) -> None:
    assert said(record, within) == expected
    assert outcome_of(record, within).detail == "why"


def test_only_a_spent_budget_is_tried_again_with_less() -> None:
    statuses = (Status.ERROR, Status.UNSUPPORTED, Status.TIMEOUT)
    assert all(outcome_of(ended(one), BOTH).final for one in statuses)
    assert not outcome_of(timed_out(1.0, None), BOTH).final
    assert not outcome_of(ended(Status.OOM), BOTH).final
