"""Hard constraints: can this candidate do it at all, at which precision, and at what cost?

A bound that fails is a proof that it cannot; one that passes is only a hope, and is kept as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.models import accounting
from ctxsweep.planning.candidates import FULL, HYBRID, Candidate
from ctxsweep.planning.decision import Excluded, Figure, Figures
from ctxsweep.planning.deployment import BadDeployment, Deployment
from ctxsweep.planning.evidence import Grounds, Times, measured_precisions, times
from ctxsweep.planning.footprint import footprint, reserve_bytes
from ctxsweep.planning.needs import Needs, Quality

STRETCH_ALLOWED: dict[Quality, float] = {"high": 1.0, "medium": 4.0, "any": float("inf")}
"""Context over the trained one. YaRN lost 0.02 nats at a factor of 2 in this project's own run
(docs/rope.md); its paper stretched Llama-2 32 times after training on (arXiv 2309.00071)."""
LADDERS: dict[Quality, tuple[tuple[str, str], ...]] = {
    "high": (("bfloat16", "auto"), ("int8", "auto")),
    "medium": (
        ("bfloat16", "auto"),
        ("bfloat16", "fp8_e4m3"),
        ("int8", "auto"),
        ("int8", "fp8_e4m3"),
        ("int4", "auto"),
        ("int4", "fp8_e4m3"),
    ),
}
LADDERS["any"] = LADDERS["medium"]
BACKWARD = 3.0  # a step of training costs a forward pass and twice that backward
TOKENS_PER_PARAMETER = 20.0  # of a training from scratch: Chinchilla, arXiv 2203.15556


@dataclass(frozen=True)
class Assessment:
    """A candidate at the widest precision that meets the needs, or at the narrowest that does not.

    ``figures`` is None where it cannot even be laid out (devices that do not divide its heads).
    """

    candidate: Candidate
    deployment: Deployment
    figures: Figures | None
    failures: tuple[Excluded, ...]
    hopes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether it meets all needs, as far as is known."""
        return not self.failures


def assess(candidate: Candidate, needs: Needs, grounds: Grounds) -> Assessment:
    """The first precision of the ladder that meets the needs; the last one's failures if none."""
    last = None
    for weights, cache in ladder(candidate, needs, grounds):
        deployment = deployment_of(needs, weights, cache)
        last = _at_precision(candidate, deployment, needs, grounds)
        if last.passes:
            return last
    assert last is not None
    return last


def ladder(candidate: Candidate, needs: Needs, grounds: Grounds) -> list[tuple[str, str]]:
    """Types of weights and cache to try, widest first; what was measured comes before."""
    rungs = list(LADDERS[needs.quality])
    if candidate.series is not None:
        rungs = [(candidate.series.dtype, candidate.series.kv_dtype)]
    elif needs.weight_dtype is None:
        rungs = [*measured_precisions(candidate, grounds), *rungs]
    weights, cache = needs.weight_dtype, needs.kv_dtype
    cached = candidate.config.attention is not None
    fixed = [(weights or w, (cache or c) if cached else "auto") for w, c in rungs]
    return list(dict.fromkeys(fixed))


def deployment_of(needs: Needs, weights: str, cache: str) -> Deployment:
    """How the needs are met at this precision."""
    return Deployment.model_validate(
        {
            "weight_dtype": weights,
            "kv_dtype": cache,
            "batch_size": needs.batch,
            "tensor_parallel": needs.tp,
        }
    )


def usable_bytes(needs: Needs, grounds: Grounds, deployment: Deployment) -> int:
    """Memory of one device without what is kept back."""
    memory = needs.memory or grounds.device.memory_bytes
    return memory - reserve_bytes(deployment, memory)


def precision_words(deployment: Deployment) -> str:
    """``bfloat16``, ``int4 + fp8_e4m3 cache``."""
    cache = "" if deployment.kv_dtype == "auto" else f" + {deployment.kv_dtype} cache"
    return f"{deployment.weight_dtype}{cache}"


def _at_precision(
    candidate: Candidate, deployment: Deployment, needs: Needs, grounds: Grounds
) -> Assessment:
    end = candidate.positions_end
    if end is not None and needs.context > end:
        reason = f"its learned positions end at {context_label(end)}, nothing stretches them"
        failed = Excluded(name=candidate.name, need="context", reason=reason, proof=True)
        return Assessment(candidate, deployment, None, (failed,))
    try:
        figures = figures_of(candidate, deployment, needs, grounds)
    except BadDeployment as error:
        failed = Excluded(name=candidate.name, need="tp", reason=str(error), proof=True)
        return Assessment(candidate, deployment, None, (failed,))
    failures = [
        Excluded(name=candidate.name, need=need, reason=reason, proof=proof)
        for check in CHECKS
        for need, reason, proof in check(candidate, deployment, figures, needs, grounds)
    ]
    hopes = tuple(_hopes(figures, needs))
    return Assessment(candidate, deployment, figures, tuple(failures), hopes, _remarks(candidate))


def figures_of(
    candidate: Candidate, deployment: Deployment, needs: Needs, grounds: Grounds
) -> Figures:
    """Times and bytes at the needs. Raises ``BadDeployment``."""
    held = footprint(candidate.config, deployment, needs.context)
    found = times(candidate, deployment, needs.context, grounds)
    calls = accounting.prefill_calls(candidate.config, needs.context, needs.context)
    return Figures(
        prefill_s=found.prefill,
        decode_s=found.decode,
        request_s=_request(found, needs),
        memory_bytes=Figure(
            value=held.total_bytes,
            low=held.total_bytes,
            high=held.total_bytes,
            basis="formula",
            source="weights and cache exact, activations estimated",
        ),
        cache_bytes=held.cache_bytes,
        flops_per_token=accounting.flops(candidate.config, calls) / needs.context,
    )


def training_flops(candidate: Candidate, needs: Needs, flops_per_token: float) -> float | None:
    """FLOPs of the training asked for; None where there is none, or no count of tokens."""
    tokens = needs.training_tokens
    if needs.training == "scratch" and tokens is None:
        tokens = TOKENS_PER_PARAMETER * candidate.parameters
    if needs.training == "none" or tokens is None:
        return None
    return BACKWARD * flops_per_token * tokens


def _request(found: Times, needs: Needs) -> Figure:
    """One prefill and an answer, at the pace of the first token after the context."""
    prefill, decode, tokens = found.prefill, found.decode, needs.answer_tokens

    def both(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a + tokens * b

    weakest = min(prefill, decode, key=lambda f: _STRENGTH[f.basis])
    value = both(prefill.value, decode.value)
    assert value is not None
    return Figure(
        value=value,
        low=both(prefill.low, decode.low),
        high=both(prefill.high, decode.high),
        basis=weakest.basis,
        source=weakest.source,
    )


_STRENGTH = {"bound": 0, "calibrated": 1, "measured": 2, "formula": 3}

Failure = tuple[str, str, bool]
Check = Callable[[Candidate, Deployment, Figures, Needs, Grounds], Iterator[Failure]]


def _check_size(
    candidate: Candidate, deployment: Deployment, figures: Figures, needs: Needs, grounds: Grounds
) -> Iterator[Failure]:
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


def _check_quality(
    candidate: Candidate, deployment: Deployment, figures: Figures, needs: Needs, grounds: Grounds
) -> Iterator[Failure]:
    reach, allowed = candidate.reach, STRETCH_ALLOWED[needs.quality]
    if reach is not None and needs.context > reach * allowed:
        over = f"{needs.context / reach:.3g}× the {context_label(reach)} of its training"
        most = "none" if allowed == 1 else f"{allowed:g}×"
        yield "quality", f"{over}; quality {needs.quality} allows {most} of stretching", False
    seen = candidate.window or needs.context
    blind = candidate.family not in (FULL, HYBRID) and not (
        candidate.window is not None and seen >= needs.context
    )
    if needs.quality == "high" and needs.needs_retrieval and blind:
        what = f"a window of {context_label(seen)}" if candidate.window else "a state of fixed size"
        yield "retrieval", f"{what} cannot quote all of the context (arXiv 2402.01032)", False


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


CHECKS: tuple[Check, ...] = (
    _check_size,
    _check_memory,
    _check_times,
    _check_quality,
    _check_training,
)


def _hopes(figures: Figures, needs: Needs) -> Iterator[str]:
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


def _remarks(candidate: Candidate) -> tuple[str, ...]:
    return () if candidate.has_weights else ("no trained weights are known: a shape to be trained",)


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
