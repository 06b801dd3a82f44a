"""Model configurations: what a model is, checked before anything is built. Never imports torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ctxsweep.frozen import Frozen
from ctxsweep.models.rope import BadRope, Plain, Turning, turning
from ctxsweep.records import RopeScaling

Size = Annotated[int, Field(ge=1, le=1 << 20)]
"""A width or a count; the bound lies far beyond any model and stops slips of the finger."""

Mixer = Literal["attention", "mamba1", "mamba2", "rwkv6", "rwkv7", "retention"]
RWKV: frozenset[Mixer] = frozenset({"rwkv6", "rwkv7"})
"""Mixers whose layers bring a feed-forward block of their own, the channel mix."""


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
    """The block after the mixer. With ``experts`` a router picks ``experts_per_token`` of them."""

    kind: Literal["swiglu", "gelu"] = "swiglu"
    size: Size = Field(description="Inner width (of one expert).")
    experts: int = Field(0, ge=0, le=1 << 20, description="0: dense.")
    experts_per_token: Size = 2
    bias: bool = False

    @model_validator(mode="after")
    def _top_k(self) -> Self:
        if self.experts and self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token = {self.experts_per_token} exceeds experts = {self.experts}; "
                f"nearest valid experts_per_token: {self.experts}"
            )
        if self.experts and self.bias:
            raise ValueError("bias is not known for experts; remove it, or set experts: 0")
        return self


class Mamba(Frozen):
    """Mamba-1 (arXiv 2312.00752) or Mamba-2 (arXiv 2405.21060) mixer."""

    state_size: Size = 16
    expand: Size = 2
    conv_kernel: int = Field(4, ge=2, le=1 << 10)
    head_dim: Size = Field(64, description="Mamba-2 only.")
    groups: Size = Field(1, description="Mamba-2 only: groups that share B and C.")
    dt_rank: Size | None = Field(None, description="Mamba-1 only; default hidden/16.")


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


class ModelConfig(Frozen):
    """A whole model: ``num_layers`` of one mixer, or a hybrid with attention in every k-th layer.

    A mixer's section (``attention``, ``mamba``, ``rwkv6``, ``rwkv7``, ``retention``) must be there
    exactly when a layer uses it. ``ffn`` is absent in pure Mamba models and in RWKV, which has its
    own.
    """

    name: str
    source: str = Field("", description="Where the shape was published, or what it is.")
    mixer: Mixer
    vocab_size: int = Field(ge=2, le=1 << 24)
    hidden_size: Size
    num_layers: int = Field(ge=1, le=1024)
    max_positions: int = Field(
        1 << 20, ge=1, le=1 << 24, description="Table size of learned positions."
    )
    trained_context: int | None = Field(
        None, ge=1, le=1 << 24, description="Longest context of the training, where it is known."
    )
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_eps: float = Field(1e-5, gt=0)
    tied_embeddings: bool = False
    attention_every: int | None = Field(
        None, ge=2, description="Hybrid: every k-th layer is attention instead of the mixer."
    )
    attention: Attention | None = None
    ffn: FeedForward | None = None
    mamba: Mamba | None = None
    rwkv6: Rwkv6 | None = None
    rwkv7: Rwkv7 | None = None
    retention: Retention | None = None

    def layer_mixers(self) -> tuple[Mixer, ...]:
        """The mixer of each layer, bottom to top."""
        every = self.attention_every
        return tuple(
            "attention" if every and (i + 1) % every == 0 else self.mixer
            for i in range(self.num_layers)
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_hybrid()
        used = set(self.layer_mixers())
        sections = {
            "attention": ({"attention"}, self.attention),
            "mamba": ({"mamba1", "mamba2"}, self.mamba),
            "rwkv6": ({"rwkv6"}, self.rwkv6),
            "rwkv7": ({"rwkv7"}, self.rwkv7),
            "retention": ({"retention"}, self.retention),
        }
        for key, (mixers, section) in sections.items():
            if used & mixers and section is None:
                raise ValueError(f"section '{key}' is missing: mixer '{self.mixer}' needs it")
            if section is not None and not used & mixers:
                raise ValueError(f"section '{key}' is set, but no layer uses it; remove it")
        if self.ffn is not None and used <= RWKV:
            raise ValueError(
                "section 'ffn' is set, but RWKV has its own channel mix; remove it, or set "
                f"{self.mixer}.ffn_size"
            )
        self._check_widths()
        if self.attention is not None and self.attention.rope is not None:
            try:
                self.turning(1)
            except BadRope as error:
                raise ValueError(f"attention.rope.{error}") from error
        return self

    def turning(self, length: int) -> Turning:
        """How the attention's positions turn for a context of ``length`` tokens."""
        assert self.attention is not None
        return turning(self.attention.rope, self.attention.turned, self.trained_context, length)

    def _check_hybrid(self) -> None:
        every = self.attention_every
        if every and self.mixer == "attention":
            raise ValueError(
                "attention_every is for hybrids: with mixer 'attention' every layer is; remove it"
            )
        if every and self.num_layers < 2:
            raise ValueError("attention_every needs num_layers of at least 2")
        if every and every > self.num_layers:
            raise ValueError(
                f"attention_every = {every} exceeds num_layers = {self.num_layers}, so no layer "
                f"would be attention; nearest valid: {self.num_layers}"
            )

    def _check_widths(self) -> None:
        hidden = self.hidden_size
        if self.mamba and "mamba2" in self.layer_mixers():
            inner, head = hidden * self.mamba.expand, self.mamba.head_dim
            if inner % head:
                raise ValueError(
                    f"mamba.head_dim = {head} must divide expand × hidden_size = {inner}; "
                    f"nearest valid: {nearest_divisors(inner, head)}"
                )
            if (inner // head) % self.mamba.groups:
                raise ValueError(
                    f"mamba.groups = {self.mamba.groups} must divide the {inner // head} heads; "
                    f"nearest valid: {nearest_divisors(inner // head, self.mamba.groups)}"
                )
        rwkv = self.rwkv6 or self.rwkv7
        if rwkv and hidden % rwkv.head_dim:
            raise ValueError(
                f"{self.mixer}.head_dim = {rwkv.head_dim} must divide hidden_size = {hidden}; "
                f"nearest valid: {nearest_divisors(hidden, rwkv.head_dim)}"
            )
        if self.retention and hidden % 2:
            raise ValueError(
                f"hidden_size = {hidden} must be even for retention's rotary positions; nearest "
                f"valid: {nearest_even(hidden)}"
            )
        if self.retention and (hidden % self.retention.heads or hidden // self.retention.heads % 2):
            raise ValueError(
                f"retention.heads = {self.retention.heads} must divide hidden_size = {hidden} "
                f"into even head dims; nearest valid: "
                f"{nearest_divisors(hidden // 2, self.retention.heads)}"
            )


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
