"""Mamba-2: a selective state-space model with one decay per head (arXiv 2405.21060)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.layers import LayerState, Mixer, StateSpec, Step, TensorState
from ctxsweep.models.recurrent import CausalConv, recurrent_dtype, time_step_bias
from ctxsweep_kernels.selective_state_update import selective_state_update
from ctxsweep_kernels.ssd import ssd_chunk_scan


class Mamba2Mixer(Mixer):
    """One projection, convolution, state-space dual scan, gated RMS norm over the inner width.

    State: ``conv [B, kernel - 1, inner + 2 G N]`` and ``ssm [B, H, P, N]``. Parameters have the
    names and shapes that transformers gives them.
    """

    ops = ("causal_conv1d", "ssd_chunk_scan", "selective_state_update")

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        section = config.mamba
        assert section is not None
        hidden, inner = config.hidden_size, config.hidden_size * section.expand
        self.heads, self.head_dim = inner // section.head_dim, section.head_dim
        self.groups, self.state_size = section.groups, section.state_size
        shared = section.groups * section.state_size
        self.conv_sizes = [inner, shared, shared]
        self.in_sizes = [inner, sum(self.conv_sizes), self.heads]
        self.in_proj = nn.Linear(hidden, sum(self.in_sizes), bias=False)
        self.conv1d = CausalConv(sum(self.conv_sizes), section.conv_kernel)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(inner, eps=config.norm_eps)
        self.out_proj = nn.Linear(inner, hidden, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The paper's values: decay rates between 1 and 16, steps between 0.001 and 0.1."""
        self.A_log.uniform_(1, 16).log_()
        self.dt_bias.copy_(time_step_bias(self.heads))

    def new_state(self, spec: StateSpec) -> LayerState:
        shape = (spec.batch_size, self.heads, self.head_dim, self.state_size)
        ssm = torch.zeros(shape, dtype=recurrent_dtype(spec.dtype), device=spec.device)
        return TensorState(conv=self.conv1d.new_state(spec), ssm=ssm)

    def forward(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        assert isinstance(state, TensorState)
        gate, conv_in, dt = self.in_proj(x).split(self.in_sizes, dim=-1)
        mixed = self.conv1d(conv_in, state.tensors["conv"], step.impl)
        u, B, C = mixed.split(self.conv_sizes, dim=-1)
        u = u.unflatten(-1, (self.heads, self.head_dim))
        B, C = (t.unflatten(-1, (self.groups, self.state_size)) for t in (B, C))
        dt = F.softplus(dt + self.dt_bias)
        A, ssm = self.A_log.exp().neg_(), state.tensors["ssm"]
        if x.shape[1] == 1:
            now = (t[:, 0] for t in (u, dt))
            y, _ = selective_state_update(ssm, *now, A, B[:, 0], C[:, 0], self.D, step.impl)
        else:
            y, last = ssd_chunk_scan(u, dt, A, B, C, ssm, self.D, impl=step.impl)
            ssm.copy_(last)
        return self.out_proj(self.norm(F.silu(gate).mul_(y.reshape(gate.shape))))
