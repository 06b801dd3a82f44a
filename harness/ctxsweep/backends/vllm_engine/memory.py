"""What vLLM's block pool holds for a batch, from its own layout or from arithmetic alone.

One pool serves all layers: a block spans the layers of one cache group, and groups of fewer bytes
take whole blocks all the same. Block 0 is never given out. Imports vLLM only where an engine runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from ctxsweep.models import accounting
from ctxsweep.models.accounting import ELEMENT_BYTES, Storage
from ctxsweep.models.config import Mamba, ModelConfig
from ctxsweep.records import Cost, Series

STATE_DTYPE = "float32"
"""Of the recurrent state, on every machine: vLLM's own choice depends on the CPU's instructions."""


@dataclass(frozen=True)
class BlockGroup:
    """Layers that share a block table. ``block_tokens`` None: one block is a sequence's state."""

    block_tokens: int | None
    window: int | None = None

    def blocks(self, tokens: int, call_tokens: int) -> int:
        """Blocks of one sequence after a call that brought it from ``tokens − call_tokens``.

        Blocks that left the window are given back when the next call begins, not when it ends.
        """
        if self.block_tokens is None:
            return int(tokens > 0)
        left = 0 if self.window is None else max(0, tokens - call_tokens - self.window + 1)
        return -(-tokens // self.block_tokens) - left // self.block_tokens


@dataclass(frozen=True)
class BlockPool:
    """The groups that take blocks, and the bytes of a block."""

    groups: tuple[BlockGroup, ...]
    block_bytes: int

    def held_bytes(self, tokens: int, call_tokens: int, batch_size: int) -> int:
        """Bytes of the blocks in use after a call of ``call_tokens`` that ends at ``tokens``."""
        blocks = sum(group.blocks(tokens, call_tokens) for group in self.groups)
        return batch_size * blocks * self.block_bytes

    def bytes_per_token(self, tokens: int) -> float:
        """What one more token adds for a sequence, blocks averaged; 0 past a window."""
        growing = (g for g in self.groups if g.block_tokens and tokens < (g.window or inf) - 1)
        return float(sum(self.block_bytes / (group.block_tokens or 1) for group in growing))


def predicted_pool(config: ModelConfig, series: Series) -> BlockPool | None:
    """The pool before loading; None for hybrids, whose pages vLLM fits to their states."""
    kinds = set(config.layer_mixers())
    if kinds == {"attention"} and config.attention is not None:
        attention = config.attention
        token_bytes = Storage(series.dtype, series.kv_dtype).kv_token_bytes(attention)
        group = BlockGroup(series.page_size, attention.window)
        return BlockPool((group,), config.num_layers * series.page_size * token_bytes)
    if kinds == {"mamba2"} and config.mamba is not None:
        state = _mamba2_bytes(config.mamba, config.hidden_size, series)
        return BlockPool((BlockGroup(None),), config.num_layers * state)
    return None


def _mamba2_bytes(mamba: Mamba, hidden_size: int, series: Series) -> int:
    """The last inputs of the convolution, and the state."""
    inner = mamba.expand * hidden_size
    channels = inner + 2 * mamba.groups * mamba.state_size
    inputs = (mamba.conv_kernel - 1) * channels * ELEMENT_BYTES[series.dtype]
    return inputs + inner * mamba.state_size * ELEMENT_BYTES[STATE_DTYPE]


def engine_pool(layout: Any) -> BlockPool:
    """The pool of a running engine, from its ``KVCacheConfig``."""
    groups = tuple(_group(group.kv_cache_spec) for group in layout.kv_cache_groups)
    return BlockPool(groups, pool_bytes(layout) // layout.num_blocks)


def _group(spec: Any) -> BlockGroup:
    from vllm.v1.kv_cache_interface import MambaSpec, SlidingWindowSpec

    if isinstance(spec, MambaSpec):
        return BlockGroup(None)
    window = spec.sliding_window if isinstance(spec, SlidingWindowSpec) else None
    return BlockGroup(spec.block_size, window)


def pool_bytes(layout: Any) -> int:
    """Bytes of the whole pool: every group's tensors lie in the same memory."""
    return max((int(tensor.size) for tensor in layout.kv_cache_tensors), default=0)


def cost(
    config: ModelConfig,
    series: Series,
    pool: BlockPool,
    context_tokens: int,
    batch_size: int,
    chunk_tokens: int,
) -> Cost:
    """The model's cost with what vLLM's pool holds at the end of a prefill in chunks."""
    storage = Storage(series.dtype, series.kv_dtype, series.page_size)
    demanded = accounting.cost(config, storage, context_tokens, batch_size, chunk_tokens)
    last = (context_tokens - 1) % chunk_tokens + 1
    held = {
        "cache_bytes": pool.held_bytes(context_tokens, last, batch_size),
        "cache_bytes_per_token": pool.bytes_per_token(context_tokens),
    }
    return demanded.model_copy(update=held)
