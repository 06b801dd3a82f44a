"""What a cell asks of a machine, split into the parts that run at speeds of their own.

The sums are those of ``models.accounting``, and only the split is made here: products with weights,
attention's products with the cache, what a recurrence does to its state; weights that are read, and
cache or state that is read and written.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctxsweep.models import accounting, accounting_recurrent
from ctxsweep.models.accounting import Calls, Storage
from ctxsweep.models.config import ModelConfig


@dataclass(frozen=True)
class Demand:
    """What calls of the model ask for, for the whole batch.

    ``calls``: how often the model is called. ``tokens``: those that go through it, of all
    sequences. FLOPs count multiply and add; bytes are the least that must move.
    """

    calls: int
    batch_size: int
    tokens: int
    linear_flops: float
    attention_flops: float
    scan_flops: float
    weight_bytes: float
    cache_bytes: float

    @property
    def flops(self) -> float:
        """All FLOPs: those of ``accounting.flops``."""
        return self.linear_flops + self.attention_flops + self.scan_flops

    @property
    def bytes(self) -> float:
        """All bytes: those of ``accounting.least_bytes``."""
        return self.weight_bytes + self.cache_bytes


def demand(config: ModelConfig, storage: Storage, calls: Calls, batch_size: int = 1) -> Demand:
    """What these calls ask for, each over ``batch_size`` sequences at once."""
    work = accounting.flops_by_part(config, calls, batch_size)
    moved = accounting.least_bytes_by_part(config, storage, calls, batch_size)
    projections = batch_size * _recurrent_projections(config, calls.tokens)
    return Demand(
        calls=calls.count,
        batch_size=batch_size,
        tokens=calls.tokens * batch_size,
        linear_flops=work.linear + projections,
        attention_flops=work.attention,
        scan_flops=work.recurrent - projections,
        weight_bytes=moved.weights,
        cache_bytes=moved.cache,
    )


def prefill_demand(
    config: ModelConfig,
    storage: Storage,
    context_tokens: int,
    batch_size: int = 1,
    chunk_tokens: int | None = None,
) -> Demand:
    """A prefill of the context in calls of ``chunk_tokens`` of each sequence (None: in one)."""
    calls = accounting.prefill_calls(config, context_tokens, chunk_tokens or context_tokens)
    return demand(config, storage, calls, batch_size)


def decode_demand(
    config: ModelConfig, storage: Storage, context_tokens: int, batch_size: int = 1
) -> Demand:
    """One decode step of the batch when ``context_tokens`` are held."""
    return demand(config, storage, accounting.decode_call(config, context_tokens), batch_size)


def _recurrent_projections(config: ModelConfig, tokens: int) -> float:
    """FLOPs of the products with weights in recurrent layers, which the accounting counts together
    with what the recurrence does to its state."""
    mixers = enumerate(config.layer_mixers())
    kinds = [(kind, layer) for layer, kind in mixers if kind != "attention"]
    weights = sum(accounting_recurrent.mixer_linears(config, kind, i) for kind, i in kinds)
    return 2.0 * tokens * weights
