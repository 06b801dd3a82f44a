"""RetNet: attention without softmax, with a fixed decay per head (arXiv 2307.08621)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.layers import LayerState, Mixer, StateSpec, Step, TensorState
from ctxsweep.models.recurrent import recurrent_dtype
from ctxsweep_kernels.retention import retention


class RetentionMixer(Mixer):
    """Multi-scale retention: rotary q and k, decay ``1 - 2^(-5 - head)``, group norm, swish gate.

    State: ``[B, H, K, V]``.
    """

    ops = ("retention",)

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        section = config.retention
        assert section is not None
        hidden, self.heads = config.hidden_size, section.heads
        value = hidden * section.value_expand
        self.sizes = [2 * hidden, value, value]
        self.key_dim, self.value_dim = hidden // self.heads, value // self.heads
        self.rope_theta, self.eps = section.rope_theta, config.norm_eps
        self.in_proj = nn.Linear(hidden, sum(self.sizes), bias=False)
        self.norm_weight = nn.Parameter(torch.ones(value))
        self.norm_bias = nn.Parameter(torch.zeros(value))
        self.out_proj = nn.Linear(value, hidden, bias=False)

    def new_state(self, spec: StateSpec) -> LayerState:
        shape = (spec.batch_size, self.heads, self.key_dim, self.value_dim)
        dtype = recurrent_dtype(spec.dtype)
        return TensorState(kv=torch.zeros(shape, dtype=dtype, device=spec.device))

    def _rotate(self, qk: Tensor, turns: Tensor) -> tuple[Tensor, ...]:
        """Turn each pair of features: ``[B, T, 2, H, K]`` to q and k ``[B, T, H, K]``."""
        pairs = qk.to(recurrent_dtype(qk.dtype)).unflatten(-1, (-1, 2))
        turned = torch.view_as_complex(pairs) * turns
        return torch.view_as_real(turned).flatten(-2).to(qk.dtype).unbind(2)

    def _constants(self, step: Step, x: Tensor) -> tuple[Tensor, Tensor]:
        """``turns [T, 1, 1, K/2]`` and ``log_decay [H]``; one for all layers of a step."""
        if "turns" not in step.carry:
            dtype = recurrent_dtype(x.dtype)
            turns = rotations(step.start, x.shape[1], self.key_dim, self.rope_theta, x.device)
            step.carry["turns"] = turns.to(dtype.to_complex())[:, None, None]
            step.carry["log_decay"] = log_decay(self.heads, x.device).to(dtype)
        return step.carry["turns"], step.carry["log_decay"]

    def forward(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        assert isinstance(state, TensorState)
        qk, v, gate = self.in_proj(x).split(self.sizes, dim=-1)
        turns, decay = self._constants(step, x)
        q, k = self._rotate(qk.unflatten(-1, (2, self.heads, self.key_dim)), turns)
        v = v.unflatten(-1, (self.heads, self.value_dim))
        kv = state.tensors["kv"]
        y, last = retention(q, k * self.key_dim**-0.5, v, decay, kv, impl=step.impl)
        kv.copy_(last)
        rows = y.reshape(-1, self.sizes[1])
        y = F.group_norm(rows, self.heads, self.norm_weight, self.norm_bias, self.eps)
        return self.out_proj(F.silu(gate).mul_(y.view(gate.shape)))


def log_decay(heads: int, device: torch.device) -> Tensor:
    """``log(1 - 2^(-5 - h))`` for every head h, ``[H]`` in fp64."""
    powers = torch.arange(5, 5 + heads, dtype=torch.float64, device=device)
    return torch.log1p(-torch.exp2(-powers))


def rotations(start: int, tokens: int, dim: int, theta: float, device: torch.device) -> Tensor:
    """``exp(i position theta^(-2j/dim))``, ``[T, dim/2]`` in complex128.

    A float32 angle would be off by 0.008 at position 131072.
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim
    positions = torch.arange(start, start + tokens, dtype=torch.float64, device=device)
    angles = positions[:, None] * theta**-exponents
    return torch.polar(torch.ones_like(angles), angles)
