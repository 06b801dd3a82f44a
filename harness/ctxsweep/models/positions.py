"""Positions in attention, as tensors: rotary frequencies and ALiBi slopes."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.rope import depends_on_length


class Rotary:
    """How a model's queries and keys turn: frequencies and attention factor, kept on the device.

    Always fp32: a rounded frequency turns the far end of a long context by whole radians.
    """

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        assert config.attention is not None
        self._config = config
        self._device = device
        self._by_length = depends_on_length(config.attention.rope)
        self._length: int | None = None
        self._known = torch.empty(0), 1.0

    def at(self, length: int) -> tuple[Tensor, float]:
        """``inv_freq [R/2]`` in fp32 and the attention factor, for ``length`` tokens."""
        if self._length is None or (self._by_length and self._length != length):
            found = self._config.turning(length)
            frequencies = torch.tensor(found.inv_freq, dtype=torch.float32, device=self._device)
            self._length, self._known = length, (frequencies, found.attention_factor)
        return self._known


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """Slope of the linear distance penalty of each head, ``[H]`` in fp32 (arXiv 2108.12409).

    For a power of two, ``2^(-8/H), 2^(-16/H), ...``. Otherwise the slopes of the power of two
    below, then every other slope of the power of two above, as the paper's code has it.
    """
    below = 1 << (heads.bit_length() - 1)
    slopes = _geometric(below)
    if below != heads:
        slopes += _geometric(2 * below)[::2][: heads - below]
    return torch.tensor(slopes, dtype=torch.float32, device=device)


def _geometric(heads: int) -> list[float]:
    return [2.0 ** (-8.0 * (i + 1) / heads) for i in range(heads)]
