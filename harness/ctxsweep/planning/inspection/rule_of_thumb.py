"""The rule of thumb for a transformer's size, and what makes a given model differ from it.

12·L·d²: in every layer 4·d² for attention and 8·d² for a feed-forward block of 4·d without a gate
(arXiv 2001.08361, section 2.1); embeddings, biases and norms are left out.
"""

from __future__ import annotations

from collections import Counter

from ctxsweep.models import accounting_recurrent as recurrent
from ctxsweep.models.accounting_parameters import (
    attention_matrix,
    attention_of,
    expert_matrix,
    ffn_of,
    has_learned_positions,
    layers_with_weights,
    parameters,
)
from ctxsweep.models.config import RWKV, ModelConfig
from ctxsweep.planning.inspection.inspected import Part, RuleOfThumb
from ctxsweep.planning.inspection.shape_words import MIXER_NAMES

Steps = dict[str, int]


def rule_of_thumb(config: ModelConfig) -> RuleOfThumb:
    """12·L·d², and the steps from there to the exact count, those of nothing left out."""
    exact = parameters(config)
    estimate = 12 * config.num_layers * config.hidden_size**2
    steps = _shared(config) | _mixers(config) | _blocks(config) | _outside(config, exact)
    total = sum(exact.values())
    # Whatever has no matrix: what is left when all the rest was told.
    steps["biases, scales and other vectors"] = total - estimate - sum(steps.values())
    parts = [Part(name=name, parameters=count) for name, count in steps.items() if count]
    parts.sort(key=lambda part: -abs(part.parameters))
    return RuleOfThumb(estimate=estimate, exact=total, steps=tuple(parts))


def _shared(config: ModelConfig) -> Steps:
    without = config.num_layers - len(layers_with_weights(config))
    name = f"another layer's weights shared{_of(without, config)}"
    return {name: -12 * without * config.hidden_size**2}


def _mixers(config: ModelConfig) -> Steps:
    """From 4·d² in every layer with weights of its own to what mixes the tokens there."""
    square, steps = config.hidden_size**2, Steps()
    mixers = config.layer_mixers()
    own = Counter(mixers[i] for i in layers_with_weights(config))
    for kind, count in own.items():
        if kind != "attention":
            held = sum(
                recurrent.mixer_parameters(config, kind, i)
                for i, mixer in enumerate(mixers)
                if mixer == kind
            )
            name = f"{MIXER_NAMES[kind]}, not attention{_of(count, config)}"
            steps[name] = held - 4 * count * square
    if attending := own["attention"]:
        a = attention_of(config)
        width = a.heads * a.head_dim
        full = 4 * config.hidden_size * width
        name = f"{a.heads} heads of {a.head_dim} are {width} wide, not {config.hidden_size}"
        steps[name] = attending * (full - 4 * square)
        heads = f"{a.kv_heads} key/value head{'s' if a.kv_heads > 1 else ''} for {a.heads}"
        steps[heads] = attending * (attention_matrix(config) - full)
    return steps


def _blocks(config: ModelConfig) -> Steps:
    """From 8·d² in every layer with weights of its own to the block that is there."""
    square, mixers = config.hidden_size**2, config.layer_mixers()
    own = layers_with_weights(config)
    mixed = sum(mixers[i] in RWKV for i in own)
    blocks = [i for i in own if mixers[i] not in RWKV and config.has_ffn(i)]
    bare = len(own) - mixed - len(blocks)
    steps = {f"no feed-forward block{_of(bare, config)}": -8 * bare * square}
    if mixed:
        held = mixed * recurrent.ffn_parameters(config)
        steps["RWKV's channel mix, not 8·d²"] = held - 8 * mixed * square
    if blocks:
        ffn, hidden = ffn_of(config), config.hidden_size
        plain = 2 * hidden * ffn.size
        wide = f"feed-forward width {ffn.size} = {ffn.size / hidden:.3g}·d, not 4·d"
        steps[wide] = len(blocks) * (plain - 8 * square)
        steps["a gate: three matrices in a block, not two"] = len(blocks) * (
            expert_matrix(config) - plain
        )
        choosing = sum(ffn.has_experts(i) for i in blocks)
        more = (ffn.experts - 1) * expert_matrix(config) + ffn.experts * hidden
        name = f"{ffn.experts} experts, not one block, and a router"
        steps[name if ffn.experts else ""] = choosing * more
    return steps


def _outside(config: ModelConfig, exact: dict[str, int]) -> Steps:
    """What stands around the layers."""
    hidden, words = config.hidden_size, f"vocabulary of {config.vocab_size:,}"
    rows = config.max_positions if has_learned_positions(config) else 0
    head = exact["head"] - (config.vocab_size if config.head_bias else 0)
    return {
        f"embedding: {words}" + (", also the head" if not head else ""): config.vocab_size * hidden,
        f"table of {rows:,} positions": rows * hidden,
        "head of its own": head,
        "norms": exact["norm"],
    }


def _of(count: int, config: ModelConfig) -> str:
    """How many of the layers, if not all."""
    return "" if count == config.num_layers else f", {count} of {config.num_layers} layers"
