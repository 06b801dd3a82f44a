"""RWKV-7: a linear recurrence with a vector-valued delta rule (arXiv 2503.14456).

Every input is mixed with the token before it ("token shift"), so both blocks of a layer carry
the last token's activations beside the time mix's matrix state.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.layers import LayerState, Mixer, StateSpec, Step, TensorState
from ctxsweep.models.recurrent import recurrent_dtype
from ctxsweep.models.rwkv_shared import LowRank, head_norm, shift_state, token_shift
from ctxsweep_kernels.wkv7 import wkv7

SLOWEST_LOG_DECAY = -math.exp(-0.5)  # log decay lies in (-0.607, 0)


class Rwkv7Mixer(Mixer):
    """RWKV-7's time mix.

    State: ``shift [B, 1, hidden]`` and ``wkv [B, H, V, K]``. Layer 0 leaves its values in
    ``step.carry`` and upper layers mix them into theirs. ``mix`` and ``projections`` are stacked
    in the order r, k, v (, decay, rate, gate), so that one call serves all of them.
    """

    ops = ("wkv7",)

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        section = config.rwkv7
        assert section is not None
        hidden, self.head_dim = config.hidden_size, section.head_dim
        self.heads = hidden // section.head_dim
        self.mix = nn.Parameter(torch.empty(6, 1, 1, hidden))
        self.projections = nn.Parameter(torch.empty(3, hidden, hidden))
        self.decay = LowRank(hidden, section.decay_rank, nn.Tanh())
        self.rate = LowRank(hidden, section.rate_rank)
        self.value = LowRank(hidden, section.value_rank) if layer > 0 else None
        self.gate = LowRank(hidden, section.gate_rank, nn.Sigmoid(), bias=False)
        self.removal_scale = nn.Parameter(torch.full((hidden,), 0.85))
        self.rate_scale = nn.Parameter(torch.ones(hidden))
        self.bonus = nn.Parameter(torch.empty(self.heads, self.head_dim))
        self.norm_weight = nn.Parameter(torch.ones(hidden))
        self.norm_bias = nn.Parameter(torch.zeros(hidden))
        self.out_proj = nn.Linear(hidden, hidden, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Decays spread over the channels: from 400 tokens of memory to a few."""
        hidden = self.out_proj.in_features
        self.mix.uniform_(0, 1)
        self.projections.uniform_(-(hidden**-0.5), hidden**-0.5)
        self.bonus.normal_(std=0.1)
        self.decay[2].bias.copy_(torch.linspace(-6, -1, hidden))
        self.rate[2].bias.zero_()
        if self.value is not None:
            self.value[2].bias.fill_(1)

    def new_state(self, spec: StateSpec) -> LayerState:
        shape = (spec.batch_size, self.heads, self.head_dim, self.head_dim)
        wkv = torch.zeros(shape, dtype=recurrent_dtype(spec.dtype), device=spec.device)
        return TensorState(shift=shift_state(spec, self.out_proj.in_features), wkv=wkv)

    def _values(self, v: Tensor, mixed: Tensor, step: Step) -> Tensor:
        if self.value is None:
            step.carry["first_values"] = v
            return v
        return torch.lerp(v, step.carry["first_values"], torch.sigmoid(self.value(mixed)))

    def forward(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        assert isinstance(state, TensorState)
        heads = (*x.shape[:2], self.heads, self.head_dim)
        mixed = token_shift(x, state.tensors["shift"], self.mix)
        _, _, mixed_v, mixed_decay, mixed_rate, mixed_gate = mixed.unbind(0)
        rkv = torch.bmm(mixed[:3].flatten(1, 2), self.projections.mT)
        r, k, v = rkv.view(3, *x.shape).unbind(0)
        log_decay = torch.sigmoid(self.decay(mixed_decay)) * SLOWEST_LOG_DECAY
        rate = torch.sigmoid(self.rate(mixed_rate))
        v = self._values(v, mixed_v, step)
        removal = F.normalize((k * self.removal_scale).view(heads), dim=-1)
        k = torch.lerp(k, k * rate, self.rate_scale)
        r, k, v, rate, log_decay = (t.view(heads) for t in (r, k, v, rate, log_decay))
        wkv = state.tensors["wkv"]
        y, last = wkv7(r, log_decay, k, v, -removal, removal * rate, wkv, impl=step.impl)
        wkv.copy_(last)
        own = (r * k * self.bonus).sum(-1, keepdim=True) * v
        y = head_norm(y, self.norm_weight, self.norm_bias) + own
        return self.out_proj(y.view(x.shape) * self.gate(mixed_gate))


class ChannelMix(Mixer):
    """RWKV-7's feed-forward block: token shift, squared ReLU. State: ``shift [B, 1, hidden]``."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        size = config.channel_mix_size
        self.mix = nn.Parameter(torch.rand(config.hidden_size))
        self.up = nn.Linear(config.hidden_size, size, bias=False)
        self.down = nn.Linear(size, config.hidden_size, bias=False)

    def new_state(self, spec: StateSpec) -> LayerState:
        return TensorState(shift=shift_state(spec, self.mix.shape[0]))

    def forward(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        assert isinstance(state, TensorState)
        mixed = token_shift(x, state.tensors["shift"], self.mix)
        return self.down(torch.relu(self.up(mixed)).square_())
