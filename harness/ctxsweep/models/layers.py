"""The parts a model is stacked from, and the state that each of them carries along the context."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ctxsweep.models.cache import PageTable
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.positions import Rotary
from ctxsweep_kernels.dispatch import Impl


class LayerState(Protocol):
    """What one part keeps of the tokens it has seen: a recurrent state, or keys and values."""

    @property
    def used_bytes(self) -> int:
        """Bytes that hold context now, exact."""

    @property
    def reserved_bytes(self) -> int:
        """Bytes set aside, used or not."""

    def snapshot(self) -> object:
        """Mark the present; only the newest mark is valid, any number of times."""

    def restore(self, mark: object) -> None:
        """Return to the mark."""

    def clear(self) -> None:
        """Forget everything, keep the reservation."""


@dataclass
class Step:
    """One call of the whole model: what its layers share on the way up.

    ``horizon`` is the length of context that positions are turned for, where that matters (dynamic
    NTK, LongRoPE): that of the prompt, as far as it is known beforehand. ``carry`` is scratch that
    a lower layer leaves for the upper ones (RWKV-7's first values); ``impl`` is the implementation
    that the ops are asked for.
    """

    start: int
    horizon: int = 0
    impl: Impl = "auto"
    carry: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class StateSpec:
    """How large a state may grow.

    ``pages`` is the block table that the attention layers of the model share, ``rotary`` how their
    positions turn.
    """

    batch_size: int
    max_tokens: int
    max_call_tokens: int
    page_size: int
    kv_dtype: torch.dtype
    dtype: torch.dtype
    device: torch.device
    pages: PageTable | None = None
    rotary: Rotary | None = None


class Mixer(nn.Module):
    """A part that mixes along the context: attention, a state-space model, a recurrence.

    Stateful feed-forward blocks (RWKV-7's channel mix) are mixers too. ``ops`` names the ops of
    ``ctxsweep_kernels`` that it calls.
    """

    ops: tuple[str, ...] = ()

    def new_state(self, spec: StateSpec) -> LayerState:
        """An empty state for ``spec.batch_size`` sequences."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        """``[B, T, hidden]`` to ``[B, T, hidden]``; advances ``state`` by T tokens."""
        raise NotImplementedError


class TensorState:
    """A state of fixed size: named tensors, zero before the first token."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    @property
    def used_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @property
    def reserved_bytes(self) -> int:
        return self.used_bytes

    def snapshot(self) -> object:
        return {name: tensor.clone() for name, tensor in self.tensors.items()}

    def restore(self, mark: object) -> None:
        assert isinstance(mark, dict)
        for name, tensor in mark.items():
            self.tensors[name].copy_(tensor)

    def clear(self) -> None:
        for tensor in self.tensors.values():
            tensor.zero_()


def norm(config: ModelConfig) -> nn.Module:
    """The configuration's norm over the hidden size."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
