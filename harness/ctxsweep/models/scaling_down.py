"""A model's twin: the same structure, small enough to be swept on a CPU. Never imports torch."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from ctxsweep.frozen import Frozen
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.sections import Attention, FeedForward, Mamba, Retention, Rwkv6, Rwkv7
from ctxsweep.records import RopeScaling

HIDDEN, HEAD_DIM, VOCABULARY = 256, 32, 4096
HEADS = 4
"""Query heads of MHA and MQA, and the most of one key/value head in GQA, which has two of them."""
LEARNED_POSITIONS = 136 * 1024
"""128K tokens of context and room to write."""
LONGEST_PERIOD = 8

Section = TypeVar("Section", bound=Frozen)
Rwkv = TypeVar("Rwkv", Rwkv6, Rwkv7)


def tiny(config: ModelConfig) -> ModelConfig:
    """The same structure with a hidden size of 256 and two layers, or one period of a hybrid.

    Kept as they are: mixers and their order, norms and biases, positions, base and scaling, window
    and sinks, experts and how many are chosen, parallel residuals, tied or shared weights, states.
    In proportion: inner widths, rotary dimensions, ranks, LongRoPE's factors. Shortened: groups of
    more than 4 query heads for one key/value head, periods of more than 8 layers. A hybrid that
    shares its attention gets two periods of at most 4, so that there is something to share.
    """
    fields: dict[str, Any] = {
        **{key: getattr(config, key) for key in sorted(config.model_fields_set - {"published"})},
        **_layers(config),
        "name": f"{config.name} tiny",
        "source": f"{config.name} scaled down",
        "vocab_size": min(config.vocab_size, VOCABULARY),
        "hidden_size": HIDDEN,
        "attention": config.attention and _attention(config.attention),
        "ffn": config.ffn and _ffn(config.ffn, config.hidden_size),
        "mamba": config.mamba and _mamba(config.mamba),
        "rwkv6": config.rwkv6 and _rwkv(config.rwkv6, config.hidden_size),
        "rwkv7": config.rwkv7 and _rwkv(config.rwkv7, config.hidden_size),
        "retention": config.retention and _retention(config.retention),
    }
    if config.attention is not None and config.attention.position == "learned":
        fields["max_positions"] = LEARNED_POSITIONS
    if config.embedding_scale is not None:
        fields["embedding_scale"] = _embedding_scale(config)
    return ModelConfig(**{key: value for key, value in fields.items() if value is not None})


def _layers(config: ModelConfig) -> dict[str, Any]:
    """How many layers, and which of them attend."""
    every = config.attention_every
    if every is None:
        return {"num_layers": max(2, _experts_every(config.ffn))}
    shared = config.attention_shared
    period = min(every, LONGEST_PERIOD // 2 if shared else LONGEST_PERIOD)
    fields: dict[str, Any] = {
        "num_layers": period * (2 if shared else 1),
        "attention_every": period,
    }
    if config.attention_offset is not None:
        fields["attention_offset"] = config.attention_offset * period // every
    return fields


def _experts_every(ffn: FeedForward | None) -> int:
    return min(ffn.experts_every, LONGEST_PERIOD) if ffn is not None else 1


def _attention(a: Attention) -> Attention:
    """MHA stays MHA, MQA stays MQA; GQA keeps its group up to 4, with two key/value heads."""
    group = min(a.heads // a.kv_heads, HEADS)
    heads, kv_heads = HEADS, HEADS
    if a.kv_heads < a.heads:
        kv_heads = 1 if a.kv_heads == 1 else 2
        heads = HEADS if kv_heads == 1 else kv_heads * group
    update: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads, "head_dim": HEAD_DIM}
    turned = HEAD_DIM
    if a.rotary_dim is not None:
        turned = max(4, _nearest(HEAD_DIM * a.rotary_dim / a.head_dim, 2))
        update["rotary_dim"] = turned
    if a.rope is not None:
        update["rope"] = _rope(a.rope, turned // 2)
    return _with(a, update)


def _rope(scaling: RopeScaling, pairs: int) -> RopeScaling:
    """LongRoPE's divisors of the pairs that turn as fast as the twin's."""
    update = {}
    for word in ("short_factor", "long_factor"):
        factors = getattr(scaling, word)
        if factors is not None:
            update[word] = tuple(factors[i * len(factors) // pairs] for i in range(pairs))
    return _with(scaling, update)


def _ffn(ffn: FeedForward, hidden: int) -> FeedForward:
    update = {"size": max(32, _nearest(ffn.size * HIDDEN / hidden, 32))}
    return _with(ffn, update | ({"experts_every": _experts_every(ffn)} if ffn.experts else {}))


def _mamba(mamba: Mamba) -> Mamba:
    """Ranks by their default; as many groups as the twin's fewer heads can have."""
    inner = HIDDEN * mamba.expand
    head = math.gcd(inner, mamba.head_dim)
    groups = math.gcd(inner // head, mamba.groups)
    return _with(mamba, {"head_dim": head, "groups": groups, "dt_rank": None})


def _rwkv(rwkv: Rwkv, hidden: int) -> Rwkv:
    update: dict[str, Any] = {"head_dim": math.gcd(HIDDEN, rwkv.head_dim)}
    for key in type(rwkv).model_fields:
        if key.endswith("_rank"):
            update[key] = max(8, _nearest(getattr(rwkv, key) * HIDDEN / hidden, 8))
    if rwkv.ffn_size is not None:
        update["ffn_size"] = max(32, _nearest(rwkv.ffn_size * HIDDEN / hidden, 32))
    return _with(rwkv, update)


def _retention(retention: Retention) -> Retention:
    return _with(retention, {"heads": HEADS})


def _embedding_scale(config: ModelConfig) -> float:
    """The root of the hidden size where it is that, else what it is."""
    assert config.embedding_scale is not None
    rooted = math.isclose(config.embedding_scale, math.sqrt(config.hidden_size), rel_tol=1e-3)
    return math.sqrt(HIDDEN) if rooted else config.embedding_scale


def _nearest(wanted: float, step: int) -> int:
    """The multiple of ``step`` nearest to it, halves upwards."""
    return math.floor(wanted / step + 0.5) * step


def _with(section: Section, update: dict[str, Any]) -> Section:
    """A section with some of its fields anew, checked; what was left unsaid stays so."""
    said = {key: getattr(section, key) for key in sorted(section.model_fields_set)}
    fields = {key: value for key, value in (said | update).items() if value is not None}
    return type(section)(**fields)
