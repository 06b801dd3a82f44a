"""What a table of bounds does not say by itself: a sentence each, only where it applies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import Device


def remarks(
    config: ModelConfig, deployment: Deployment, device: Device, contexts: Sequence[int]
) -> tuple[str, ...]:
    """Of the model's positions, of its heads on several devices, of the types on this device."""
    return (
        *_positions(config, max(contexts)),
        *_split(config, deployment, device),
        *_types(deployment, device),
        *_blocks(config),
    )


def trained_reach(config: ModelConfig) -> int | None:
    """The longest context that the model was trained or stretched for; None: not known."""
    trained = config.trained_context
    rope = config.attention.rope if config.attention else None
    if rope is None or not isinstance(rope.factor, float | int):
        return trained
    original = rope.original_max_position_embeddings or trained
    if rope.rope_type == "llama3":  # its factor is no ratio of lengths: 8 took 8K to 128K
        return trained if trained and original and trained > original else None
    if original is None:
        return None
    return max(trained or 0, round(original * rope.factor))


def _positions(config: ModelConfig, longest: int) -> Iterator[str]:
    attention, reach = config.attention, trained_reach(config)
    if attention is not None and attention.position == "learned":
        if longest > config.max_positions:
            yield f"Its table of positions ends at {_tokens(config.max_positions)} tokens."
        return
    if reach is None or longest <= reach:
        return
    whole = attention is not None and attention.window is None and config.mixer == "attention"
    if attention is not None and whole and attention.position == "rope":
        yield f"Trained to {_tokens(reach)} tokens: beyond, it needs RoPE scaling."
    else:
        yield (
            f"Trained to {_tokens(reach)} tokens: beyond, it runs, but what it still understands "
            "has to be measured."
        )


def _split(config: ModelConfig, deployment: Deployment, device: Device) -> Iterator[str]:
    ways = deployment.tensor_parallel
    if ways == 1:
        return
    held = config.attention.kv_heads if config.attention else ways
    if held == 1:
        yield f"It has 1 key-value head: each of the {ways} devices holds the whole cache."
    elif held < ways:
        yield (
            f"It has {held} key-value heads: of {ways} devices {ways // held} each hold the same "
            "part of the cache."
        )
    if device.link_bytes_per_s is None:
        yield "No figure of the links between devices: their all-reduces are left out."
    else:
        yield "Between devices bytes are counted, not latency: small batches take longer."


def _types(deployment: Deployment, device: Device) -> Iterator[str]:
    kind, wide = deployment.weight_dtype, deployment.activation_dtype
    have = device.flops_per_s
    if kind in ("int8", "int4"):
        yield f"Weights in {kind} move fewer bytes, but are multiplied in {wide}."
    if kind == "fp8" and "fp8" not in have:
        yield f"{device.name} does not multiply in fp8: the weights are widened to {wide}."
    if have.get(wide, 0.0) < have["float32"] and wide in have:
        yield f"{wide} is multiplied more slowly than float32 here: try --weight-dtype float32."
    if wide not in have:
        yield (
            f"{device.name} does not multiply in {wide}: counted at float16's rate; most engines "
            "want float16 weights there."
        )


def _blocks(config: ModelConfig) -> Iterator[str]:
    if any(kind != "attention" for kind in config.layer_mixers()):
        yield "What the recurrence does is counted at the rate of matrix multiplies."
    if config.ffn is not None and config.ffn.experts:
        yield (
            f"Of {config.ffn.experts} experts, decode reads those that the batch's tokens choose, "
            f"{config.ffn.experts_per_token} a token; all are held."
        )


def _tokens(count: int) -> str:
    return f"{count / 1024:.3g}K" if count >= 1024 else str(count)
