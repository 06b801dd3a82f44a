"""Curves of two runs: their class, the parameters of their law, and where they cross."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np

from ctxsweep.analysis.change import Level, contrast, level_of_estimate
from ctxsweep.analysis.comparison import Change, Scatter
from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.lines import Line, exact_line, settled_line
from ctxsweep.analysis.metrics import METRICS
from ctxsweep.analysis.scatter import between, is_guess
from ctxsweep.analysis.summary import Crossover, ScalingClass, Summary, Verdict
from ctxsweep.scenario_regression import PARAMETER_THRESHOLD, Regression

COEFFICIENTS = {"a": "intercept", "b": "slope", "c": "bend"}
ORDER: dict[ScalingClass, int] = {"O(1)": 0, "O(n)": 1, "O(n²)": 2}
HELD = {"held_bytes": "cache_used_bytes"}
Curve = tuple[str, int, str]
"""Series, batch size, metric."""
PER_TOKEN = {"intercept": "", "slope": " per token", "bend": " per token²"}


def compare_curves(
    base: Summary,
    new: Summary,
    plan: Regression,
    comparable: Collection[Curve],
    spreads: Mapping[str, Scatter],
) -> Iterator[Line]:
    """Lines for every curve that both runs have and that is ``comparable``.

    ``spreads`` are the scatter between processes by metric: what a fit shows of it is little.
    """
    earlier = {(v.series, v.batch_size, v.metric): v for v in base.verdicts}
    for verdict in new.verdicts:
        was = earlier.get((verdict.series, verdict.batch_size, verdict.metric))
        if was is None or (verdict.series, verdict.batch_size, verdict.metric) not in comparable:
            continue
        if was.scaling == verdict.scaling == "undecided":
            continue
        yield _class_line(was, verdict)
        if was.scaling == verdict.scaling != "undecided":
            yield from _parameter_lines(was, verdict, plan, spreads.get(verdict.metric))
    known = {(c.metric, c.first, c.second, c.batch_size): c for c in base.crossovers}
    for crossover in new.crossovers:
        before = known.get(
            (crossover.metric, crossover.first, crossover.second, crossover.batch_size)
        )
        metric = HELD.get(crossover.metric, crossover.metric)
        names = (crossover.first, crossover.second)
        both = {(name, crossover.batch_size, metric) for name in names}
        if before is not None and both <= set(comparable):
            found = _crossover_line(before, crossover, plan)
            if found is not None:
                yield found


def undecided(base: Summary, new: Summary) -> int:
    """How many curves have no class on either side, and so no line."""
    earlier = {(v.series, v.batch_size, v.metric) for v in base.verdicts if _open(v)}
    return sum((v.series, v.batch_size, v.metric) in earlier for v in new.verdicts if _open(v))


def _open(verdict: Verdict) -> bool:
    return verdict.scaling == "undecided"


def _change(verdict: Verdict, parameter: str, threshold: float) -> Change:
    batch = "" if verdict.batch_size == 1 else f" ×{verdict.batch_size}"
    return Change(
        kind="curve",
        subject=f"{verdict.series}{batch}",
        series=verdict.series,
        batch_size=verdict.batch_size,
        metric=f"{verdict.metric}.{parameter}",
        unit=METRICS[verdict.metric].unit + PER_TOKEN.get(parameter, ""),
        base=None,
        new=None,
        ratio=None,
        p_value=None,
        threshold=threshold,
        outcome="AMBG",
    )


def _class_line(was: Verdict, now: Verdict) -> Line:
    words = {"base_word": was.scaling, "new_word": now.scaling}
    change = _change(now, "class", 0.0).model_copy(update=words)
    if "undecided" in (was.scaling, now.scaling):
        which = "base" if was.scaling == "undecided" else "new"
        return settled_line(change, "AMBG", f"undecided in the {which} run")
    if was.scaling == now.scaling:
        return settled_line(change, "SAME")
    worse = ORDER[now.scaling] > ORDER[was.scaling]
    return settled_line(change, "SLOW" if worse else "FAST", now.evidence)


def _parameter_lines(
    was: Verdict, now: Verdict, plan: Regression, spread: Scatter | None
) -> Iterator[Line]:
    exact = METRICS[was.metric].exact
    for key, name in COEFFICIENTS.items():
        first, second = was.coefficients.get(key), now.coefficients.get(key)
        if first is None or second is None:
            continue
        if exact and name == "intercept" and now.scaling != "O(1)":
            continue  # of bytes that grow it is what pages round; the cells say the rest
        change = _change(now, name, plan.threshold(f"{was.metric}.{name}")).model_copy(
            update={"base": first, "new": second}
        )
        if exact:
            yield exact_line(change)
            continue
        # The interval of a fit is as free as its points leave it.
        freedom = max(1.0, min(was.points, now.points) - len(was.coefficients))
        levels = [_fitted(estimate, freedom) for estimate in (first, second)]
        if levels[0] is not None and levels[1] is not None:
            apart = None if spread is None else between(spread)
            unsure = spread is not None and is_guess(spread)
            yield Line(change, contrast([levels[0]], [levels[1]], apart), unsure=unsure)


def _fitted(estimate: Estimate, freedom: float) -> Level | None:
    level = level_of_estimate(estimate)
    return None if level is None else replace(level, freedom=freedom)


def _crossover_line(was: Crossover, now: Crossover, plan: Regression) -> Line | None:
    """Where two series cost the same: it moves, and neither way is worse."""
    if was.context_tokens is None and now.context_tokens is None:
        return None
    batch = "" if now.batch_size == 1 else f" ×{now.batch_size}"
    threshold = plan.thresholds.get(f"{now.metric}.crossover", PARAMETER_THRESHOLD)
    change = Change(
        kind="curve",
        subject=f"{now.first} and {now.second}{batch}",
        series=now.first,
        batch_size=now.batch_size,
        metric=f"{now.metric}.crossover",
        unit="tokens",
        base=was.context_tokens,
        new=now.context_tokens,
        base_word="" if was.context_tokens else "no crossing",
        new_word="" if now.context_tokens else "no crossing",
        ratio=None,
        p_value=None,
        threshold=threshold,
        outcome="AMBG",
    )
    first, second = (
        None if at is None else level_of_estimate(at)
        for at in (was.context_tokens, now.context_tokens)
    )
    if first is None or second is None:
        return settled_line(change, "AMBG", "a crossing came or went; neither is worse")
    found = contrast([first], [second], None)
    change = change.model_copy(update={"ratio": found.ratio})
    half = 1.96 * found.error
    if abs(found.difference) - half <= 0 or abs(found.difference) <= np.log1p(threshold):
        return settled_line(change, "SAME", "not told from where it was")
    return settled_line(change, "AMBG", "the crossing moved; neither way is worse")
