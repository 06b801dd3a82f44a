"""In which types of weights and cache a candidate is tried: the widest first, what the device can.

bfloat16 where the device multiplies it, else float16, else float32. An fp8 cache is offered where
the device computes in fp8, and is taken anywhere if it is asked for. A full training takes 16 or 32
bits.
"""

from __future__ import annotations

from ctxsweep.planning.advice.candidates import Candidate
from ctxsweep.planning.advice.evidence import Grounds, measured_precisions
from ctxsweep.planning.advice.needs import Needs
from ctxsweep.planning.advice.quality_proxy import narrowness
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import Device

Precision = tuple[str, str]
"""Types of weights and of the cache."""
PLAIN = ("bfloat16", "float16", "float32")
FP8_CACHE = "fp8_e4m3"
NARROWEST_HIGH = 0.1  # of ``narrowness``: int8 weights
WHOLE_CACHE = ("auto", *PLAIN)


def ladder(candidate: Candidate, needs: Needs, grounds: Grounds) -> list[Precision]:
    """Types to try, widest first; of equal ones that which was measured."""
    if candidate.series is not None:
        rungs: list[Precision] = [(candidate.series.dtype, candidate.series.kv_dtype)]
    else:
        rungs = _rungs(needs, grounds.device)
        if needs.weight_dtype is None:
            rungs = [*measured_precisions(candidate, grounds), *rungs]
        rungs = [rung for rung in rungs if _allowed(rung, needs)]
        rungs.sort(key=lambda rung: narrowness(*rung))
    weights, cache = needs.weight_dtype, needs.kv_dtype
    cached = candidate.config.attention is not None
    fixed = [(weights or w, (cache or c) if cached else "auto") for w, c in rungs]
    return list(dict.fromkeys(fixed))


def _rungs(needs: Needs, device: Device) -> list[Precision]:
    plain = next((kind for kind in PLAIN if kind in device.flops_per_s), "float32")
    caches = ("auto", FP8_CACHE) if "fp8" in device.flops_per_s else ("auto",)
    return [(weights, cache) for weights in (plain, "int8", "int4") for cache in caches]


def _allowed(rung: Precision, needs: Needs) -> bool:
    weights, cache = rung
    if needs.training != "none":
        return weights in PLAIN and cache in WHOLE_CACHE
    if needs.quality == "high":
        return cache in WHOLE_CACHE and narrowness(weights, "auto") <= NARROWEST_HIGH
    return True


def precision_words(deployment: Deployment) -> str:
    """``bfloat16``, ``int4 + fp8_e4m3 cache``."""
    cache = "" if deployment.kv_dtype == "auto" else f" + {deployment.kv_dtype} cache"
    return f"{deployment.weight_dtype}{cache}"
