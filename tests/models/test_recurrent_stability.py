"""Seeded random models stay alive over a long context: they neither explode nor fade."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctxsweep.models.config import FeedForward, Mamba, ModelConfig, Retention, Rwkv6, Rwkv7
from ctxsweep.models.language_model import build
from ctxsweep.models.layers import StateSpec

CPU = torch.device("cpu")
TOKENS, SEGMENT = 131072, 4096
SECTIONS: dict[str, dict[str, Any]] = {
    "mamba1": {"mamba": Mamba(state_size=4)},
    "mamba2": {"mamba": Mamba(state_size=16, head_dim=16)},
    "rwkv6": {"rwkv6": Rwkv6(head_dim=16, mix_rank=4, decay_rank=8), "norm": "layernorm"},
    "rwkv7": {"rwkv7": Rwkv7(head_dim=16), "norm": "layernorm"},
    "retention": {"retention": Retention(heads=2), "ffn": FeedForward(kind="gelu", size=64)},
}


@pytest.mark.parametrize("mixer", SECTIONS)
def test_logits_and_state_keep_their_scale(mixer: str) -> None:
    config = ModelConfig(
        name=mixer, mixer=mixer, vocab_size=64, hidden_size=32, num_layers=2, **SECTIONS[mixer]
    )
    model = build(config, 11, torch.float32, CPU)
    spec = StateSpec(1, TOKENS, SEGMENT, 64, torch.float32, torch.float32, CPU)
    state = model.new_state(spec)
    tokens = torch.randint(0, 64, (1, TOKENS), generator=torch.manual_seed(12))
    logit_scales, state_scales = [], []
    for piece in tokens.split(SEGMENT, dim=1):
        logits = model(piece, state, all_logits=True)
        assert torch.isfinite(logits).all()
        logit_scales.append(logits.std().item())
        tensors = [t for layer in state.layers for part in layer for t in part.tensors.values()]
        state_scales.append(max(t.abs().max().item() for t in tensors))
    # after the first segment every state has reached its level
    for scales, factor in ((logit_scales, 1.2), (state_scales, 10)):
        assert max(scales[1:]) <= factor * scales[1]
        assert min(scales[1:]) >= scales[1] / factor
    assert logit_scales[-1] > 0.1
