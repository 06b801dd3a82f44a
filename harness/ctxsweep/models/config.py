"""Model configurations: what a model is, checked before anything is built. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from ctxsweep.frozen import Frozen
from ctxsweep.models.rope import BadRope, Turning, turning
from ctxsweep.models.sections import (
    Attention,
    FeedForward,
    Mamba,
    Retention,
    Rwkv6,
    Rwkv7,
    Size,
    nearest_divisors,
    nearest_even,
    step_rank,
)

Mixer = Literal["attention", "mamba1", "mamba2", "rwkv6", "rwkv7", "retention"]
RWKV: frozenset[Mixer] = frozenset({"rwkv6", "rwkv7"})
"""Mixers whose layers bring a feed-forward block of their own, the channel mix."""


Residual = Literal["sequential", "parallel", "parallel_shared_norm"]


class Published(Frozen):
    """What the authors, or the hub that holds their weights, say of a model's size."""

    parameters: int = Field(ge=1)
    rounded_to: int = Field(1, ge=1, description="Unit of the last digit given; 1: exact.")
    truncated: bool = Field(False, description="The digits after the last are cut, not rounded.")
    counts_tied_head: bool = Field(
        False, description="The figure counts a tied head beside the embedding that it is."
    )
    source: str

    def agrees(self, count: int) -> bool:
        """Whether a count, as the source counts, is the figure as far as its digits go."""
        beyond = count - self.parameters
        if self.truncated:
            return 0 <= beyond < self.rounded_to
        return abs(beyond) <= self.rounded_to // 2


@dataclass(frozen=True)
class LayerKind:
    """What a layer is made of: its mixer, and the block after it."""

    mixer: Mixer
    ffn: bool
    experts: bool


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
    norm_bias: bool = Field(True, description="Of layernorm.")
    residual: Residual = Field(
        "sequential",
        description="parallel: mixer and feed-forward read the same input, each through its norm "
        "(GPT-NeoX) or both through one (GPT-J, Falcon-7B).",
    )
    tied_embeddings: bool = False
    embedding_norm: bool = Field(False, description="A norm right after the embedding (BLOOM).")
    embedding_scale: float | None = Field(None, gt=0, le=1e6, description="Gemma: √hidden_size.")
    head_bias: bool = False
    attention_every: int | None = Field(
        None, ge=2, description="Hybrid: every k-th layer is attention instead of the mixer."
    )
    attention_offset: int | None = Field(
        None, ge=0, description="Hybrid: the first attention layer, from 0; default the k-th."
    )
    attention_shared: bool = Field(
        False, description="Hybrid: its attention layers are one block's weights (Zamba2)."
    )
    published: Published | None = None
    attention: Attention | None = None
    ffn: FeedForward | None = None
    mamba: Mamba | None = None
    rwkv6: Rwkv6 | None = None
    rwkv7: Rwkv7 | None = None
    retention: Retention | None = None

    def layer_mixers(self) -> tuple[Mixer, ...]:
        """The mixer of each layer, bottom to top."""
        every = self.attention_every
        if not every:
            return (self.mixer,) * self.num_layers
        first = self._first_attention(every)
        return tuple(
            "attention" if i % every == first else self.mixer for i in range(self.num_layers)
        )

    def layers(self) -> tuple[LayerKind, ...]:
        """What each layer is made of, bottom to top."""
        mixers = self.layer_mixers()
        blocks = [self._ffn_after(mixer) for mixer in mixers]
        return tuple(
            LayerKind(mixer, block, block and mixer not in RWKV and self._has_experts(i))
            for i, (mixer, block) in enumerate(zip(mixers, blocks, strict=True))
        )

    def has_ffn(self, layer: int) -> bool:
        """Whether a layer has a block after its mixer, RWKV's channel mix included."""
        return self._ffn_after(self.layer_mixers()[layer])

    def _ffn_after(self, mixer: Mixer) -> bool:
        if mixer in RWKV:
            return True
        return self.ffn is not None and (self.ffn.layers == "all" or mixer == "attention")

    def _has_experts(self, layer: int) -> bool:
        return self.ffn is not None and self.ffn.has_experts(layer)

    def _first_attention(self, every: int) -> int:
        return every - 1 if self.attention_offset is None else self.attention_offset

    def has_embedding_norm(self) -> bool:
        """RWKV normalises the embedding once, as ln0 of its first layer; BLOOM says so."""
        return self.embedding_norm or self.mixer in RWKV

    def norm_width(self) -> int:
        """Parameters of one norm over the hidden size."""
        return self.hidden_size * (2 if self.norm == "layernorm" and self.norm_bias else 1)

    @property
    def dt_rank(self) -> int:
        """Rank of Mamba-1's step; by default a sixteenth of the hidden size, rounded up."""
        assert self.mamba is not None
        return self.mamba.dt_rank or step_rank(self.hidden_size)

    @property
    def channel_mix_size(self) -> int:
        """Inner width of RWKV's channel mix; by default 3.5 (down to 32s) or 4 hidden sizes."""
        if self.rwkv6 is not None:
            return self.rwkv6.ffn_size or 7 * self.hidden_size // 2 // 32 * 32
        assert self.rwkv7 is not None
        return self.rwkv7.ffn_size or 4 * self.hidden_size

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
        if self.residual != "sequential" and (self.ffn is None or self.ffn.layers != "all"):
            raise ValueError(
                f"residual '{self.residual}' needs a feed-forward block in every layer; add ffn, "
                "or set residual: sequential"
            )
        if not self.norm_bias and self.norm == "rmsnorm":
            raise ValueError("norm_bias is of layernorm; remove it, rmsnorm has none")
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
        if not every and (self.attention_offset is not None or self.attention_shared):
            key = "attention_shared" if self.attention_shared else "attention_offset"
            raise ValueError(f"{key} is for hybrids: set attention_every, or remove it")
        if every and self.attention_offset is not None and self.attention_offset >= every:
            raise ValueError(
                f"attention_offset = {self.attention_offset} must be below attention_every = "
                f"{every}; nearest valid: {every - 1}"
            )
        if every and self.mixer == "attention":
            raise ValueError(
                "attention_every is for hybrids: with mixer 'attention' every layer is; remove it"
            )
        if every and self.num_layers < 2:
            raise ValueError("attention_every needs num_layers of at least 2")
        if every and self._first_attention(every) >= self.num_layers:
            key, near = f"attention_every = {every} exceeds", self.num_layers
            if self.attention_offset is not None:
                key, near = f"attention_offset = {self.attention_offset} is past", near - 1
            raise ValueError(
                f"{key} num_layers = {self.num_layers}, so no layer would be attention; nearest "
                f"valid: {near}"
            )
        self._check_shared()

    def _check_shared(self) -> None:
        """Layers of one block's weights are alike; which have experts is counted by layer."""
        if not self.attention_shared or self.ffn is None:
            return
        layers = enumerate(self.layers())
        experts = {i: kind.experts for i, kind in layers if kind.mixer == "attention"}
        first = next(iter(experts))
        differs = [i for i, has in experts.items() if has != experts[first]]
        if differs:
            raise ValueError(
                f"attention_shared makes layers {first} and {differs[0]} one block, but only "
                f"one of them has experts (ffn.experts_every = {self.ffn.experts_every}); nearest "
                f"valid experts_every: 1 or {self.attention_every}"
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
