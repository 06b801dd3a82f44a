"""Encoders and encoder-decoders: what they are and what they demand, by arithmetic alone.

They are not built here: an encoder has no decode over a growing context, which is what a sweep
measures. Never imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from ctxsweep.frozen import Frozen
from ctxsweep.models.config import Published
from ctxsweep.models.sections import Size


class EncoderConfig(Frozen):
    """A stack that reads a whole input at once (BERT), and one that writes from it (T5).

    Attention is over ``heads × head_dim``, in every layer the same. ``relative_buckets``: one
    table of them by heads for the encoder and one for the decoder (T5, arXiv 1910.10683).
    """

    name: str
    source: str
    published: Published | None = None
    vocab_size: Size
    hidden_size: Size
    encoder_layers: Size
    decoder_layers: int = Field(0, ge=0, le=1024, description="0: an encoder alone.")
    heads: Size
    head_dim: Size
    ffn_size: Size
    norm: Literal["rmsnorm", "layernorm"] = "layernorm"
    bias: bool = Field(True, description="Of every projection.")
    max_positions: int = Field(0, ge=0, le=1 << 24, description="Rows of learned positions.")
    relative_buckets: int = Field(0, ge=0, le=1 << 16)
    trained_input: int | None = Field(
        None, ge=1, description="Longest input of the training, where its positions go on beyond."
    )
    token_types: int = Field(0, ge=0, le=1 << 16, description="Rows of segment embeddings (BERT).")
    pooler: bool = Field(False, description="A projection of the first token (BERT).")

    @model_validator(mode="after")
    def _positions(self) -> Self:
        if bool(self.max_positions) == bool(self.relative_buckets):
            raise ValueError("one of max_positions and relative_buckets must be set, not both")
        return self

    @property
    def kind(self) -> str:
        """In words."""
        return "encoder-decoder" if self.decoder_layers else "encoder"

    @property
    def attention_width(self) -> int:
        """Width of queries, keys and values."""
        return self.heads * self.head_dim

    def longest_input(self) -> int | None:
        """Tokens that the learned positions reach; None: relative positions have no end."""
        return self.max_positions or None

    def trained_tokens(self) -> int | None:
        """Longest input of the training, where it is known."""
        return self.trained_input or self.longest_input()

    def remark(self, input_tokens: int) -> str | None:
        """What to know of an input of this length; None: nothing."""
        trained = self.trained_tokens()
        if trained is None or input_tokens <= trained:
            return None
        return (
            f"Trained on inputs of up to {trained} tokens: longer ones run, but what it still "
            "makes of them is not known."
        )


@dataclass(frozen=True)
class EncoderMemory:
    """Bytes at an input and an output length.

    ``self_cache``: keys and values of the tokens written so far; ``cross_cache``: those of the
    input, once for every decoder layer; ``activations``: see ``memory``.
    """

    weights_bytes: int
    self_cache_bytes: int
    cross_cache_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of them."""
        caches = self.self_cache_bytes + self.cross_cache_bytes
        return self.weights_bytes + caches + self.activations_bytes


@dataclass(frozen=True)
class EncoderFlops:
    """FLOPs of matrix products: reading the input once, and writing the whole output."""

    encode: float
    decode: float

    @property
    def total(self) -> float:
        """Both."""
        return self.encode + self.decode


def parameters(config: EncoderConfig) -> dict[str, int]:
    """Parameters by part; a part that a model has not is 0. The head is the embedding."""
    hidden, encoder, decoder = config.hidden_size, config.encoder_layers, config.decoder_layers
    attention, ffn = _attention(config), _ffn(config)
    norms = 2 * encoder + 3 * decoder
    # BERT norms the embedding, T5 each stack's output.
    norms += (1 + bool(decoder)) if config.relative_buckets else 1
    rows = config.vocab_size + config.max_positions + config.token_types
    tables = config.relative_buckets * config.heads * (1 + bool(decoder))
    return {
        "embedding": hidden * rows,
        "attention": attention * (encoder + decoder) + tables,
        "cross_attention": attention * decoder,
        "ffn": ffn * (encoder + decoder),
        "norm": norms * hidden * (2 if config.norm == "layernorm" else 1),
        "pooler": hidden * hidden + hidden if config.pooler else 0,
    }


def memory(
    config: EncoderConfig,
    input_tokens: int,
    output_tokens: int = 0,
    batch_size: int = 1,
    element_bytes: int = 2,
) -> EncoderMemory:
    """Bytes for inputs and outputs of these lengths, all values of ``element_bytes``.

    Activations are the residual stream and the widest of what a layer holds beside it at once
    (queries, keys, values and their mix, or the inner width), over the whole input; scores are
    taken to stay on chip. Raises ``ValueError`` for lengths or a batch that cannot be.
    """
    _check(config, input_tokens, output_tokens, batch_size)
    wide = config.attention_width
    token = 2 * wide * config.decoder_layers * element_bytes * batch_size
    busy = config.hidden_size + max(4 * wide, config.ffn_size + config.hidden_size)
    return EncoderMemory(
        weights_bytes=sum(parameters(config).values()) * element_bytes,
        self_cache_bytes=output_tokens * token,
        cross_cache_bytes=input_tokens * token if output_tokens else 0,
        activations_bytes=input_tokens * busy * element_bytes * batch_size,
    )


def flops(
    config: EncoderConfig, input_tokens: int, output_tokens: int = 0, batch_size: int = 1
) -> EncoderFlops:
    """FLOPs of one input read and its output written token by token. Raises ``ValueError``.

    In the encoder every token sees every other. The decoder reads the input's keys and values,
    made once, and the tokens before; its head runs for every token.
    """
    _check(config, input_tokens, output_tokens, batch_size)
    n, m = input_tokens, output_tokens
    hidden, wide = config.hidden_size, config.attention_width
    block = 4 * hidden * wide + 2 * hidden * config.ffn_size
    encode = config.encoder_layers * (2.0 * block * n + 4.0 * wide * n * n)
    encode += 2.0 * hidden * hidden if config.pooler else 0.0
    crossed = 2.0 * 2 * hidden * wide * (m + n if m else 0) + 4.0 * wide * m * n
    written = 2.0 * block * m + 4.0 * wide * m * (m + 1) / 2
    decode = config.decoder_layers * (written + crossed)
    decode += 2.0 * hidden * config.vocab_size * m if config.decoder_layers else 0.0
    return EncoderFlops(encode * batch_size, decode * batch_size)


def _check(config: EncoderConfig, input_tokens: int, output_tokens: int, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"{config.name}: a batch of {batch_size}; valid: 1 or more")
    longest = config.longest_input()
    if input_tokens < 1 or (longest is not None and input_tokens > longest):
        valid = f"1 to {longest}" if longest is not None else "1 or more"
        raise ValueError(f"{config.name}: an input of {input_tokens} tokens; valid: {valid}")
    if output_tokens < 0:
        raise ValueError(f"{config.name}: an output of {output_tokens} tokens; valid: 0 or more")
    if output_tokens and not config.decoder_layers:
        raise ValueError(
            f"{config.name} is an encoder alone and writes nothing; leave the output out"
        )


def _attention(config: EncoderConfig) -> int:
    wide = config.attention_width
    biases = 3 * wide + config.hidden_size if config.bias else 0
    return 4 * config.hidden_size * wide + biases


def _ffn(config: EncoderConfig) -> int:
    biases = config.ffn_size + config.hidden_size if config.bias else 0
    return 2 * config.hidden_size * config.ffn_size + biases
