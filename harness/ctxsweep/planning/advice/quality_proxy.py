"""A stand-in for quality made of facts: size, trained context, reach of recall, precision.

It is no benchmark score and says nothing of data, training or alignment, which decide more than
architecture does. Where a run measured a model's quality, that replaces the part that it answers.

Why recall has ranks: a state of fixed size cannot copy what is longer than it holds, full attention
can ("Repeat After Me", arXiv 2402.01032); RWKV-5 and Mamba fell behind Llama-2-7B in RULER (arXiv
2404.06654); of models trained alike Mamba-2 lagged where copying counts, and with attention in a
few layers did not (arXiv 2406.07887). The ranks are an order, not measurements.
"""

from __future__ import annotations

import math

from ctxsweep.analysis.quality_summary import QualitySummary
from ctxsweep.analysis.summary import Summary
from ctxsweep.analysis.wording import context_label
from ctxsweep.planning.advice.candidates import FULL, HYBRID, WINDOW, Candidate
from ctxsweep.planning.advice.decision import Part
from ctxsweep.planning.advice.evidence import is_of
from ctxsweep.planning.advice.needs import Needs
from ctxsweep.planning.deployment import Deployment

PROXY_HALF_WIDTH = 0.05
"""What the proxy may err by, in its own units of 0 to 1, taken as 95%: a convention. By its part
*size* it is a factor of about 1.9 in parameters."""
SMALLEST, LARGEST = 1e8, 1e11
"""Effective parameters that score 0 and 1; between them by the logarithm. A convention: three
decades that hold nearly all of what is published."""
SHARES = {"size": 0.55, "context": 0.25, "recall": 0.10, "precision": 0.10}
RETRIEVAL_SHARES = {"size": 0.35, "context": 0.25, "recall": 0.30, "precision": 0.10}
UNKNOWN_CONTEXT = 0.5
PUBLISHED_STRETCH = 0.95
STRETCH_DOUBLINGS = 5.0  # until nothing is left, of rotary positions
BEYOND_DOUBLINGS = 2.5  # of all others, which nothing stretches
RECALL_HYBRID, RECALL_STATE = 0.75, 0.25
NARROW_WEIGHTS = {"int8": 0.1, "fp8": 0.1, "int4": 0.4}
NARROW_CACHE = {"fp8_e4m3": 0.1, "fp8_e5m2": 0.3, "int8": 0.05}
REPEAT_AFTER_ME = "arXiv 2402.01032"
RULER = "arXiv 2404.06654"
HYBRIDS = "arXiv 2406.07887"


def parts(
    candidate: Candidate, needs: Needs, deployment: Deployment, runs: tuple[Summary, ...]
) -> tuple[Part, ...]:
    """The parts of the proxy. What a training gave counts only where it is not done anew."""
    shares = RETRIEVAL_SHARES if needs.needs_retrieval else SHARES
    scored = {
        "size": _size(candidate),
        "context": _measured_context(candidate, needs, runs) or context(candidate, needs),
        "recall": _measured_recall(candidate, needs, runs) or recall(candidate, needs),
        "precision": _precision(deployment),
    }
    return tuple(
        Part(name=name, share=shares[name], score=score, reason=reason)
        for name, (score, reason) in scored.items()
    )


def proxy(found: tuple[Part, ...]) -> float:
    """The parts by their shares, in [0, 1]."""
    return sum(part.share * part.score for part in found)


def context(candidate: Candidate, needs: Needs) -> tuple[float, str]:
    """1 within the trained context, a little less where its publisher stretched it; beyond, a fifth
    less for every doubling, two fifths where no rule stretches it. A training from scratch is to
    what is asked."""
    if needs.training == "scratch":
        return 1.0, f"to be trained to {context_label(needs.context)}"
    trained, reach = candidate.config.trained_context, candidate.reach
    if trained is None or reach is None:
        return UNKNOWN_CONTEXT, "the context of its training is not known here"
    if needs.context <= trained:
        return 1.0, f"trained to {context_label(trained)}"
    if needs.context <= reach:
        return PUBLISHED_STRETCH, f"trained to {context_label(reach)}, its positions stretched"
    factor = needs.context / reach
    doublings = STRETCH_DOUBLINGS if candidate.rotary else BEYOND_DOUBLINGS
    score = max(0.0, 1 - math.log2(factor) / doublings)
    beyond = f"{factor:.3g}× the {context_label(reach)} of its training"
    if candidate.rotary:
        return score, f"{beyond}: needs RoPE scaling (docs/rope.md)"
    return score, f"{beyond}: no rule stretches it"


def recall(candidate: Candidate, needs: Needs) -> tuple[float, str]:
    """Which tokens of the context an answer can still quote."""
    window = candidate.window
    if candidate.family == FULL:
        return 1.0, "attends to every token"
    if candidate.family == WINDOW and window is not None:
        share = min(1.0, window / needs.context)
        return share, f"attends to the last {context_label(window)}, {share:.0%} of the context"
    if candidate.family == HYBRID:
        return RECALL_HYBRID, f"attention in some layers ({HYBRIDS})"
    return RECALL_STATE, f"a state of fixed size ({REPEAT_AFTER_ME}, RULER {RULER})"


def _size(candidate: Candidate) -> tuple[float, str]:
    """Effective parameters on a log scale."""
    way = math.log(candidate.effective_parameters / SMALLEST) / math.log(LARGEST / SMALLEST)
    score = min(1.0, max(0.0, way))
    what = f"{candidate.parameters / 1e9:.3g}B parameters"
    if candidate.effective_parameters < candidate.parameters:
        what += f", {candidate.active_parameters / 1e9:.3g}B active"
    return score, what


def narrowness(weight_dtype: str, kv_dtype: str) -> float:
    """What a precision loses of its part: 0 for 16 bits or more."""
    return NARROW_WEIGHTS.get(weight_dtype, 0.0) + NARROW_CACHE.get(kv_dtype, 0.0)


def _precision(deployment: Deployment) -> tuple[float, str]:
    held = f"{deployment.weight_dtype} weights"
    held += f", {deployment.kv_dtype} cache" if deployment.kv_dtype != "auto" else ""
    lost = narrowness(deployment.weight_dtype, deployment.kv_dtype)
    return 1 - lost, f"{held}: an order, not a measured loss"


def _measured_context(
    candidate: Candidate, needs: Needs, runs: tuple[Summary, ...]
) -> tuple[float, str] | None:
    """Whether its loss at the context was shown to be within what the run allows."""
    if needs.training == "scratch":
        return None
    for run, quality, series in _quality_of(candidate, runs):
        cell = quality.cell(series, needs.context)
        if cell is None or cell.standing is None or cell.difference is None:
            continue
        score = {"within": 1.0, "open": 0.5, "beyond": 0.0}[cell.standing]
        loss = f"{cell.difference.value:+.3f} nats".replace("-", "−")
        allowed = (
            f"{cell.standing} {quality.max_loss:g} nats"
            if cell.standing != "open"
            else (f"not decided against {quality.max_loss:g} nats")
        )
        return score, f"measured: {loss} at {context_label(needs.context)}, {allowed}, {run.run_id}"
    return None


def _measured_recall(
    candidate: Candidate, needs: Needs, runs: tuple[Summary, ...]
) -> tuple[float, str] | None:
    """The share of passkeys that it found at the context."""
    if needs.training == "scratch":
        return None
    for run, quality, series in _quality_of(candidate, runs):
        rate = quality.rate("passkey", series, needs.context)
        if rate is not None:
            found = f"{rate.exact} of {rate.trials} passkeys found"
            return rate.share.value, f"measured: {found}, {run.run_id}"
    return None


def _quality_of(
    candidate: Candidate, runs: tuple[Summary, ...]
) -> list[tuple[Summary, QualitySummary, str]]:
    return [
        (run, run.quality, series.name)
        for run in runs
        if run.quality is not None
        for series in run.series
        if is_of(series, candidate)
    ]
