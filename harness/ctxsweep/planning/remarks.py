"""What a table of bounds does not say by itself: a sentence each, only where it applies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import Device, stand_in


def remarks(
    config: ModelConfig, deployment: Deployment, device: Device, contexts: Sequence[int]
) -> tuple[str, ...]:
    """Of the model's positions, of its heads on several devices, of the types on this device."""
    return (
        *_positions(config, max(contexts)),
        *_split(config, deployment, device),
        *_types(deployment, device),
        *_blocks(config, deployment),
    )


def trained_reach(config: ModelConfig) -> int | None:
    """The longest context of the training, or to which those who trained it stretched the model.

    YaRN and LongRoPE come with the model that they were found for; a linear factor or dynamic NTK
    anybody may set, and they count for nothing here. None: not known.
    """
    trained, rope = config.trained_context, config.attention and config.attention.rope
    if rope and rope.rope_type == "llama3":  # its factor is no ratio of lengths: 8 took 8K to 128K
        original = rope.original_max_position_embeddings or trained
        return trained if trained and original and trained > original else None
    if rope and rope.rope_type in ("yarn", "longrope"):
        return stretched_reach(config) or trained
    return trained


def stretched_reach(config: ModelConfig) -> int | None:
    """To which context scaled positions stretch the model beyond its training, whoever set them;
    None: they do not, or nothing tells."""
    trained, rope = config.trained_context, config.attention and config.attention.rope
    if not rope or rope.rope_type == "llama3" or not isinstance(rope.factor, float | int):
        return None
    original = rope.original_max_position_embeddings or trained
    if original is None or original * rope.factor <= (trained or 0):
        return None
    return round(original * rope.factor)


def reach_words(config: ModelConfig, text: Callable[[int], str]) -> str:
    """``trained to 32K, stretched to 128K``; empty if neither is known."""
    trained, stretched = config.trained_context, stretched_reach(config)
    said = [
        f"{word} to {text(n)}" for word, n in (("trained", trained), ("stretched", stretched)) if n
    ]
    return ", ".join(said)


def _positions(config: ModelConfig, longest: int) -> Iterator[str]:
    attention, reach = config.attention, stretched_reach(config) or trained_reach(config)
    if attention is not None and attention.position == "learned":
        if longest > config.max_positions:
            yield f"Its table of positions ends at {_tokens(config.max_positions)} tokens."
        return
    if reach is None or longest <= reach:
        return
    said = reach_words(config, lambda n: f"{_tokens(n)} tokens")
    said = said[:1].upper() + said[1:]
    whole = attention is not None and attention.window is None and config.mixer == "attention"
    if attention is not None and whole and attention.position == "rope":
        more = "more " if stretched_reach(config) else ""
        yield f"{said}: beyond, it needs {more}RoPE scaling."
    else:
        yield f"{said}: beyond, it runs, but what it still understands has to be measured."


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
    if device.node_devices is not None and ways > device.node_devices:
        yield (
            f"{ways} devices are more than the {device.node_devices} of a node: the links between "
            "nodes are slower, which is not counted."
        )
    if device.link_bytes_per_s is None:
        yield "No figure of the links between devices: their all-reduces are left out."
    else:
        yield "Between devices bytes are counted, not latency: small batches take longer."


def _types(deployment: Deployment, device: Device) -> Iterator[str]:
    kind, wide = deployment.weight_dtype, deployment.activation_dtype
    have = device.flops_per_s
    used = wide if wide in have else stand_in(device)
    if kind == "int4":
        yield f"Weights in int4 move fewer bytes, but are multiplied in {used}."
    if kind in ("fp8", "int8") and kind in have:
        yield (
            f"Weights in {kind} are multiplied in {kind}, activations too (W8A8); an engine that "
            f"widens the weights does it at the rate of {used}."
        )
    elif kind in ("fp8", "int8"):
        yield f"{device.name} does not multiply in {kind}: the weights are widened to {used}."
    if have.get(wide, 0.0) < have["float32"] and wide in have:
        yield f"{wide} is multiplied more slowly than float32 here: try --weight-dtype float32."
    if wide not in have:
        yield (
            f"{device.name} does not multiply in {wide}: counted at {used}'s rate; most engines "
            f"want {used} weights there."
        )


def _blocks(config: ModelConfig, deployment: Deployment) -> Iterator[str]:
    if any(kind != "attention" for kind in config.layer_mixers()):
        yield "What the recurrence does is counted at the rate of matrix multiplies."
        if deployment.recurrent_dtype == "float32" and deployment.activation_dtype != "float32":
            yield (
                "States are counted in float32; engines that keep them in 16 bits need less: "
                "--state-dtype auto."
            )
    if config.ffn is not None and config.ffn.experts:
        yield (
            f"Of {config.ffn.experts} experts, decode reads those that the batch's tokens choose, "
            f"{config.ffn.experts_per_token} a token, evenly; all are held."
        )


def _tokens(count: int) -> str:
    return f"{count / 1024:.3g}K" if count >= 1024 else str(count)
