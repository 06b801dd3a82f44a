"""What ``ctxsweep inspect`` finds out about a model: types alone, without models, for reports."""

from __future__ import annotations

from typing import Literal

from ctxsweep.frozen import Frozen
from ctxsweep.records import DType, KVDType


class Part(Frozen):
    """A part of the model, or a step from a rule to the exact count, in parameters."""

    name: str
    parameters: int


class PublishedCount(Frozen):
    """What the authors say, to ``rounded_to``; ``equal`` to the digits that they give.

    ``head_apart``: theirs is exactly one head more, which shares the embedding's weights here.
    """

    parameters: int
    rounded_to: int
    equal: bool
    head_apart: bool = False
    source: str


class RuleOfThumb(Frozen):
    """12·L·d² beside the exact count; ``steps`` add up from the one to the other, largest first."""

    estimate: int
    exact: int
    steps: tuple[Part, ...]

    @property
    def error(self) -> float:
        """Of the rule, as a share of the exact count; negative: too low."""
        return self.estimate / self.exact - 1


class CacheRow(Frozen):
    """Keys, values and states in one type, for the whole batch.

    ``bytes_per_token``: what one more token adds before a window is full; ``fixed_bytes``: states,
    the same at every length; ``most_bytes``: where a window or a state ends the growth; None: none.
    """

    kv_dtype: KVDType
    bytes_per_token: float
    fixed_bytes: int
    most_bytes: int | None
    at_bytes: tuple[int, ...]


class AtLength(Frozen):
    """What a context asks for, over the whole batch: a prefill in one call, then a decode step."""

    context_tokens: int
    cache_bytes: int
    prefill_flops: float
    attention_share: float
    decode_flops: float
    decode_bytes: float

    @property
    def decode_intensity(self) -> float:
        """FLOPs for every byte that a decode step must move."""
        return self.decode_flops / self.decode_bytes


class Token(Frozen):
    """FLOPs of one token: products with weights, and what each token of its context adds.

    ``training_rule_flops`` is 6·N over the parameters that a token goes through;
    ``training_flops`` three times the forward pass at ``training_context`` tokens, the head on each
    of them.
    """

    forward_flops: float
    flops_per_context_token: float
    training_rule_flops: float
    training_flops: float
    training_context: int


class Growth(Frozen):
    """A figure at the base, and by which factors it grows."""

    what: Literal["cache or state", "bytes of a decode step", "FLOPs of a decode step", "prefill"]
    base: float
    unit: Literal["bytes", "FLOPs"]
    factors: dict[str, float]


class Scaled(Frozen):
    """A larger model of the same make; ``None`` where no such size was found."""

    factor: float
    shape: str
    parameters: int
    cache_bytes: int
    decode_bytes: float
    prefill_flops: float


class Inspection(Frozen):
    """All of it. Bytes and FLOPs are of the whole batch."""

    name: str
    source: str
    shape: str
    dtype: DType
    kv_dtype: KVDType
    batch_size: int
    parts: tuple[Part, ...]
    parameters: int
    active_parameters: int
    weights_bytes: int
    published: PublishedCount | None
    rule: RuleOfThumb
    token: Token
    window: int | None
    contexts: tuple[int, ...]
    cache: tuple[CacheRow, ...]
    lengths: tuple[AtLength, ...]
    base_context: int
    growth: tuple[Growth, ...]
    sizes: tuple[Scaled, ...]
    remarks: tuple[str, ...]


class InputRow(Frozen):
    """What an encoder asks for, for inputs of a length; ``cross_cache_bytes`` is a decoder's."""

    input_tokens: int
    activations_bytes: int
    cross_cache_bytes: int
    encode_flops: float


class EncoderInspection(Frozen):
    """What is known of an encoder or an encoder-decoder, which is not built here.

    ``inputs_left_out``: lengths beyond the table of positions. ``token_bytes`` and
    ``token_flops``: of one written token, its products with the input's keys left out.
    """

    name: str
    source: str
    shape: str
    dtype: DType
    batch_size: int
    parts: tuple[Part, ...]
    parameters: int
    weights_bytes: int
    published: PublishedCount | None
    rule: RuleOfThumb
    rows: tuple[InputRow, ...]
    longest_input: int | None
    inputs_left_out: tuple[int, ...]
    token_bytes: int
    token_flops: float
    remarks: tuple[str, ...] = ()
