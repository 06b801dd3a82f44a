"""Softmax attention over a paged cache: MHA, GQA, MQA; rotary, ALiBi or no positions; a window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctxsweep.models.cache import PageTable
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.layers import LayerState, Mixer, StateSpec, Step
from ctxsweep.models.positions import Rotary, alibi_slopes
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_decode import MAX_DECODE_TOKENS, paged_decode_attention
from ctxsweep_kernels.paged_prefill import paged_prefill_attention
from ctxsweep_kernels.rope_append import rope_append


class AttentionState:
    """A layer's keys and values, in the pages of the table that all layers share."""

    def __init__(self, table: PageTable, cache: PagedKV) -> None:
        self.table = table
        self.cache = cache

    @property
    def used_bytes(self) -> int:
        return self.table.live_pages * self.cache.page_bytes

    @property
    def reserved_bytes(self) -> int:
        return self.table.pool_pages * self.cache.page_bytes

    def snapshot(self) -> object:
        """Without a window nothing is ever overwritten; with one, a copy of its few pages."""
        if self.table.window is None:
            return None
        live = self.table.live().to(self.cache.device)
        return live, [storage.index_select(2, live) for storage in self._storages()]

    def restore(self, mark: object) -> None:
        if mark is None:
            return
        assert isinstance(mark, tuple)
        live, copies = mark
        for storage, copy in zip(self._storages(), copies, strict=True):
            storage.index_copy_(2, live, copy)

    def clear(self) -> None:
        """The table forgets; the pool stays."""

    def _storages(self) -> list[Tensor]:
        """Pages (as bytes: float8 cannot be indexed) and scales."""
        pages = [self.cache.pages.view(torch.uint8)]
        return pages if self.cache.scales is None else [*pages, self.cache.scales]


class AttentionMixer(Mixer):
    """Projections (q, k and v in one matrix), rotary positions, attention over the cache."""

    ops: tuple[str, ...] = ("rope_append", "paged_prefill_attention", "paged_decode_attention")

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.attention is not None
        self.section = a = config.attention
        self.sizes = [a.heads, a.kv_heads, a.kv_heads]
        self.qkv = nn.Linear(config.hidden_size, sum(self.sizes) * a.head_dim, bias=a.bias)
        self.out = nn.Linear(a.heads * a.head_dim, config.hidden_size, bias=a.biased_output)
        self.config = config
        # Plain attributes: as buffers they would be rounded with the weights.
        self.rotary: Rotary | None = None
        self.slopes: Tensor | None = None

    def new_state(self, spec: StateSpec) -> LayerState:
        assert spec.pages is not None
        a = self.section
        if a.position == "rope":
            self.rotary = spec.rotary
        if a.position == "alibi":
            self.slopes = alibi_slopes(a.heads, spec.device)
        cache = PagedKV.allocate(
            a.kv_heads,
            spec.pages.pool_pages,
            spec.page_size,
            a.head_dim,
            spec.kv_dtype,
            spec.device,
        )
        return AttentionState(spec.pages, cache)

    def forward(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        assert isinstance(state, AttentionState)
        table, cache = state.table, state.cache
        heads = self.qkv(x).unflatten(-1, (-1, self.section.head_dim)).transpose(1, 2)
        q, k, v = heads.split(self.sizes, dim=1)
        turning = self.rotary.at(step.horizon) if self.rotary else (None, 1.0)
        q = rope_append(q, k, v, cache, table.block_table, table.starts, *turning, impl=step.impl)
        few = x.shape[1] <= MAX_DECODE_TOKENS
        attend = paged_decode_attention if few else paged_prefill_attention
        y = attend(
            q,
            cache,
            table.block_table,
            table.lengths,
            window=self.section.window,
            alibi_slopes=self.slopes,
            impl=step.impl,
        )
        return self.out(y.transpose(1, 2).flatten(2))
