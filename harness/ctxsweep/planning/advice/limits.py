"""The limits that a candidate must keep, each said with its figure: what it is, what is allowed.

A bound that fails is a proof that it cannot; one that passes is only a hope, and is kept as such.
What rests on a convention (the share of memory kept back, an estimate of activations, how far a
context may be stretched) is no proof, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.planning.advice.candidates import HYBRID, STATE, Candidate
from ctxsweep.planning.advice.decision import Figure, Figures, Ground
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.needs import Needs, Quality
from ctxsweep.planning.advice.precision import precision_words
from ctxsweep.planning.advice.training import tokens_of, training_flops
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import Device
from ctxsweep.planning.footprint import cache_bytes, reserve_bytes, weights_bytes

STRETCH_ALLOWED: dict[Quality, float] = {"high": 1.0, "medium": 4.0, "any": float("inf")}
"""Context over the trained one. YaRN lost 0.02 nats at a factor of 2 in this project's own run
(docs/rope.md); its paper stretched Llama-2 32 times after training on (arXiv 2309.00071)."""

FOLLOWS_FROM = 1e9
"""Parameters below which few models follow what they are asked: a convention. Asked for with any
quality, by name, by size, or from scratch, smaller ones are weighed too."""


class Failure(NamedTuple):
    """A need that is not met, why, whether that is certain, and what it rests on."""

    need: str
    reason: str
    proof: bool
    rests_on: Ground


Check = Callable[[Candidate, Deployment, Figures, Needs, Grounds], Iterator[Failure]]


def static_failures(candidate: Candidate, needs: Needs) -> Iterator[Failure]:
    """What is known of a candidate before anything is counted."""
    end = candidate.positions_end
    if end is not None and needs.context > end:
        reason = f"its learned positions end at {context_label(end)}, nothing stretches them"
        yield Failure("context", reason, True, "arithmetic")
    if needs.parameters is not None:
        low, high = needs.parameters
        if not low <= candidate.parameters <= high:
            size = f"{candidate.parameters / 1e9:.3g}B"
            limit = f"{low / 1e9:.3g}B to {high / 1e9:.3g}B"
            reason = f"has {size} parameters, asked for are {limit}"
            yield Failure("parameters", reason, True, "arithmetic")
    # Who names a model, or asks of a run, wants its architecture judged, weights or not.
    chosen = needs.models is not None or candidate.series is not None
    if needs.training != "scratch" and not candidate.has_weights and not chosen:
        reason = "no trained weights are published: it would have to be trained from scratch"
        yield Failure("training", reason, False, "publication")
    small = candidate.parameters < FOLLOWS_FROM and needs.quality != "any"
    if small and needs.training != "scratch" and needs.parameters is None and not chosen:
        reason = f"has {candidate.parameters / 1e9:.2g}B parameters; quality {needs.quality} "
        reason += f"wants {FOLLOWS_FROM / 1e9:g}B (--parameters)"
        yield Failure("size", reason, False, "convention")
    yield from _quality(candidate, needs)


def _quality(candidate: Candidate, needs: Needs) -> Iterator[Failure]:
    reach, allowed = candidate.reach, STRETCH_ALLOWED[needs.quality]
    if needs.training != "scratch" and reach is not None and needs.context > reach * allowed:
        over = f"{needs.context / reach:.3g}× the {context_label(reach)} of its training"
        most = "none" if allowed == 1 else f"{allowed:g}×"
        reason = f"{over}; quality {needs.quality} allows {most} of stretching"
        yield Failure("quality", reason, False, "convention")
    window = candidate.window
    partial = window < needs.context if window is not None else candidate.family in STATE
    blind = candidate.family != HYBRID and partial
    if needs.quality == "high" and needs.needs_retrieval and blind:
        what = f"a window of {context_label(window)}" if window else "a state of fixed size"
        reason = f"{what} cannot quote all of the context (arXiv 2402.01032)"
        yield Failure("retrieval", reason, False, "publication")


def _check_memory(
    candidate: Candidate, deployment: Deployment, figures: Figures, needs: Needs, grounds: Grounds
) -> Iterator[Failure]:
    usable, needed = usable_bytes(needs, grounds, deployment), figures.memory_bytes.value
    if needed <= usable:
        return
    weights = weights_bytes(candidate.config, deployment)
    held = weights + cache_bytes(candidate.config, deployment, needs.context)
    proof = held > memory_bytes(needs, grounds)
    if needs.training != "none":
        what = "to be trained in full, 16 bytes a parameter; LoRA is not planned for"
    else:
        kind = "cache" if candidate.config.attention is not None else "state"
        what = f"{kind} {_bytes(figures.cache_bytes)}"
    reason = (
        f"needs {_bytes(needed)} a device at {precision_words(deployment)} ({what}), "
        f"{_bytes(usable)} can be used"
    )
    yield Failure("memory", reason, proof, "arithmetic" if proof else "convention")


def _check_times(
    candidate: Candidate, deployment: Deployment, figures: Figures, needs: Needs, grounds: Grounds
) -> Iterator[Failure]:
    limits = (
        ("prefill", figures.prefill_s, needs.prefill),
        ("decode", figures.decode_s, needs.decode),
    )
    for need, figure, limit in limits:
        if limit is None or figure.value <= limit:
            continue
        text = f"{need} takes {figure_words(figure)}, the limit is {_seconds(limit)}"
        proof = figure.low is not None and figure.low > limit
        if figure.basis == "bound":
            read = need == "decode" and "bandwidth" in figure.source
            faster = 1.0 if read else _narrow_speedup(deployment, grounds.device)
            proof = figure.value / faster > limit
            text += "" if proof else "; multiplied in 8 bits it might do"
        elif not proof:
            text += ", though its interval reaches below"
        yield Failure(need, text, proof, _ground(figure))


def _narrow_speedup(deployment: Deployment, device: Device) -> float:
    """How much faster than its bound an engine might be that multiplies int4 weights in 8 bits: the
    bound widens them to 16."""
    if deployment.weight_dtype != "int4":
        return 1.0
    held = device.flops_per_s
    wide = held.get("bfloat16") or held.get("float16") or held["float32"]
    return max(1.0, max(held.get("int8", 0.0), held.get("fp8", 0.0)) / wide)


def _ground(figure: Figure) -> Ground:
    if figure.basis == "bound":
        return "bound"
    return "measured" if figure.basis == "measured" else "forecast"


def _check_training(
    candidate: Candidate, deployment: Deployment, figures: Figures, needs: Needs, grounds: Grounds
) -> Iterator[Failure]:
    asked = training_flops(candidate, needs, figures.flops_per_token)
    if asked is None or needs.training_budget is None or asked <= needs.training_budget:
        return
    tokens = tokens_of(needs, candidate.parameters)
    reason = (
        f"training on {tokens / 1e9:.3g}B tokens takes {asked:.2e} FLOPs, the budget is "
        f"{needs.training_budget:.2e}"
    )
    said = needs.training_tokens is not None
    yield Failure("training", reason, said, "arithmetic" if said else "convention")


CHECKS: tuple[Check, ...] = (_check_memory, _check_times, _check_training)


def hopes(figures: Figures, needs: Needs) -> Iterator[str]:
    """Limits on time that it meets only if an engine comes near a bound, or is lucky."""
    limits = (
        ("prefill", figures.prefill_s, needs.prefill),
        ("decode", figures.decode_s, needs.decode),
    )
    for need, figure, limit in limits:
        if limit is None or figure.value > limit:
            continue
        if figure.basis == "bound":
            share = figure.value / limit
            yield f"{need} within {_seconds(limit)} is a hope: the bound alone is {share:.0%} of it"
        elif figure.high is not None and figure.high > limit:
            yield f"{need}: {_seconds(limit)} lies within the interval of {figure_words(figure)}"


def figure_words(figure: Figure) -> str:
    """``12.3 ms (measured)``, ``at least 12.3 ms (bound)``."""
    least = "at least " if figure.basis == "bound" else ""
    return f"{least}{_seconds(figure.value)} ({figure.basis})"


def _seconds(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f} s"
    return quantity(value, "s")


def _bytes(value: float) -> str:
    return quantity(value, "bytes")


def memory_bytes(needs: Needs, grounds: Grounds) -> int:
    """Memory of one device."""
    return needs.memory or grounds.device.memory_bytes


def usable_bytes(needs: Needs, grounds: Grounds, deployment: Deployment) -> int:
    """Memory of one device without what is kept back."""
    memory = memory_bytes(needs, grounds)
    return memory - reserve_bytes(deployment, memory)
