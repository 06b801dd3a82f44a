"""The block after the mixer: gated (SwiGLU, GeGLU) or plain (GELU), dense or of experts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctxsweep.models.config import FeedForward, ModelConfig


def feed_forward(config: ModelConfig, layer: int) -> nn.Module:
    """The block of a layer, as the ``ffn`` section describes it; ``[B, T, hidden]`` to same."""
    ffn = config.ffn
    assert ffn is not None
    if ffn.has_experts(layer):
        return MixtureOfExperts(config.hidden_size, ffn)
    return (Gated if ffn.gated else Plain)(config.hidden_size, ffn)


def swiglu(gate_up: Tensor) -> Tensor:
    """``[..., 2 size]`` (gate, then up) to ``[..., size]``: silu(gate) · up (arXiv 2002.05202)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def geglu(gate_up: Tensor) -> Tensor:
    """``[..., 2 size]`` (gate, then up) to ``[..., size]``: gelu(gate) · up (arXiv 2002.05202)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return gelu(gate) * up


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form, as in GPT-2 (arXiv 1606.08415)."""
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"swiglu": swiglu, "geglu": geglu, "gelu": gelu, "gelu_exact": functional.gelu}
)


class Gated(nn.Module):
    """``down(act(gate(x)) · up(x))``; gate and up are one matrix, so that they are one call."""

    def __init__(self, hidden_size: int, ffn: FeedForward) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[ffn.kind]
        self.gate_up = nn.Linear(hidden_size, 2 * ffn.size, bias=ffn.bias)
        self.down = nn.Linear(ffn.size, hidden_size, bias=ffn.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate_up(x)))


class Plain(nn.Module):
    """``down(act(up(x)))``."""

    def __init__(self, hidden_size: int, ffn: FeedForward) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[ffn.kind]
        self.up = nn.Linear(hidden_size, ffn.size, bias=ffn.bias)
        self.down = nn.Linear(ffn.size, hidden_size, bias=ffn.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class MixtureOfExperts(nn.Module):
    """Top-k of E experts for each token, weighted by a softmax over the chosen ones, or over all.

    Routing as in Mixtral (arXiv 2401.04088), or Jamba (arXiv 2403.19887). Tokens are grouped by
    expert, so an expert's weights are read once a call, and those of one that no token chose are
    not read at all.
    """

    def __init__(self, hidden_size: int, ffn: FeedForward) -> None:
        super().__init__()
        self.experts_per_token = ffn.experts_per_token
        self.over_all = ffn.router == "all"
        self.activation = ACTIVATIONS[ffn.kind]
        inner = 2 * ffn.size if ffn.gated else ffn.size
        self.router = nn.Linear(hidden_size, ffn.experts, bias=False)
        self.up = nn.Parameter(torch.empty(ffn.experts, inner, hidden_size))
        self.down = nn.Parameter(torch.empty(ffn.experts, hidden_size, ffn.size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every expert as ``nn.Linear`` would start it."""
        for weight in (self.up, self.down):
            bound = 1 / math.sqrt(weight.shape[-1])
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        logits, wide = self.router(tokens), torch.promote_types(x.dtype, torch.float32)
        chosen_logits, chosen = logits.topk(self.experts_per_token, dim=-1)
        if self.over_all:
            weights = logits.softmax(dim=-1, dtype=wide).gather(-1, chosen).to(x.dtype)
        else:
            weights = chosen_logits.softmax(dim=-1, dtype=wide).to(x.dtype)
        order = chosen.flatten().argsort(stable=True)
        owner = order // self.experts_per_token
        grouped, weights = tokens[owner], weights.flatten()[order].unsqueeze(1)
        # One wait for the device a layer: how many tokens each expert got.
        counts = torch.bincount(chosen.flatten(), minlength=self.router.out_features).tolist()
        mixed = torch.cat(
            [
                functional.linear(
                    self.activation(functional.linear(part, self.up[e])), self.down[e]
                )
                for e, part in enumerate(grouped.split(counts))
                if counts[e]
            ]
        )
        # Each token's k rows are brought back together and summed in a fixed order.
        unsorted = torch.empty_like(mixed).index_copy_(0, order, mixed * weights)
        return unsorted.view(len(tokens), self.experts_per_token, -1).sum(dim=1).view(x.shape)
