"""Made-up comparisons: one with everything in it, one of nothing, one of 150 lines."""

from __future__ import annotations

import random

from ctxsweep.analysis.comparison import (
    Change,
    Comparison,
    Kind,
    NotCompared,
    Outcome,
    Recheck,
    Scatter,
    Side,
)
from ctxsweep.analysis.interval import Estimate
from ctxsweep.report.units import TOKENS

CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768)
SERIES = ("gqa", "window", "mamba2")
BASE = Side(
    label="results/baselines/2-core-amd-epyc/smoke",
    run_ids=("20260101T020000Z-aaaa",),
    commit="1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d",
    dirty=False,
    started_at="2026-01-01T02:00:00Z",
    machine="AMD EPYC, 2 threads",
)
NEW = Side(
    label="results/smoke/20260102T020000Z-bbbb",
    run_ids=("20260102T020000Z-bbbb",),
    commit="ffee3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d",
    dirty=True,
    started_at="2026-01-02T02:00:00Z",
    machine="AMD EPYC, 2 threads",
)


def cost(series: str, metric: str, context: int) -> float:
    """What a cell of the base costs."""
    held = {"gqa": context, "window": min(context, 4096), "mamba2": 900}[series]
    if metric == "cache_used_bytes":
        return held * 512.0
    if metric == "itl_s":
        return 0.0011 + held * 1.2e-7
    return context * (3e-5 + held * 2e-9)


def cell(
    series: str,
    metric: str,
    context: int,
    ratio: float,
    outcome: Outcome,
    half: float = 0.02,
    **extra: object,
) -> Change:
    """A line of a cell; ``half`` 0 makes it exact."""
    value = cost(series, metric, context)
    return Change(
        kind="cell",
        subject=f"{series} at {TOKENS.text(context)}",
        series=series,
        context_tokens=context,
        metric=metric,
        unit="bytes" if metric.endswith("bytes") else "s",
        base=around(value, half / 2),
        new=around(value * ratio, half / 2),
        ratio=around(ratio, half),
        p_value=None if half == 0 else 0.5 / ratio**9,
        threshold=0.01 if half == 0 else 0.05,
        outcome=outcome,
    ).model_copy(update=extra)


def word(kind: Kind, series: str, metric: str, base: str, new: str, **extra: object) -> Change:
    """A line that has words in place of figures."""
    return Change(
        kind=kind,
        subject=series,
        series=series,
        metric=metric,
        unit="",
        base=None,
        new=None,
        base_word=base,
        new_word=new,
        ratio=None,
        p_value=None,
        threshold=0.0,
        outcome="SLOW",
    ).model_copy(update=extra)


def around(value: float, half: float) -> Estimate:
    if half == 0:
        return Estimate(value=value)
    return Estimate(value=value, low=value * (1 - half), high=value * (1 + half), n=30)


def bench(name: str, ratio: float, outcome: Outcome) -> Change:
    return Change(
        kind="bench",
        subject=name,
        series=name,
        metric="time_s",
        unit="s",
        base=around(3.1e-5, 0.01),
        new=around(3.1e-5 * ratio, 0.01),
        ratio=around(ratio, 0.02),
        p_value=0.4,
        threshold=0.05,
        outcome=outcome,
    )


def slope(series: str, ratio: float, outcome: Outcome, half: float) -> Change:
    return Change(
        kind="curve",
        subject=series,
        series=series,
        metric="itl_s.slope",
        unit="s/token",
        base=around(1.2e-7, half),
        new=around(1.2e-7 * ratio, half),
        ratio=around(ratio, half),
        p_value=0.2,
        threshold=0.05,
        outcome=outcome,
    )


def everything() -> Comparison:
    """3 series × 6 contexts × 3 metrics, with regressions of every sort."""
    noise = random.Random(7)
    told: dict[tuple[str, str, int], tuple[float, Outcome]] = {
        ("gqa", "itl_s", 8192): (1.103, "SLOW"),
        ("window", "prefill_s", 32768): (1.31, "SLOW"),
        ("mamba2", "itl_s", 2048): (0.91, "FAST"),
    }
    changes: list[Change] = []
    for series in SERIES:
        for metric in ("itl_s", "prefill_s", "cache_used_bytes"):
            for context in CONTEXTS:
                if (series, context) == ("gqa", 32768):
                    continue
                ratio, outcome = told.get((series, metric, context), (0.0, "SAME"))
                if metric == "cache_used_bytes":
                    changes.append(cell(series, metric, context, 1.0, "SAME", half=0))
                elif outcome != "SAME":
                    changes.append(cell(series, metric, context, ratio, outcome))
                elif noise.random() < 0.15:
                    extra = {"why": "the interval holds both no change and the threshold"}
                    changes.append(cell(series, metric, context, 1.05, "AMBG", 0.09, **extra))
                else:
                    drawn = noise.gauss(1, 0.012)
                    changes.append(cell(series, metric, context, drawn, "SAME"))
    again = Recheck(rounds=4, interleaved=True, ratio=around(1.098, 0.012), p_value=0.0004)
    changes = [
        change.model_copy(update={"recheck": again, "suspect": True})
        if (change.subject, change.metric) == ("gqa at 8K", "itl_s")
        else change
        for change in changes
    ]
    changes += [
        word("cell", "gqa", "status", "ok", "oom", subject="gqa at 32K", context_tokens=32768),
        word("curve", "window", "prefill_s.class", "O(n)", "O(n²)"),
        slope("gqa", 1.04, "AMBG", 0.2),
        slope("window", 1.01, "SAME", 0.03),
        bench("tests/bench/bench_ops.py::test_decode[8k|fp16]", 1.004, "SAME"),
        bench("tests/bench/bench_ops.py::test_append[1k]", 0.82, "FAST"),
    ]
    return Comparison(
        scenario="smoke",
        base=BASE,
        new=NEW,
        alarm_rate=0.01,
        changes=tuple(changes),
        not_compared=(
            NotCompared(what="rwkv7", count=6, reason="the base has no such series"),
            NotCompared(what="itl_s of mamba2 at 16K", count=1, reason="contended samples"),
        ),
        differences=("torch 2.9.0 → 2.9.1", "kernel 6.8.0 → 6.8.1"),
        scatter=(
            Scatter(metric="itl_s", relative=0.021, freedom=12, source="the sentinel"),
            Scatter(metric="prefill_s", relative=0.034, freedom=5, source="the table itself"),
        ),
    )


def quiet() -> Comparison:
    """The same without what is SLOW."""
    found = everything()
    kept = tuple(change for change in found.changes if change.outcome != "SLOW")
    return found.model_copy(update={"changes": kept})


def nothing() -> Comparison:
    """Two that cannot be compared."""
    left = NotCompared(what="all cells", count=18, reason="another device: H100, base on a CPU")
    return everything().model_copy(
        update={"changes": (), "not_compared": (left,), "scatter": (), "differences": ()}
    )


def long() -> Comparison:
    """150 lines of ten series, ten of which are not SAME."""
    noise = random.Random(3)
    changes = []
    for i in range(150):
        series = f"architecture_{i % 10}"
        context = 1024 * 2 ** (i // 30)
        metric = ("itl_s", "prefill_s", "cache_used_bytes")[i // 10 % 3]
        outcome: Outcome = ("SLOW", "AMBG", "FAST")[i // 15 % 3] if i % 15 == 0 else "SAME"
        ratio = {"SLOW": 1.2, "AMBG": 1.04, "FAST": 0.8, "SAME": noise.gauss(1, 0.01)}[outcome]
        made = cell("gqa", metric, context, ratio, outcome, 0.03)
        name = f"{series} at {TOKENS.text(context)}"
        changes.append(made.model_copy(update={"series": series, "subject": name}))
    return everything().model_copy(update={"changes": tuple(changes), "not_compared": ()})
