"""The cache objects of transformers: their bytes, by formula and as held, and marks of them.

A model makes its own cache object and hands it out with its logits. In most it is a
``DynamicCache``: full attention concatenates every call's keys and values to those held; a
sliding-window layer then keeps the last window − 1 tokens; state-space layers update their states
in place. Other cache objects (MiniMax, xLSTM) differ in what they hold, not in how it is read here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxsweep.models.accounting import ELEMENT_BYTES, Storage
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_write import NoFamily, hf_config
from ctxsweep.models.pages import visible_pages
from ctxsweep.models.sections import Attention
from ctxsweep.records import DType

if TYPE_CHECKING:
    import torch

STATE_BYTES = 4
"""Of an element of a recurrent state, in every dtype; convolution states have the model's."""
GROWING = ("DynamicLayer", "LinearAttentionAndFullAttentionLayer")
"""Layers whose keys and values are only ever added to, so that a mark need not copy them."""


def cache_bytes(config: ModelConfig, dtype: DType, context_tokens: int, batch_size: int) -> int:
    """Bytes that a ``DynamicCache`` holds at a context, exact.

    Of a convolution it holds as many columns as the kernel has, one more than are needed.
    """
    storage, total = Storage(dtype, page_size=1), 0
    attention = held_attention(config)
    for kind in config.layer_mixers():
        if kind == "attention":
            assert attention is not None
            tokens = len(visible_pages(context_tokens, 1, attention.window))
            total += tokens * storage.kv_token_bytes(attention)
            continue
        assert config.mamba is not None
        mamba, inner = config.mamba, config.mamba.expand * config.hidden_size
        mixed = 2 * mamba.groups * mamba.state_size if kind == "mamba2" else 0
        total += (inner + mixed) * mamba.conv_kernel * ELEMENT_BYTES[dtype]
        total += inner * mamba.state_size * STATE_BYTES
    return total * batch_size


def held_attention(config: ModelConfig) -> Attention | None:
    """Attention as its keys and values are held.

    Falcon's new decoder repeats those of a group for each of its queries, and holds them all.
    """
    attention = config.attention
    if attention is None or attention.kv_heads == attention.heads or config.norm != "layernorm":
        return attention
    try:
        written = hf_config(config, "float32")
    except NoFamily:  # a folder's own family
        return attention
    if not written.get("new_decoder_architecture"):
        return attention
    return attention.model_copy(update={"kv_heads": attention.heads})


def held_bytes(cache: object | None) -> tuple[int, int]:
    """Bytes of the cache's tensors, and of the memory behind them.

    A sliding-window layer holds a view of the last call's keys and values, so that the memory
    behind it is larger by that call's tokens.
    """
    tensors = list(_tensors(cache, set()))
    used = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    storages = [tensor.untyped_storage() for tensor in tensors]
    return used, sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def _tensors(holder: object, seen: set[int]) -> Iterator[torch.Tensor]:
    """Every tensor with a shape under an object; those without are lengths and constants."""
    import torch

    if id(holder) in seen:
        return
    seen.add(id(holder))
    if isinstance(holder, torch.Tensor):
        if holder.dim():
            yield holder
        return
    parts: Any = ()
    if isinstance(holder, Mapping):
        parts = holder.values()
    elif isinstance(holder, list | tuple):
        parts = holder
    elif type(holder).__module__.startswith("transformers."):
        parts = vars(holder).values()
    for part in parts:
        yield from _tensors(part, seen)


@dataclass(frozen=True)
class CacheMark:
    """A cache without the keys and values of its growing layers, and how many they were."""

    cache: Any
    tokens: dict[int, int]


def mark(cache: Any) -> CacheMark:
    """The present state: states and windows copied, of full attention only the length."""
    layers = enumerate(getattr(cache, "layers", ()))
    growing = {
        index: (layer.keys, layer.values)
        for index, layer in layers
        if type(layer).__name__ in GROWING and layer.keys is not None
    }
    for index in growing:
        cache.layers[index].keys = cache.layers[index].values = None
    copied = copy.deepcopy(cache)
    for index, (keys, values) in growing.items():
        cache.layers[index].keys, cache.layers[index].values = keys, values
    return CacheMark(copied, {index: keys.shape[-2] for index, (keys, _) in growing.items()})


def restored(held: CacheMark, cache: Any) -> Any:
    """The cache as it was at the mark, from the present one, which is spent.

    Keys and values are copied layer by layer, since views of the longer ones would keep those.
    """
    again = copy.deepcopy(held.cache)
    for index, tokens in held.tokens.items():
        old, new = cache.layers[index], again.layers[index]
        new.keys, new.values = (
            old.keys[..., :tokens, :].clone(),
            old.values[..., :tokens, :].clone(),
        )
        old.keys = old.values = None
    return again
