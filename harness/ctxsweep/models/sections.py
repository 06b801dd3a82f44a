"""The sections of a model's configuration, one for each kind of part. Never imports torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ctxsweep.frozen import Frozen
from ctxsweep.models.rope import Plain
from ctxsweep.records import RopeScaling

Size = Annotated[int, Field(ge=1, le=1 << 20)]
"""A width or a count; the bound lies far beyond any model and stops slips of the finger."""


class Attention(Frozen):
    """Softmax attention: MHA (kv_heads = heads), GQA, or MQA (kv_heads = 1)."""

    heads: Size
    kv_heads: Size
    head_dim: Size
    window: int | None = Field(None, ge=1, description="Sliding window in tokens (Mistral).")
    sinks: int | None = Field(
        None, ge=1, le=1 << 24, description="First tokens that stay visible beside the window."
    )
    position: Literal["rope", "alibi", "learned", "none"] = "rope"
    rope_theta: float = Field(10000.0, gt=0)
    rotary_dim: Size | None = Field(None, description="Dimensions that turn; default all.")
    rope: RopeScaling | None = Field(None, description="Stretches the rotary positions.")
    bias: bool = False
    out_bias: bool | None = Field(
        None, description="Of the output projection (Qwen2 has none); default: as bias."
    )

    @property
    def biased_output(self) -> bool:
        """Whether the output projection has a bias."""
        return self.bias if self.out_bias is None else self.out_bias

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads = {self.heads} must be a multiple of kv_heads = {self.kv_heads}; "
                f"nearest valid kv_heads: {nearest_divisors(self.heads, self.kv_heads)}"
            )
        if self.position == "rope":
            self._check_rotary()
        elif self.rope is not None or self.rotary_dim is not None:
            key = "rope" if self.rope is not None else "rotary_dim"
            raise ValueError(f"{key} is for rotary positions, not for '{self.position}'; remove it")
        problem = self.sinks_problem()
        if problem is not None:
            raise ValueError(problem)
        return self

    def sinks_problem(self) -> str | None:
        """Why there cannot be sinks here, and what to do; None if there are none or they can be."""
        if self.sinks is None:
            return None
        if self.window is None:
            return f"sinks = {self.sinks} stay visible beside a window: set window, or remove sinks"
        if self.position != "rope":
            return (
                f"sinks = {self.sinks} need rotary positions, which the cache can count anew, not "
                f"'{self.position}'; remove sinks"
            )
        return None

    @property
    def span(self) -> int | None:
        """Tokens that a query sees at most, itself included; None: all."""
        return None if self.window is None else self.window + (self.sinks or 0)

    def _check_rotary(self) -> None:
        key = "head_dim" if self.rotary_dim is None else "rotary_dim"
        turned = self.rotary_dim or self.head_dim
        if turned % 2:
            raise ValueError(
                f"{key} = {turned} must be even for rotary positions; "
                f"nearest valid: {nearest_even(turned)}"
            )
        if turned > self.head_dim:
            raise ValueError(
                f"rotary_dim = {turned} exceeds head_dim = {self.head_dim}; nearest valid: "
                f"{self.head_dim}"
            )

    @property
    def turned(self) -> Plain:
        """Rotary positions as they were trained."""
        return Plain(self.rotary_dim or self.head_dim, self.rope_theta, self.head_dim)


class FeedForward(Frozen):
    """The block after the mixer. With ``experts`` a router picks ``experts_per_token`` of them.

    ``gelu`` is GELU's tanh form, ``gelu_exact`` the one with erf (arXiv 1606.08415); ``geglu``
    gates with the tanh form (arXiv 2002.05202).
    """

    kind: Literal["swiglu", "geglu", "gelu", "gelu_exact"] = "swiglu"
    size: Size = Field(description="Inner width (of one expert).")
    experts: int = Field(0, ge=0, le=1 << 20, description="0: dense.")
    experts_per_token: Size = 2
    experts_every: Size = Field(
        1, description="Every k-th layer has experts, the others one block of the same size."
    )
    router: Literal["chosen", "all"] = Field(
        "chosen", description="Experts' weights: a softmax of the chosen (Mixtral), or of all."
    )
    layers: Literal["all", "attention"] = Field(
        "all", description="attention: in a hybrid only its attention layers have the block."
    )
    bias: bool = False

    @property
    def gated(self) -> bool:
        """Whether a second projection gates the first."""
        return self.kind in ("swiglu", "geglu")

    def has_experts(self, layer: int) -> bool:
        """Whether a router chooses in this layer."""
        return self.experts > 0 and (layer + 1) % self.experts_every == 0

    @model_validator(mode="after")
    def _top_k(self) -> Self:
        if self.experts and self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token = {self.experts_per_token} exceeds experts = {self.experts}; "
                f"nearest valid experts_per_token: {self.experts}"
            )
        if self.experts and self.bias:
            raise ValueError("bias is not known for experts; remove it, or set experts: 0")
        for key, is_set in (
            ("experts_every", self.experts_every > 1),
            ("router", self.router != "chosen"),
        ):
            if is_set and not self.experts:
                raise ValueError(f"{key} needs experts; remove it, or set experts")
        return self


class Mamba(Frozen):
    """Mamba-1 (arXiv 2312.00752) or Mamba-2 (arXiv 2405.21060) mixer."""

    state_size: Size = 16
    expand: Size = 2
    conv_kernel: int = Field(4, ge=2, le=1 << 10)
    head_dim: Size = Field(64, description="Mamba-2 only.")
    groups: Size = Field(1, description="Mamba-2 only: groups that share B and C.")
    dt_rank: Size | None = Field(None, description="Mamba-1 only; default hidden/16.")
    inner_norms: bool = Field(
        False, description="Mamba-1 only: RMS norms of step, B and C (Jamba, arXiv 2403.19887)."
    )


class Rwkv6(Frozen):
    """RWKV-6 (arXiv 2404.05892): head size and the ranks of its low-rank parts."""

    head_dim: Size = 64
    mix_rank: Size = Field(32, description="Rank of each of the five data-dependent token shifts.")
    decay_rank: Size = 64
    ffn_size: Size | None = Field(None, description="Default 3.5 × hidden_size, down to 32s.")


class Rwkv7(Frozen):
    """RWKV-7 (arXiv 2503.14456): head size and the ranks of its low-rank parts."""

    head_dim: Size = 64
    decay_rank: Size = 64
    rate_rank: Size = Field(64, description="Rank of the in-context learning rate.")
    value_rank: Size = 32
    gate_rank: Size = 128
    ffn_size: Size | None = Field(None, description="Default 4 × hidden_size.")


class Retention(Frozen):
    """Multi-scale retention of RetNet (arXiv 2307.08621)."""

    heads: Size
    value_expand: Size = Field(2, description="Value width over hidden_size.")
    rope_theta: float = Field(10000.0, gt=0)


def step_rank(hidden: int) -> int:
    """Mamba-1's rank of the step where none is said: a sixteenth of the width, rounded up."""
    return -(-hidden // 16)


def nearest_even(odd: int) -> str:
    """The even numbers on both sides, as words for a message; 0 is none."""
    return " or ".join(str(n) for n in (odd - 1, odd + 1) if n)


def nearest_divisors(number: int, wanted: int) -> str:
    """The divisors of ``number`` nearest to ``wanted`` below and above, as words for a message."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = sorted({*small, *(number // d for d in small)})
    below = [d for d in divisors if d < wanted][-1:]
    above = [d for d in divisors if d > wanted][:1]
    return " or ".join(str(d) for d in below + above)
