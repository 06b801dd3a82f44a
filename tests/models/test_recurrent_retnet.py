"""Retention's three forms are one function: parallel over all pairs, chunked, and recurrent."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ctxsweep.models.config import ModelConfig, Retention
from ctxsweep.models.layers import StateSpec, Step
from ctxsweep.models.retnet import RetentionMixer

CPU = torch.device("cpu")
HEADS, HIDDEN, TOKENS = 4, 64, 300
CONFIG = ModelConfig(
    name="tiny-retnet",
    mixer="retention",
    vocab_size=64,
    hidden_size=HIDDEN,
    num_layers=1,
    retention=Retention(heads=HEADS, value_expand=2),
)


def parallel(mixer: RetentionMixer, x: Tensor) -> Tensor:
    """Equations 5 and 8 of arXiv 2307.08621 as they stand, in real arithmetic."""
    key, value = HIDDEN // HEADS, 2 * HIDDEN // HEADS
    q, k, v, gate = F.linear(x, mixer.in_proj.weight).split(
        [HIDDEN, HIDDEN, 2 * HIDDEN, 2 * HIDDEN], dim=-1
    )
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    position = torch.arange(x.shape[1], dtype=torch.float64)
    frequency = 10000.0 ** (-torch.arange(0, key, 2, dtype=torch.float64) / key)
    angle = (position[:, None] * frequency).to(x.dtype)

    def turn(t: Tensor) -> Tensor:
        even, odd = t[..., ::2], t[..., 1::2]
        cos, sin = angle.cos(), angle.sin()
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    scores = turn(q) @ turn(k / key**0.5).mT
    gamma = 1 - 2.0 ** (-5 - torch.arange(HEADS, dtype=torch.float64))
    distance = position[:, None] - position
    decay = (gamma[:, None, None] ** distance.clamp(min=0)).tril().to(x.dtype)
    y = ((scores * decay) @ v).transpose(1, 2)  # [B, T, H, V]
    centred = y - y.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + CONFIG.norm_eps).sqrt()
    y = y.flatten(-2) * mixer.norm_weight + mixer.norm_bias
    assert value * HEADS == y.shape[-1]
    return F.linear(gate * torch.sigmoid(gate) * y, mixer.out_proj.weight)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize(
    "segments", [[TOKENS], [128, 128, 44], [1, 99, 200], [1] * TOKENS], ids=len
)
def test_chunked_and_recurrent_are_the_parallel_form(
    dtype: torch.dtype, tolerance: float, segments: list[int]
) -> None:
    torch.manual_seed(0)
    mixer = RetentionMixer(CONFIG, 0).to(dtype).requires_grad_(False)
    mixer.norm_weight.uniform_(0.5, 2)
    mixer.norm_bias.normal_()
    x = torch.randn(2, TOKENS, HIDDEN, dtype=dtype)
    state = mixer.new_state(StateSpec(2, TOKENS, TOKENS, 64, dtype, dtype, CPU))
    parts, start = [], 0
    for piece in x.split(segments, dim=1):
        parts.append(mixer(piece, state, Step(start)))
        start += piece.shape[1]
    expected = parallel(mixer, x)
    assert expected.std() > 0.05
    assert (torch.cat(parts, dim=1) - expected).abs().max().item() <= tolerance
