"""Mamba-1: a selective state-space model, one decay per channel and state (arXiv 2312.00752)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.layers import LayerState, Mixer, StateSpec, Step, TensorState
from ctxsweep.models.recurrent import CausalConv, recurrent_dtype, time_step_bias
from ctxsweep_kernels.selective_scan import selective_scan
from ctxsweep_kernels.selective_state_update import selective_state_update


class Mamba1Mixer(Mixer):
    """Gate, convolution, input-dependent step and projections, scan.

    State: ``conv [B, kernel - 1, inner]`` and ``ssm [B, inner, N]``. Parameters have the names
    and shapes that transformers gives them.
    """

    ops = ("causal_conv1d", "selective_scan", "selective_state_update")

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        section = config.mamba
        assert section is not None
        hidden, self.state_size = config.hidden_size, section.state_size
        inner = hidden * section.expand
        self.dt_rank = config.dt_rank
        self.in_proj = nn.Linear(hidden, 2 * inner, bias=False)
        self.conv1d = CausalConv(inner, section.conv_kernel)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * self.state_size, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, self.state_size))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, hidden, bias=False)
        self.sizes = [self.dt_rank, self.state_size, self.state_size]
        self.inner_norms = nn.ModuleList(
            nn.RMSNorm(size, eps=config.norm_eps) for size in self.sizes if section.inner_norms
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The paper's values: real S4D decay rates, steps between 0.001 and 0.1."""
        rates = torch.arange(1.0, self.state_size + 1)
        self.A_log.copy_(rates.log().expand_as(self.A_log))
        bound = self.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        self.dt_proj.bias.copy_(time_step_bias(self.dt_proj.out_features))

    def new_state(self, spec: StateSpec) -> LayerState:
        shape = (spec.batch_size, *self.A_log.shape)
        ssm = torch.zeros(shape, dtype=recurrent_dtype(spec.dtype), device=spec.device)
        return TensorState(conv=self.conv1d.new_state(spec), ssm=ssm)

    def forward(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        assert isinstance(state, TensorState)
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        u = self.conv1d(u, state.tensors["conv"], step.impl)
        parts = self.x_proj(u).split(self.sizes, dim=-1)
        if self.inner_norms:
            parts = [norm(part) for norm, part in zip(self.inner_norms, parts, strict=True)]
        dt, B, C = parts
        dt = F.softplus(self.dt_proj(dt))
        A, ssm = self.A_log.exp().neg_(), state.tensors["ssm"]
        if x.shape[1] == 1:
            now = (t[:, 0] for t in (u, dt))
            y, _ = selective_state_update(ssm, *now, A, B[:, 0], C[:, 0], self.D, step.impl)
            y = y[:, None]
        else:
            y, last = selective_scan(u, dt, A, B, C, ssm, self.D, step.impl)
            ssm.copy_(last)
        return self.out_proj(F.silu(gate).mul_(y))
