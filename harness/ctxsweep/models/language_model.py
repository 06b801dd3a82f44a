"""A causal language model: embedding, layers, norm, head, and the state of all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module

import torch
from torch import Tensor, nn

from ctxsweep.models.accounting_parameters import layers_with_weights
from ctxsweep.models.cache import PageTable, TableMark
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.layers import LayerState, Mixer, StateSpec, Step, norm
from ctxsweep.models.positions import Rotary
from ctxsweep_kernels.dispatch import Impl

# mixer name -> "module:class"; a class takes (config, layer index)
MIXERS = {
    "attention": "ctxsweep.models.attention:AttentionMixer",
    "mamba1": "ctxsweep.models.mamba1:Mamba1Mixer",
    "mamba2": "ctxsweep.models.mamba2:Mamba2Mixer",
    "rwkv6": "ctxsweep.models.rwkv6:Rwkv6Mixer",
    "rwkv7": "ctxsweep.models.rwkv7:Rwkv7Mixer",
    "retention": "ctxsweep.models.retnet:RetentionMixer",
}
# mixers that bring a feed-forward block of their own
CHANNEL_MIXES: dict[str, str] = {
    "rwkv6": "ctxsweep.models.rwkv6:ChannelMix",
    "rwkv7": "ctxsweep.models.rwkv7:ChannelMix",
}

STREAMING = "ctxsweep.models.streaming:StreamingMixer"  # attention with sinks


def _build(path: str, config: ModelConfig, layer: int) -> Mixer:
    module, name = path.split(":")
    factory: Callable[[ModelConfig, int], Mixer] = getattr(import_module(module), name)
    return factory(config, layer)


def _has_sinks(config: ModelConfig) -> bool:
    return config.attention is not None and config.attention.sinks is not None


class Layer(nn.Module):
    """Pre-norm residual layer: a mixer, then a feed-forward block where the model has one.

    In parallel layers both read the layer's input, through a norm each or one for both.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        kind = config.layer_mixers()[index]
        self.mixer_norm = norm(config)
        streaming = kind == "attention" and _has_sinks(config)
        self.mixer = _build(STREAMING if streaming else MIXERS[kind], config, index)
        self.ffn_norm: nn.Module | None = None
        self.ffn: nn.Module | None = None
        if kind in CHANNEL_MIXES:
            self.ffn = _build(CHANNEL_MIXES[kind], config, index)
        elif config.has_ffn(index):
            from ctxsweep.models.feed_forward import feed_forward

            self.ffn = feed_forward(config, index)
        self.parallel = config.residual != "sequential"
        if self.ffn is not None and config.residual != "parallel_shared_norm":
            self.ffn_norm = norm(config)

    def states(self, spec: StateSpec) -> tuple[LayerState, ...]:
        """One state for every stateful part, mixer first."""
        parts = [part for part in (self.mixer, self.ffn) if isinstance(part, Mixer)]
        return tuple(part.new_state(spec) for part in parts)

    def forward(self, x: Tensor, states: tuple[LayerState, ...], step: Step) -> Tensor:
        read = self.mixer_norm(x)
        mixed = self.mixer(read, states[0], step)
        if self.ffn is not None and self.parallel:
            return x + mixed + self.ffn(read if self.ffn_norm is None else self.ffn_norm(x))
        x = x + mixed
        if self.ffn is None or self.ffn_norm is None:
            return x
        ffn = partial(self.ffn, state=states[1], step=step) if len(states) > 1 else self.ffn
        return x + ffn(self.ffn_norm(x))


def _layers(config: ModelConfig, dtype: torch.dtype) -> Iterator[Layer]:
    """Bottom to top; layers that share weights are one module, with a state at each place.

    Weights are drawn in float32 and narrowed layer by layer: no second copy of the model.
    """
    own = set(layers_with_weights(config))
    shared: Layer | None = None
    for index, kind in enumerate(config.layer_mixers()):
        if index not in own:
            assert shared is not None
            yield shared
            continue
        layer = Layer(config, index).to(dtype)
        if kind == "attention":
            shared = layer
        yield layer


@dataclass(frozen=True)
class StateMark:
    """A point to return to."""

    length: int
    horizon: int
    pages: TableMark | None
    layers: list[object]


class ModelState:
    """The states of all layers and the number of tokens that they have seen."""

    def __init__(self, layers: list[tuple[LayerState, ...]], pages: PageTable | None) -> None:
        self.layers = layers
        self.pages = pages
        self.length = 0
        self.horizon = 0
        """Length of the prompt that is coming, where it was said: keys are turned for it."""
        self._newest: StateMark | None = None

    def begin(self, tokens: int) -> None:
        """Make room for a call's tokens; MemoryError leaves everything as it was."""
        if self.pages is not None:
            self.pages.extend(tokens)

    def end(self, tokens: int) -> None:
        """The call's tokens are held; pages that have left a window are free again."""
        self.length += tokens
        if self.pages is not None:
            self.pages.trim()

    def _all(self) -> list[LayerState]:
        return [state for layer in self.layers for state in layer]

    @property
    def used_bytes(self) -> int:
        return sum(state.used_bytes for state in self._all())

    @property
    def reserved_bytes(self) -> int:
        return sum(state.reserved_bytes for state in self._all())

    def snapshot(self) -> StateMark:
        """Mark the present; older marks are void, since their tokens may be overwritten."""
        pages = self.pages.mark() if self.pages is not None else None
        layers = [state.snapshot() for state in self._all()]
        self._newest = StateMark(self.length, self.horizon, pages, layers)
        return self._newest

    def restore(self, mark: StateMark) -> None:
        """Return to the newest mark, any number of times.

        Raises:
            ValueError: a newer mark was made since, or everything was cleared.
        """
        if mark is not self._newest:
            raise ValueError("the mark is void: only the newest can be restored, until a reset")
        self.length, self.horizon = mark.length, mark.horizon
        if self.pages is not None and mark.pages is not None:
            self.pages.restore(mark.pages)
        for state, layer_mark in zip(self._all(), mark.layers, strict=True):
            state.restore(layer_mark)

    def clear(self) -> None:
        """Forget all tokens and the mark; reservations stay."""
        self.length = self.horizon = 0
        self._newest = None
        if self.pages is not None:
            self.pages.clear()
        for state in self._all():
            state.clear()


class LanguageModel(nn.Module):
    """Tokens in, logits out; the context is in the state alone.

    ``forward`` with many tokens is a (chunk of a) prefill, with one token a decode step: any split
    of the same tokens gives the same logits.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.impl: Impl = "auto"  # what every op of every layer is asked for
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.attention is not None and config.attention.position == "learned"
        self.positions = nn.Embedding(config.max_positions, config.hidden_size) if learned else None
        self.embedding_norm = norm(config) if config.has_embedding_norm() else None
        self.layers = nn.ModuleList(_layers(config, dtype))
        self.norm = norm(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight

    @property
    def ops(self) -> list[str]:
        """The ops of ``ctxsweep_kernels`` that the layers call."""
        mixers = [part for part in self.modules() if isinstance(part, Mixer)]
        return sorted({op for mixer in mixers for op in mixer.ops})

    def new_state(self, spec: StateSpec) -> ModelState:
        """An empty state for a batch."""
        pages = None
        if self.config.attention is not None and not _has_sinks(self.config):
            pages = PageTable(
                spec.batch_size,
                spec.max_tokens,
                spec.max_call_tokens,
                spec.page_size,
                self.config.attention.window,
                spec.device,
            )
        attention = self.config.attention
        rotates = attention is not None and attention.position == "rope"
        rotary = Rotary(self.config, spec.device) if rotates else None
        spec = replace(spec, pages=pages, rotary=rotary)
        return ModelState([layer.states(spec) for layer in self.layers], pages)

    def hidden(self, tokens: Tensor, state: ModelState) -> Tensor:
        """``tokens [B, T]`` to what the last layer makes of them, ``[B, T, hidden]``."""
        state.begin(tokens.shape[1])
        end = state.length + tokens.shape[1]
        step = Step(start=state.length, horizon=max(state.horizon, end), impl=self.impl)
        x = self.embedding(tokens)
        if self.config.embedding_scale is not None:
            x = x * self.config.embedding_scale
        if self.positions is not None:
            x = x + self.positions.weight[state.length : end]
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        for layer, states in zip(self.layers, state.layers, strict=True):
            x = layer(x, states, step)
        state.end(tokens.shape[1])
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., hidden]`` to ``[..., V]``."""
        return self.head(self.norm(hidden))

    def forward(self, tokens: Tensor, state: ModelState, all_logits: bool = False) -> Tensor:
        """``tokens [B, T]`` to logits of the last token ``[B, V]``, or of all ``[B, T, V]``."""
        x = self.hidden(tokens, state)
        return self.logits(x if all_logits else x[:, -1])


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, tied ones once."""
    tensors: dict[int, Tensor] = {t.data_ptr(): t for t in model.state_dict().values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def build(
    config: ModelConfig, seed: int, dtype: torch.dtype, device: torch.device
) -> LanguageModel:
    """A model with seeded random weights, in evaluation mode, without gradients.

    Parts may refine their own initialisation in ``reset_parameters``.
    """
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LanguageModel(config, dtype).to(dtype).eval()
    return model.requires_grad_(False)
