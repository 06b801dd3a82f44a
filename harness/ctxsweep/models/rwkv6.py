"""RWKV-6: linear attention with a decay and a token shift that depend on the data.

Specification: "Eagle and Finch", arXiv 2404.05892, section 4. Both blocks of a layer carry the last
token's activations beside the time mix's matrix state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.layers import LayerState, Mixer, StateSpec, Step, TensorState
from ctxsweep.models.recurrent import recurrent_dtype
from ctxsweep.models.rwkv_shared import LowRank, head_norm, shift_state, token_change, token_shift
from ctxsweep_kernels.wkv6 import wkv6


class Rwkv6Mixer(Mixer):
    """RWKV-6's time mix.

    State: ``shift [B, 1, hidden]`` and ``wkv [B, H, K, V]``. ``mix`` and ``mix_up`` are stacked in
    the order decay, k, v, r, gate, and ``projections`` in that of the last four, so that one call
    serves all of them.
    """

    ops = ("wkv6",)

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        section = config.rwkv6
        assert section is not None
        hidden, self.head_dim = config.hidden_size, section.head_dim
        self.heads = hidden // section.head_dim
        self.mix_base = nn.Parameter(torch.empty(hidden))
        self.mix = nn.Parameter(torch.empty(5, 1, 1, hidden))
        self.mix_down = nn.Linear(hidden, 5 * section.mix_rank, bias=False)
        self.mix_up = nn.Parameter(torch.empty(5, section.mix_rank, hidden))
        self.decay = LowRank(hidden, section.decay_rank, nn.Tanh(), bias=False)
        self.decay_base = nn.Parameter(torch.empty(hidden))
        self.projections = nn.Parameter(torch.empty(4, hidden, hidden))
        self.bonus = nn.Parameter(torch.empty(self.heads, self.head_dim))
        self.norm_weight = nn.Parameter(torch.ones(hidden))
        self.norm_bias = nn.Parameter(torch.zeros(hidden))
        self.out_proj = nn.Linear(hidden, hidden, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Decays spread over the channels, from 400 tokens of memory to a few, and the data move
        them: the low-rank parts are as large as any other linear map."""
        hidden, rank = self.out_proj.in_features, self.mix_up.shape[1]
        self.mix_base.uniform_(0, 1)
        self.mix.uniform_(0, 1)
        self.mix_up.uniform_(-(rank**-0.5), rank**-0.5)
        self.decay_base.copy_(torch.linspace(-6, -1, hidden))
        self.projections.uniform_(-(hidden**-0.5), hidden**-0.5)
        self.bonus.normal_(std=0.3)

    def new_state(self, spec: StateSpec) -> LayerState:
        shape = (spec.batch_size, self.heads, self.head_dim, self.head_dim)
        wkv = torch.zeros(shape, dtype=recurrent_dtype(spec.dtype), device=spec.device)
        return TensorState(shift=shift_state(spec, self.out_proj.in_features), wkv=wkv)

    def _mixed(self, x: Tensor, last: Tensor) -> Tensor:
        """Five mixes of each token with the one before it, ``[5, B, T, hidden]``."""
        change = token_change(x, last)
        low = torch.tanh(self.mix_down(torch.addcmul(x, change, self.mix_base)))
        low = low.view(-1, *self.mix_up.shape[:2]).transpose(0, 1)
        share = torch.baddbmm(self.mix.flatten(1, 2), low, self.mix_up)
        return torch.addcmul(x, change, share.view(5, *x.shape))

    def _log_decay(self, mixed: Tensor) -> Tensor:
        """Minus an exponential, which rounding would spoil: never narrower than float32."""
        dtype = recurrent_dtype(mixed.dtype)
        return torch.exp(self.decay(mixed).to(dtype) + self.decay_base.to(dtype)).neg_()

    def forward(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        assert isinstance(state, TensorState)
        heads = (*x.shape[:2], self.heads, self.head_dim)
        mixed = self._mixed(x, state.tensors["shift"])
        log_decay = self._log_decay(mixed[0])
        projected = torch.bmm(mixed[1:].flatten(1, 2), self.projections.mT)
        k, v, r, gate = projected.view(4, *x.shape).unbind(0)
        r, log_decay, k, v = (t.view(heads) for t in (r, log_decay, k, v))
        wkv = state.tensors["wkv"]
        y, _ = wkv6(r, log_decay, k, v, self.bonus, wkv, impl=step.impl, in_place=True)
        y = head_norm(y, self.norm_weight, self.norm_bias).view(x.shape)
        return self.out_proj(F.silu(gate).mul_(y))


class ChannelMix(Mixer):
    """RWKV-6's feed-forward block: token shift, squared ReLU, and a receptance that gates it.

    State: ``shift [B, 1, hidden]``. ``mix`` is stacked in the order key, receptance.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        hidden, size = config.hidden_size, config.channel_mix_size
        self.mix = nn.Parameter(torch.rand(2, 1, 1, hidden))
        self.up = nn.Linear(hidden, size, bias=False)
        self.receptance = nn.Linear(hidden, hidden, bias=False)
        self.down = nn.Linear(size, hidden, bias=False)

    def new_state(self, spec: StateSpec) -> LayerState:
        return TensorState(shift=shift_state(spec, self.up.in_features))

    def forward(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        assert isinstance(state, TensorState)
        for_key, for_receptance = token_shift(x, state.tensors["shift"], self.mix)
        written = self.down(torch.relu(self.up(for_key)).square_())
        return torch.sigmoid(self.receptance(for_receptance)).mul_(written)
