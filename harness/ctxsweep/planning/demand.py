"""What a cell asks of a machine, split into the parts that run at speeds of their own.

The sums are those of ``models.accounting``, and only the split is made here: products with weights,
attention's products with the cache, what a recurrence does to its state; weights that are read, and
cache or state that is read and written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ctxsweep.models import accounting, accounting_recurrent
from ctxsweep.models.accounting import Calls, Storage
from ctxsweep.models.config import RWKV, ModelConfig


@dataclass(frozen=True)
class Demand:
    """What calls of the model ask for, for the whole batch.

    ``calls``: how often the model is called. ``tokens``: those that go through it, of all
    sequences. FLOPs count multiply and add; bytes are the least that must move.
    """

    calls: int
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
    total = accounting.flops(config, calls, batch_size)
    attention = total - accounting.flops(config, replace(calls, pairs=0), batch_size)
    scan = batch_size * _scan_flops(config, calls)
    moved = accounting.least_bytes(config, storage, calls, batch_size)
    cache = batch_size * _cache_bytes(config, storage, calls)
    return Demand(
        calls=calls.count,
        tokens=calls.tokens * batch_size,
        linear_flops=total - attention - scan,
        attention_flops=attention,
        scan_flops=scan,
        weight_bytes=moved - cache,
        cache_bytes=cache,
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


def _cache_bytes(config: ModelConfig, storage: Storage, calls: Calls) -> float:
    """Keys and values read and added, states read and written, of one sequence."""
    total = 0.0
    for kind in config.layer_mixers():
        if kind == "attention":
            assert config.attention is not None
            total += (calls.past + calls.tokens) * storage.kv_token_bytes(config.attention)
        else:
            state = accounting_recurrent.state_bytes(config, kind, storage.dtype)
            total += 2 * calls.count * state
    return total


def _scan_flops(config: ModelConfig, calls: Calls) -> float:
    """What recurrent layers do beside products with weights, of one sequence."""
    total = 0.0
    for layer, kind in enumerate(config.layer_mixers()):
        if kind == "attention":
            continue
        both = accounting_recurrent.flops(config, kind, calls.tokens, calls.count, layer)
        total += both - 2.0 * calls.tokens * _linear_weights(config, kind, layer)
    return total


def _linear_weights(config: ModelConfig, kind: str, layer: int) -> int:
    """Weights of a recurrent layer that are a matrix's: all but its vectors and convolutions."""
    held = accounting_recurrent.mixer_parameters(config, kind, layer)
    hidden = config.hidden_size
    if kind in RWKV:
        held += accounting_recurrent.ffn_parameters(config)
        # Mixes, biases, scales and norms: of the time mix, then of the channel mix.
        vectors = 10 + 2 if kind == "rwkv6" else 6 + (3 if layer else 2) + 3 + 2 + 1
        return held - vectors * hidden
    if kind == "retention":
        assert config.retention is not None
        return held - 2 * hidden * config.retention.value_expand
    assert config.mamba is not None
    mamba, inner = config.mamba, hidden * config.mamba.expand
    if kind == "mamba1":
        return held - inner * (mamba.conv_kernel + mamba.state_size + 3)
    channels = inner + 2 * mamba.groups * mamba.state_size
    return held - channels * (mamba.conv_kernel + 1) - 3 * (inner // mamba.head_dim) - inner
