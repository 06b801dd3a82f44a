"""Hard constraints: can this candidate do it at all, at which precision, and at what cost?"""

from __future__ import annotations

from dataclasses import dataclass

from ctxsweep.models import accounting
from ctxsweep.planning.advice.candidates import Candidate
from ctxsweep.planning.advice.decision import Excluded, Figure, Figures
from ctxsweep.planning.advice.evidence import Grounds, Times, times
from ctxsweep.planning.advice.limits import (
    CHECKS,
    Failure,
    hopes,
    static_failures,
    usable_bytes,
)
from ctxsweep.planning.advice.needs import Needs
from ctxsweep.planning.advice.precision import ladder
from ctxsweep.planning.advice.training import training_bytes
from ctxsweep.planning.deployment import BadDeployment, Deployment
from ctxsweep.planning.footprint import footprint
from ctxsweep.records import Series

MEASURED_WHOLE = 0.95
"""Share of the context from which on a prefill measured over all of it counts for the prompt."""


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
    rungs = [
        deployment_of(needs, weights, cache, candidate.series)
        for weights, cache in ladder(candidate, needs, grounds)
    ]
    for deployment in rungs[:-1]:
        if not _fits(candidate, deployment, needs, grounds):
            continue
        found = _at_precision(candidate, deployment, needs, grounds)
        if found.passes:
            return found
    return _at_precision(candidate, rungs[-1], needs, grounds)


def _fits(candidate: Candidate, deployment: Deployment, needs: Needs, grounds: Grounds) -> bool:
    """Whether it can be laid out, and then in the memory of each device."""
    try:
        held = _memory(candidate, deployment, needs, grounds).value
    except BadDeployment:
        return False
    return held <= usable_bytes(needs, grounds, deployment)


def feasible(candidate: Candidate, needs: Needs, grounds: Grounds) -> Assessment | None:
    """``assess`` where it passes, else None: sooner, for what cannot be is not worked out."""
    if next(static_failures(candidate, needs), None) is not None:
        return None
    for weights, cache in ladder(candidate, needs, grounds):
        deployment = deployment_of(needs, weights, cache, candidate.series)
        if not _fits(candidate, deployment, needs, grounds):
            continue
        found = _at_precision(candidate, deployment, needs, grounds)
        if found.passes:
            return found
    return None


def deployment_of(
    needs: Needs, weights: str, cache: str, series: Series | None = None
) -> Deployment:
    """How the needs are met at this precision; pages and chunks are those of a run's series."""
    fields: dict[str, object] = {
        "weight_dtype": weights,
        "kv_dtype": cache,
        "batch_size": needs.batch,
        "tensor_parallel": needs.tp,
    }
    if series is not None:
        fields["page_size"] = series.page_size
        if isinstance(series.prefill_chunk, int):
            fields["prefill_chunk"] = series.prefill_chunk * needs.batch
    return Deployment.model_validate(fields)


def _at_precision(
    candidate: Candidate, deployment: Deployment, needs: Needs, grounds: Grounds
) -> Assessment:
    known = [_excluded(candidate, failure) for failure in static_failures(candidate, needs)]
    if any(failure.need == "context" for failure in known):
        return Assessment(candidate, deployment, None, tuple(known))
    try:
        figures = figures_of(candidate, deployment, needs, grounds)
    except BadDeployment as error:
        known.append(_excluded(candidate, Failure("tp", str(error), True, "arithmetic")))
        return Assessment(candidate, deployment, None, tuple(known))
    for check in CHECKS:
        found = check(candidate, deployment, figures, needs, grounds)
        known += [_excluded(candidate, failure) for failure in found]
    known.sort(key=lambda failure: not failure.proof)
    hoped = tuple(hopes(figures, needs))
    return Assessment(candidate, deployment, figures, tuple(known), hoped, _remarks(candidate))


def _excluded(candidate: Candidate, failure: Failure) -> Excluded:
    return Excluded(name=candidate.name, **failure._asdict())


def figures_of(
    candidate: Candidate, deployment: Deployment, needs: Needs, grounds: Grounds
) -> Figures:
    """Times and bytes at the needs. Raises ``BadDeployment``."""
    key = ("figures", candidate.name, deployment, *_lengths(needs))
    return grounds.once(key, lambda: _figures(candidate, deployment, needs, grounds))


def _lengths(needs: Needs) -> tuple[object, ...]:
    return needs.context, needs.answer_tokens, needs.training == "none"


def _memory(candidate: Candidate, deployment: Deployment, needs: Needs, grounds: Grounds) -> Figure:
    """Bytes of a device: to run at the needs, and to be trained where that is asked for."""

    def count() -> Figure:
        held = footprint(candidate.config, deployment, needs.context).total_bytes
        source = "weights and cache exact, activations estimated"
        if needs.training != "none":
            trained = training_bytes(candidate, deployment, needs.context)
            source = f"training, 16 bytes a parameter (arXiv 1910.02054); to run {held} bytes"
            held = max(held, trained)
        return Figure(value=held, low=held, high=held, basis="formula", source=source)

    key = ("memory", candidate.name, deployment, *_lengths(needs))
    return grounds.once(key, count)


def _figures(
    candidate: Candidate, deployment: Deployment, needs: Needs, grounds: Grounds
) -> Figures:
    memory = _memory(candidate, deployment, needs, grounds)
    found = _times(candidate, deployment, needs, grounds)
    calls = accounting.prefill_calls(candidate.config, needs.context, needs.context)
    return Figures(
        prefill_s=found.prefill,
        decode_s=found.decode,
        request_s=_request(found, needs),
        memory_bytes=memory,
        cache_bytes=footprint(candidate.config, deployment, needs.context).cache_bytes,
        flops_per_token=accounting.flops(candidate.config, calls) / needs.context,
    )


def _times(candidate: Candidate, deployment: Deployment, needs: Needs, grounds: Grounds) -> Times:
    """Prefill of the prompt, and a step at the end of the context, where it is slowest."""
    whole = times(candidate, deployment, needs.context, grounds)
    if whole.prefill.basis == "measured" and needs.prompt_tokens >= MEASURED_WHOLE * needs.context:
        return whole
    return Times(times(candidate, deployment, needs.prompt_tokens, grounds).prefill, whole.decode)


def _request(found: Times, needs: Needs) -> Figure:
    """One prefill and an answer, at the pace of its last token."""
    prefill, decode, tokens = found.prefill, found.decode, needs.answer_tokens

    def both(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a + tokens * b

    weakest = min(prefill, decode, key=lambda f: STRENGTH[f.basis])
    value = both(prefill.value, decode.value)
    assert value is not None
    return Figure(
        value=value,
        low=both(prefill.low, decode.low),
        high=both(prefill.high, decode.high),
        basis=weakest.basis,
        source=weakest.source,
    )


STRENGTH = {"bound": 0, "calibrated": 1, "between": 2, "measured": 3, "formula": 4}
"""How well founded a figure is, by its basis."""


def _remarks(candidate: Candidate) -> tuple[str, ...]:
    return () if candidate.has_weights else ("no trained weights are known: a shape to be trained",)
