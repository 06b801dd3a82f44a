"""The sentinel: one small cell, measured again and again, shows what the machine itself changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ctxsweep.analysis.summary import Drift, Estimate
from ctxsweep.records import Record, Status

MIN_SENTINELS = 3


def log_deviation(drift: Drift) -> float:
    """How far apart two cells of the same cost came out: the sentinel's standard deviation."""
    if len(drift.values) < MIN_SENTINELS:
        return 0.0
    return float(np.log(drift.values).std(ddof=1))


def drift_of(
    sentinels: Sequence[Record], values: Mapping[str, Mapping[str, Estimate]]
) -> tuple[Drift, ...]:
    """The sentinel cells over the run: their decode step and their prefill."""
    groups: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in sentinels:
        if record.status is Status.OK:
            groups[record.cell.series.name, record.cell.context_tokens].append(record)
    result = []
    for (name, context), rows in groups.items():
        rows.sort(key=lambda r: (r.cell.occurrence, r.started_at))
        for metric in ("itl_s", "prefill_s"):
            seen = [(values[r.cell.key].get(metric), r.started_at) for r in rows]
            medians = tuple((e.value, at) for e, at in seen if e is not None)
            if medians:
                level = np.array([v for v, _ in medians])
                result.append(
                    Drift(
                        series=name,
                        context_tokens=context,
                        metric=metric,
                        values=tuple(v for v, _ in medians),
                        started_at=tuple(at for _, at in medians),
                        relative_spread=float(np.ptp(level) / np.median(level)),
                    )
                )
    return tuple(result)
