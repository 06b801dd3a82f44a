"""What a try of the search says of the limits, from its record alone."""

from __future__ import annotations

from ctxsweep.analysis.frontier_summary import Limit, Reason, TryOutcome
from ctxsweep.analysis.metrics import itl_s, prefill_s
from ctxsweep.records import Record, Status
from ctxsweep.scenario_frontier import Within

PASSES = TryOutcome(kind="passes")


def outcome_of(record: Record, within: Within) -> TryOutcome:
    """Whether a cell ran within the limits, over which it went, or that it says nothing of them.

    Times count by their median. ``within.memory`` is judged by the peak too, for only some systems
    can enforce it: of the GPU's allocator where there is one, else of the resident set.
    """
    if record.status is Status.OK:
        return _of_a_run(record, within)
    if record.status is Status.OOM:
        return TryOutcome(kind="over", reason="memory", detail=record.detail)
    if record.status in (Status.TIMEOUT, Status.OVER_BUDGET):
        return _of_time(record, within)
    reason: Reason = "unsupported" if record.status is Status.UNSUPPORTED else "error"
    return TryOutcome(kind="says_nothing", reason=reason, detail=record.detail)


def _of_a_run(record: Record, within: Within) -> TryOutcome:
    """Of several limits the one that it exceeds most."""
    over = [(share, limit) for limit, share in _shares(record, within).items() if share > 1]
    if not over:
        return PASSES
    limit = max(over)[1]
    peak = _peak_bytes(record) if limit == "memory" else None
    detail = f"it ran, with a peak of {peak / 2**20:.0f} MiB" if peak else ""
    return TryOutcome(kind="over", reason=limit, detail=detail)


def _of_time(record: Record, within: Within) -> TryOutcome:
    """A cell whose time was over: by a limit that was sought, or by a budget of the sweep."""
    if record.status is Status.OVER_BUDGET:
        prefill, decode = record.predicted_s, None
    else:
        reached = record.reached
        prefill, decode = (reached.prefill_s, reached.decode_s) if reached else (None, None)
    shares: dict[Limit, float] = {}
    if within.prefill and prefill:
        shares["prefill"] = prefill / within.prefill
    if within.decode and decode:
        shares["decode"] = decode / within.decode
    over = [(share, limit) for limit, share in shares.items() if share > 1]
    if over:
        return TryOutcome(kind="over", reason=max(over)[1], detail=record.detail)
    begun = record.predicted_s is not None or record.elapsed_s > 0
    reason: Reason = "time" if begun else "load"
    return TryOutcome(kind="says_nothing", reason=reason, detail=record.detail)


def _shares(record: Record, within: Within) -> dict[Limit, float]:
    """What was measured as a share of its limit."""
    decode, prefill = itl_s(record), prefill_s(record)
    peak = _peak_bytes(record)
    shares: dict[Limit, float] = {}
    if within.memory and peak:
        shares["memory"] = peak / within.memory
    if within.decode and decode:
        shares["decode"] = decode.value / within.decode
    if within.prefill and prefill:
        shares["prefill"] = prefill.value / within.prefill
    return shares


def _peak_bytes(record: Record) -> int | None:
    """Of the GPU's allocator where it is known, else of the process; None: nobody tells."""
    for name in ("device_peak_bytes", "process_peak_bytes"):
        known = [getattr(one, name) for one in record.memory if getattr(one, name) is not None]
        if known:
            return int(max(known))
    return None
