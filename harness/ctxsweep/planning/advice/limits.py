"""The limits that a candidate must keep, each said with its figure: what it is, what is allowed.

A bound that fails is a proof that it cannot; one that passes is only a hope, and is kept as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.planning.advice.candidates import HYBRID, STATE, Candidate
from ctxsweep.planning.advice.decision import Figure, Figures
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.needs import Needs, Quality
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.footprint import reserve_bytes

STRETCH_ALLOWED: dict[Quality, float] = {"high": 1.0, "medium": 4.0, "any": float("inf")}
"""Context over the trained one. YaRN lost 0.02 nats at a factor of 2 in this project's own run
(docs/rope.md); its paper stretched Llama-2 32 times after training on (arXiv 2309.00071)."""
BACKWARD = 3.0  # a step of training costs a forward pass and twice that backward
TOKENS_PER_PARAMETER = 20.0  # of a training from scratch: Chinchilla, arXiv 2203.15556


Failure = tuple[str, str, bool]
Check = Callable[[Candidate, Deployment, Figures, Needs, Grounds], Iterator[Failure]]


def static_failures(candidate: Candidate, needs: Needs) -> Iterator[Failure]:
    """What is known of a candidate before anything is counted."""
    end = candidate.positions_end
    if end is not None and needs.context > end:
        reason = f"its learned positions end at {context_label(end)}, nothing stretches them"
        yield "context", reason, True
    if needs.parameters is not None:
        low, high = needs.parameters
        if not low <= candidate.parameters <= high:
            size = f"{candidate.parameters / 1e9:.3g}B"
            limit = f"{low / 1e9:.3g}B to {high / 1e9:.3g}B"
            yield "parameters", f"has {size} parameters, asked for are {limit}", True
    # Who names a model, or asks of a run, wants its architecture judged, weights or not.
    chosen = needs.models is not None or candidate.series is not None
    if needs.training != "scratch" and not candidate.has_weights and not chosen:
        reason = "no trained weights are published: it would have to be trained from scratch"
        yield "training", reason, True
    yield from _quality(candidate, needs)


def _quality(candidate: Candidate, needs: Needs) -> Iterator[Failure]:
    reach, allowed = candidate.reach, STRETCH_ALLOWED[needs.quality]
    if needs.training != "scratch" and reach is not None and needs.context > reach * allowed:
        over = f"{needs.context / reach:.3g}× the {context_label(reach)} of its training"
        most = "none" if allowed == 1 else f"{allowed:g}×"
        yield "quality", f"{over}; quality {needs.quality} allows {most} of stretching", False
    window = candidate.window
    partial = window < needs.context if window is not None else candidate.family in STATE
    blind = candidate.family != HYBRID and partial
    if needs.quality == "high" and needs.needs_retrieval and blind:
        what = f"a window of {context_label(window)}" if window else "a state of fixed size"
        yield "retrieval", f"{what} cannot quote all of the context (arXiv 2402.01032)", False


def _check_memory(
    candidate: Candidate, deployment: Deployment, figures: Figures, needs: Needs, grounds: Grounds
) -> Iterator[Failure]:
    usable, needed = usable_bytes(needs, grounds, deployment), figures.memory_bytes.value
    if needed <= usable:
        return
    what = "cache" if candidate.config.attention is not None else "state"
    yield (
        "memory",
        f"needs {_bytes(needed)} a device at {precision_words(deployment)} "
        f"({what} {_bytes(figures.cache_bytes)}), {_bytes(usable)} can be used",
        True,
    )


def _check_times(
    candidate: Candidate, deployment: Deployment, figures: Figures, needs: Needs, grounds: Grounds
) -> Iterator[Failure]:
    limits = (
        ("prefill", figures.prefill_s, needs.prefill),
        ("decode", figures.decode_s, needs.decode),
    )
    for need, figure, limit in limits:
        if limit is not None and figure.value > limit:
            proof = figure.low is not None and figure.low > limit
            noise = "" if proof else ", though its interval reaches below"
            text = f"{need} takes {figure_words(figure)}, the limit is {_seconds(limit)}{noise}"
            yield need, text, proof


def _check_training(
    candidate: Candidate, deployment: Deployment, figures: Figures, needs: Needs, grounds: Grounds
) -> Iterator[Failure]:
    asked = training_flops(candidate, needs, figures.flops_per_token)
    if asked is None or needs.training_budget is None or asked <= needs.training_budget:
        return
    tokens = needs.training_tokens or TOKENS_PER_PARAMETER * candidate.parameters
    yield (
        "training",
        f"training on {tokens / 1e9:.3g}B tokens takes {asked:.2e} FLOPs, the budget is "
        f"{needs.training_budget:.2e}",
        True,
    )


CHECKS: tuple[Check, ...] = (_check_memory, _check_times, _check_training)


def hopes(figures: Figures, needs: Needs) -> Iterator[str]:
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


def usable_bytes(needs: Needs, grounds: Grounds, deployment: Deployment) -> int:
    """Memory of one device without what is kept back."""
    memory = needs.memory or grounds.device.memory_bytes
    return memory - reserve_bytes(deployment, memory)


def precision_words(deployment: Deployment) -> str:
    """``bfloat16``, ``int4 + fp8_e4m3 cache``."""
    cache = "" if deployment.kv_dtype == "auto" else f" + {deployment.kv_dtype} cache"
    return f"{deployment.weight_dtype}{cache}"


def training_flops(candidate: Candidate, needs: Needs, flops_per_token: float) -> float | None:
    """FLOPs of the training asked for; None where there is none, or no count of tokens."""
    tokens = needs.training_tokens
    if needs.training == "scratch" and tokens is None:
        tokens = TOKENS_PER_PARAMETER * candidate.parameters
    if needs.training == "none" or tokens is None:
        return None
    return BACKWARD * flops_per_token * tokens
