"""Where nothing meets the needs: what would, with as little changed as possible.

One need is changed at a time, up to 64 times; where that is not enough, others are given up first
(``BUNDLES``). A step is a halving or a doubling of a need, or one rung down in precision or
strictness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.planning.advice.assess import Assessment, feasible
from ctxsweep.planning.advice.bisecting import Probe, least_that, most_that, round_up
from ctxsweep.planning.advice.candidates import Candidate
from ctxsweep.planning.advice.decision import Suggestion
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.needs import Needs
from ctxsweep.planning.advice.precision import precision_words

MOST = 6
MAX_DEVICES = 64
HEADROOM = 1.02
GB = 10**9


def nearest_feasible(
    candidates: Sequence[Candidate], needs: Needs, grounds: Grounds
) -> tuple[Suggestion, ...]:
    """Single changes that suffice, nearest first; else changes on top of freed precision."""
    # Largest first: of all that would do, it is the one that is found.
    candidates = sorted(candidates, key=lambda c: -c.effective_parameters)
    base: dict[str, Any] = {}
    before: list[str] = []
    steps = 0.0
    found = _with(candidates, needs, grounds, base, "", steps)
    for bundle in BUNDLES:
        if found:
            break
        changes, words, more = bundle(needs)
        if changes:
            base, before, steps = {**base, **changes}, [*before, words], steps + more
            found = _with(candidates, needs, grounds, base, ", ".join(before), steps)
    ordered = sorted(found, key=lambda suggestion: suggestion.steps)
    return tuple(ordered[:MOST])


Bundle = Callable[[Needs], tuple[dict[str, Any], str, float]]


def _free_precision(needs: Needs) -> tuple[dict[str, Any], str, float]:
    """What opens all precisions and architectures."""
    free = {"quality": "any", "weight_dtype": None, "kv_dtype": None}
    return free, "with any quality and precision", 3.0


def _free_size(needs: Needs) -> tuple[dict[str, Any], str, float]:
    if needs.parameters is None:
        return {}, "", 0.0
    return {"parameters": None}, "any size of model", 2.0


def _single(needs: Needs) -> tuple[dict[str, Any], str, float]:
    if needs.batch == 1:
        return {}, "", 0.0
    return {"batch": 1}, "a batch of 1", math.log2(needs.batch)


def _no_hurry(needs: Needs) -> tuple[dict[str, Any], str, float]:
    if needs.prefill is None and needs.decode is None:
        return {}, "", 0.0
    return {"prefill": None, "decode": None}, "no limits on time", 6.0


def _no_training(needs: Needs) -> tuple[dict[str, Any], str, float]:
    if needs.training == "none":
        return {}, "", 0.0
    free = {"training": "none", "training_budget": None, "training_tokens": None}
    return free, "no training", 6.0


BUNDLES: tuple[Bundle, ...] = (_free_precision, _free_size, _single, _no_hurry, _no_training)
"""Given up one after the other, each on top of those before, until something suffices."""


def _with(
    candidates: Sequence[Candidate],
    needs: Needs,
    grounds: Grounds,
    base: dict[str, Any],
    before: str,
    steps: float,
) -> list[Suggestion]:
    def probe(changes: dict[str, Any]) -> Assessment | None:
        changed = needs.model_copy(update={**base, **changes})
        if changed.generate is not None and changed.generate >= changed.context:
            return None
        found = (feasible(candidate, changed, grounds) for candidate in candidates)
        return next((one for one in found if one is not None), None)

    starting = needs.model_copy(update=base)
    found: list[Suggestion] = []
    alone = probe({})
    if alone is not None:
        return [_suggestion(before, base, alone, steps)]
    for lever in LEVERS:
        for text, changes, more in lever(starting, probe, candidates, grounds):
            taken = probe(changes)
            if taken is not None:
                found.append(
                    _suggestion(_joined(before, text), {**base, **changes}, taken, steps + more)
                )
                break
    return found


def _joined(before: str, text: str) -> str:
    return f"{before}, and {text.removeprefix('with ')}" if before else text


def _suggestion(text: str, changes: dict[str, Any], taken: Assessment, steps: float) -> Suggestion:
    words = f"{text}: {taken.candidate.name} ({precision_words(taken.deployment)})"
    return Suggestion(text=words, changes=changes, candidate=taken.candidate.name, steps=steps)


Change = tuple[str, dict[str, Any], float]
Lever = Callable[[Needs, Probe, Sequence[Candidate], Grounds], Iterator[Change]]


def _precision(
    needs: Needs, probe: Probe, candidates: Sequence[Candidate], grounds: Grounds
) -> Iterator[Change]:
    if needs.training != "none":
        return
    if needs.weight_dtype not in (None, "int8", "int4"):
        yield "with int8 weights", {"weight_dtype": "int8"}, 1.0
    if needs.weight_dtype not in (None, "int4"):
        yield "with int4 weights", {"weight_dtype": "int4"}, 2.0
    narrow = {"weight_dtype": None, "kv_dtype": None}
    if needs.weight_dtype is not None or needs.kv_dtype is not None:
        yield "with any precision", narrow, 2.5


def _strictness(
    needs: Needs, probe: Probe, candidates: Sequence[Candidate], grounds: Grounds
) -> Iterator[Change]:
    if needs.quality == "high":
        yield "with quality medium instead of high", {"quality": "medium"}, 1.0
    if needs.quality != "any":
        yield f"with quality any instead of {needs.quality}", {"quality": "any"}, 2.0


def _cache(
    needs: Needs, probe: Probe, candidates: Sequence[Candidate], grounds: Grounds
) -> Iterator[Change]:
    computes = "fp8" in grounds.device.flops_per_s and needs.training == "none"
    wide = needs.kv_dtype not in (None, "fp8_e4m3", "fp8_e5m2", "int8")
    if computes and (wide or needs.quality == "high"):
        yield "with an fp8 cache", {"kv_dtype": "fp8_e4m3"}, 1.0


def _devices(
    needs: Needs, probe: Probe, candidates: Sequence[Candidate], grounds: Grounds
) -> Iterator[Change]:
    ways = needs.tp * 2
    while ways <= MAX_DEVICES:
        yield f"with {ways} devices", {"tp": ways}, math.log2(ways / needs.tp)
        ways *= 2


def _memory(
    needs: Needs, probe: Probe, candidates: Sequence[Candidate], grounds: Grounds
) -> Iterator[Change]:
    held = needs.memory or grounds.device.memory_bytes
    least = least_that(held, probe, "memory", 2.0)
    if least is not None:
        memory = math.ceil(least / GB) * GB
        text = f"with {memory // GB} GB a device instead of {held / GB:.3g}"
        yield text, {"memory": memory}, math.log2(memory / held)


def _context(
    needs: Needs, probe: Probe, candidates: Sequence[Candidate], grounds: Grounds
) -> Iterator[Change]:
    most = most_that(needs.context, probe, "context")
    if most is not None:
        most = most - most % 1024 or most
        text = f"with {context_label(most)} of context instead of {context_label(needs.context)}"
        yield text, {"context": most}, math.log2(needs.context / most)


def _batch(
    needs: Needs, probe: Probe, candidates: Sequence[Candidate], grounds: Grounds
) -> Iterator[Change]:
    most = most_that(needs.batch, probe, "batch")
    if most is not None:
        text = f"with a batch of {most} instead of {needs.batch}"
        yield text, {"batch": most}, math.log2(needs.batch / most)


def _latency(key: str) -> Lever:
    def lever(
        needs: Needs, probe: Probe, candidates: Sequence[Candidate], grounds: Grounds
    ) -> Iterator[Change]:
        limit = getattr(needs, key)
        if limit is None:
            return
        free = needs.model_copy(update={key: None})
        passed = [feasible(candidate, free, grounds) for candidate in candidates]
        times = [getattr(a.figures, f"{key}_s").value for a in passed if a and a.figures]
        if times:
            loose = round_up(min(times) * HEADROOM)
            text = f"with {key} within {quantity(loose, 's')} instead of {quantity(limit, 's')}"
            yield text, {key: loose}, math.log2(loose / limit)

    return lever


def _budget(
    needs: Needs, probe: Probe, candidates: Sequence[Candidate], grounds: Grounds
) -> Iterator[Change]:
    if needs.training_budget is None:
        return
    least = least_that(needs.training_budget, probe, "training_budget", 2.0)
    if least is not None:
        budget = round_up(least)
        steps = math.log2(budget / needs.training_budget)
        yield f"with a training budget of {budget:.2g} FLOPs", {"training_budget": budget}, steps


def _untrained(
    needs: Needs, probe: Probe, candidates: Sequence[Candidate], grounds: Grounds
) -> Iterator[Change]:
    freed = {"training": "none", "training_budget": None, "training_tokens": None}
    if needs.training == "scratch":
        yield "with published weights instead of a training from scratch", freed, 3.0
    if needs.training == "finetune":
        yield "without a full training", freed, 3.0


def _wider_choice(
    needs: Needs, probe: Probe, candidates: Sequence[Candidate], grounds: Grounds
) -> Iterator[Change]:
    if needs.parameters is not None:
        yield "with any size of model", {"parameters": None}, 1.5
    if needs.needs_retrieval and needs.quality == "high":
        yield "without retrieval", {"retrieval": False}, 2.0


LEVERS: tuple[Lever, ...] = (
    _precision,
    _strictness,
    _cache,
    _wider_choice,
    _context,
    _batch,
    _memory,
    _devices,
    _latency("prefill"),
    _latency("decode"),
    _budget,
    _untrained,
)
