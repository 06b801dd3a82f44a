"""Hard constraints: can this candidate do it at all, at which precision, and at what cost?"""

from __future__ import annotations

from dataclasses import dataclass

from ctxsweep.models import accounting
from ctxsweep.planning.advice.candidates import Candidate
from ctxsweep.planning.advice.decision import Excluded, Figure, Figures
from ctxsweep.planning.advice.evidence import Grounds, Times, measured_precisions, times
from ctxsweep.planning.advice.limits import (
    CHECKS,
    Failure,
    hopes,
    static_failures,
    usable_bytes,
)
from ctxsweep.planning.advice.needs import Needs, Quality
from ctxsweep.planning.deployment import BadDeployment, Deployment
from ctxsweep.planning.footprint import Footprint, footprint
from ctxsweep.records import Series

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
        deployment = deployment_of(needs, weights, cache, candidate.series)
        last = _at_precision(candidate, deployment, needs, grounds)
        if last.passes:
            return last
    assert last is not None
    return last


def feasible(candidate: Candidate, needs: Needs, grounds: Grounds) -> Assessment | None:
    """``assess`` where it passes, else None: sooner, for what cannot be is not worked out."""
    if next(static_failures(candidate, needs), None) is not None:
        return None
    for weights, cache in ladder(candidate, needs, grounds):
        deployment = deployment_of(needs, weights, cache, candidate.series)
        try:
            held = held_by(candidate, deployment, needs, grounds).total_bytes
        except BadDeployment:
            return None
        if held > usable_bytes(needs, grounds, deployment):
            continue
        found = _at_precision(candidate, deployment, needs, grounds)
        if found.passes:
            return found
    return None


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
        known.append(_excluded(candidate, ("tp", str(error), True)))
        return Assessment(candidate, deployment, None, tuple(known))
    for check in CHECKS:
        found = check(candidate, deployment, figures, needs, grounds)
        known += [_excluded(candidate, failure) for failure in found]
    known.sort(key=lambda failure: not failure.proof)
    hoped = tuple(hopes(figures, needs))
    return Assessment(candidate, deployment, figures, tuple(known), hoped, _remarks(candidate))


def _excluded(candidate: Candidate, failure: Failure) -> Excluded:
    need, reason, proof = failure
    return Excluded(name=candidate.name, need=need, reason=reason, proof=proof)


def figures_of(
    candidate: Candidate, deployment: Deployment, needs: Needs, grounds: Grounds
) -> Figures:
    """Times and bytes at the needs. Raises ``BadDeployment``."""
    key = "figures", candidate.name, deployment, needs.context, needs.answer_tokens
    return grounds.once(key, lambda: _figures(candidate, deployment, needs, grounds))


def held_by(
    candidate: Candidate, deployment: Deployment, needs: Needs, grounds: Grounds
) -> Footprint:
    """Bytes at the needs. Raises ``BadDeployment``."""
    key = "footprint", candidate.name, deployment, needs.context
    return grounds.once(key, lambda: footprint(candidate.config, deployment, needs.context))


def _figures(
    candidate: Candidate, deployment: Deployment, needs: Needs, grounds: Grounds
) -> Figures:
    held = held_by(candidate, deployment, needs, grounds)
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


_STRENGTH = {"bound": 0, "calibrated": 1, "between": 2, "measured": 3, "formula": 4}


def _remarks(candidate: Candidate) -> tuple[str, ...]:
    return () if candidate.has_weights else ("no trained weights are known: a shape to be trained",)
