"""What calls cost on one code path, as shares of a machine's ceilings.

The time of calls is that of three parts, one after the other::

    seconds = layers · calls · call_s
            + max(weights read / B, products with weights / F) / its share of the ceiling
            + max(cache read / B, products with the cache / F) / its share of the ceiling

F and B are the ceilings that the runs measured. Which side of a ``max`` counts is settled at the
ceilings themselves, as a roofline does, so that the time is linear in what is fitted. Prefill and
decode are the same sum for other calls and have their speeds in common. No share is above 1: a
prediction never beats the bound.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from ctxsweep.analysis.predicted import PredictedMetric
from ctxsweep.frozen import Frozen
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.demand import Demand, decode_demand, prefill_demand
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.footprint import cache_bytes, weights_bytes
from ctxsweep.records import Ceilings

Share = Annotated[float, Field(gt=0, le=1)]
Columns = tuple[float, float, float, float, float]
"""What a call's time is made of, in seconds at the ceilings (the first in layers · calls)."""
PARTS = ("linear", "attention", "weights", "cache")
"""Names of the shares, in the order of ``Columns`` behind the first."""


class BadCalibration(ValueError):
    """A calibration that cannot be read or used here; the message names the file and why."""


class Speeds(Frozen):
    """Fitted figures of one code path. A share is of the ceiling that the runs measured."""

    call_s: float = Field(ge=0, description="Seconds that a layer of a call costs besides.")
    linear: Share = Field(1.0, description="Of arithmetic, in products with weights.")
    attention: Share = Field(1.0, description="Of arithmetic, in products with the cache.")
    weights: Share = Field(1.0, description="Of read bandwidth, over weights.")
    cache: Share = Field(1.0, description="Of read bandwidth, over cache or state.")

    def seconds(self, columns: Columns) -> float:
        """The time of calls."""
        layers, *parts = columns
        shares = (self.linear, self.attention, self.weights, self.cache)
        return layers * self.call_s + sum(p / s for p, s in zip(parts, shares, strict=True))


def demand_of(
    metric: PredictedMetric, config: ModelConfig, deployment: Deployment, context_tokens: int
) -> Demand:
    """What a prefill of the context, or a decode step after it, asks for."""
    storage, batch = deployment.storage, deployment.batch_size
    if metric == "itl_s":
        return decode_demand(config, storage, context_tokens, batch)
    chunk = max(1, deployment.prefill_chunk // batch)
    return prefill_demand(config, storage, context_tokens, batch, min(chunk, context_tokens))


def added_demand(
    config: ModelConfig, deployment: Deployment, begins_tokens: int, context_tokens: int
) -> Demand:
    """What a prefill asks for beyond ``begins_tokens`` that are held already.

    Exact where whole calls end there, else within a call.
    """
    whole = demand_of("prefill_s", config, deployment, context_tokens)
    if not begins_tokens:
        return whole
    held = demand_of("prefill_s", config, deployment, begins_tokens)
    names = ("linear_flops", "attention_flops", "scan_flops", "weight_bytes", "cache_bytes")
    added = {name: max(0.0, getattr(whole, name) - getattr(held, name)) for name in names}
    calls, tokens = whole.calls - held.calls, whole.tokens - held.tokens
    return replace(whole, calls=calls, tokens=tokens, **added)


def columns(
    config: ModelConfig, deployment: Deployment, demanded: Demand, ceilings: Ceilings
) -> Columns:
    """The parts of calls in seconds at the ceilings. Raises ``BadCalibration``."""
    rate = ceilings.matmul_flops_per_s.get(deployment.activation_dtype)
    if not rate:
        raise BadCalibration(f"no ceiling was measured for {deployment.activation_dtype}")
    linear = (demanded.linear_flops + demanded.scan_flops) / rate
    attention = demanded.attention_flops / rate
    weights = demanded.weight_bytes / ceilings.read_bytes_per_s
    cache = demanded.cache_bytes / ceilings.read_bytes_per_s
    return (
        float(config.num_layers * demanded.calls),
        linear if linear > weights else 0.0,
        attention if attention > cache else 0.0,
        weights if weights >= linear else 0.0,
        cache if cache >= attention else 0.0,
    )


def held_bytes(config: ModelConfig, deployment: Deployment, context_tokens: int) -> int:
    """Weights and used cache at a context, exact."""
    return weights_bytes(config, deployment) + cache_bytes(config, deployment, context_tokens)
