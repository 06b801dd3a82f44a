"""What an encoder or an encoder-decoder is made of: its footprint, for it cannot be swept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ctxsweep.models import encoder
from ctxsweep.models.accounting import ELEMENT_BYTES
from ctxsweep.models.encoder import EncoderConfig
from ctxsweep.planning.inspection.decoder import published_count
from ctxsweep.planning.inspection.inspected import EncoderInspection, InputRow, Part, RuleOfThumb
from ctxsweep.records import DType

NAMES = {
    "embedding": "embedding",
    "attention": "attention",
    "cross_attention": "cross-attention",
    "ffn": "feed-forward",
    "norm": "norms",
    "pooler": "pooler",
}


def inspect_encoder(
    config: EncoderConfig,
    contexts: Sequence[int],
    batch_size: int = 1,
    dtype: DType = "bfloat16",
) -> EncoderInspection:
    """The footprint over these input lengths; bytes and FLOPs are of the whole batch."""
    counts = encoder.parameters(config)
    longest = config.longest_input()
    fitting = [n for n in contexts if longest is None or n <= longest]
    if not fitting and longest is not None:
        fitting = [longest]
    total, writes = sum(counts.values()), bool(config.decoder_layers)
    wide = ELEMENT_BYTES[dtype]
    one = encoder.memory(config, 1, 1, batch_size, wide) if writes else None
    return EncoderInspection(
        name=config.name,
        source=config.source,
        shape=_shape(config),
        dtype=dtype,
        batch_size=batch_size,
        parts=tuple(Part(name=NAMES[k], parameters=n) for k, n in counts.items() if n),
        parameters=total,
        weights_bytes=total * wide,
        published=published_count(config.published, total),
        rule=_rule(config, counts),
        rows=tuple(_row(config, n, batch_size, wide) for n in fitting),
        longest_input=longest,
        inputs_left_out=tuple(n for n in contexts if n not in fitting),
        token_bytes=one.self_cache_bytes if one else 0,
        token_flops=_written(config, batch_size) if writes else 0.0,
        remarks=tuple(filter(None, [config.remark(max(fitting))])),
    )


def _row(config: EncoderConfig, length: int, batch_size: int, wide: int) -> InputRow:
    written = 1 if config.decoder_layers else 0
    memory = encoder.memory(config, length, written, batch_size, wide)
    return InputRow(
        input_tokens=length,
        activations_bytes=memory.activations_bytes,
        cross_cache_bytes=memory.cross_cache_bytes,
        encode_flops=encoder.flops(config, length, 0, batch_size).encode,
    )


def _written(config: EncoderConfig, batch_size: int) -> float:
    """FLOPs of one more written token: the second, so that the input's keys are there."""
    two = encoder.flops(config, 1, 2, batch_size).decode
    return two - encoder.flops(config, 1, 1, batch_size).decode


def _shape(config: EncoderConfig) -> str:
    layers = f"{config.encoder_layers} layers"
    if config.decoder_layers:
        layers = f"{config.encoder_layers} + {config.decoder_layers} layers"
    positions = f"learned positions ({config.max_positions:,})"
    if config.relative_buckets:
        positions = "relative positions"
    heads = f"{config.heads} heads of {config.head_dim}"
    return f"{config.kind}, {layers} of {config.hidden_size}, {heads}, FFN {config.ffn_size}, " + (
        positions
    )


def _rule(config: EncoderConfig, counts: dict[str, int]) -> RuleOfThumb:
    """12·L·d² over both stacks, and the steps from there."""
    layers, hidden = config.encoder_layers + config.decoder_layers, config.hidden_size
    estimate, total = 12 * layers * hidden**2, sum(counts.values())
    steps = dict(_steps(config, counts, layers))
    steps["biases and other vectors"] = total - estimate - sum(steps.values())
    parts = [Part(name=name, parameters=count) for name, count in steps.items() if count]
    parts.sort(key=lambda part: -abs(part.parameters))
    return RuleOfThumb(estimate=estimate, exact=total, steps=tuple(parts))


def _steps(config: EncoderConfig, counts: dict[str, int], layers: int) -> Iterator[tuple[str, int]]:
    hidden, wide = config.hidden_size, config.attention_width
    yield (
        f"{config.heads} heads of {config.head_dim} are {wide} wide",
        (layers * 4 * hidden * (wide - hidden)),
    )
    ratio = f"{config.ffn_size / hidden:.3g}"
    yield (
        f"feed-forward width {config.ffn_size} = {ratio}·d, not 4·d",
        (layers * (2 * hidden * config.ffn_size - 8 * hidden**2)),
    )
    yield "embedding, positions and segments; the head is the embedding", counts["embedding"]
    yield "cross-attention in the decoder", counts["cross_attention"]
    yield "norms", counts["norm"]
    yield "pooler", counts["pooler"]
