"""A model's twin: the same structure, small enough to be swept on a CPU. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
"""Of attention layers in a hybrid, or of layers with experts."""

Section = TypeVar("Section", bound=Frozen)
Rwkv = TypeVar("Rwkv", Rwkv6, Rwkv7)


class NoTwin(ValueError):
    """A model whose kinds of layers do not fit into as few as a twin has."""


def tiny(config: ModelConfig) -> ModelConfig:
    """The same structure with a hidden size of 256 and as few layers as hold all their kinds.

    Those are two, or of a hybrid whole periods. A kind is a mixer with the block after it.

    Kept as they are: mixers and their order, norms and biases, positions, base and scaling, window
    and sinks, experts and how many are chosen, parallel residuals, tied or shared weights, states.
    In proportion: inner widths, rotary dimensions, ranks, LongRoPE's factors. Shortened: groups of
    more than 4 query heads for one key/value head, periods of more than 8 layers. A hybrid that
    shares its attention gets two periods of at most 4, so that there is something to share.

    Raises:
        NoTwin: there are kinds of layers that no short periods hold.
    """
    layers = _layers(config)
    ffn = layers.get("ffn", config.ffn)
    fields: dict[str, Any] = {
        **{key: getattr(config, key) for key in sorted(config.model_fields_set - {"published"})},
        **layers,
        "name": f"{config.name} tiny",
        "source": f"{config.name} scaled down",
        "vocab_size": min(config.vocab_size, VOCABULARY),
        "hidden_size": HIDDEN,
        "attention": config.attention and _attention(config.attention),
        "ffn": ffn and _ffn(ffn, config.hidden_size),
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
    """How many layers, which of them attend, and the block whose experts some have."""
    kinds, uses = set(config.layers()), _uses(config)
    for fields in _short_periods(config):
        short = config.model_copy(update=fields)
        if set(short.layers()) == kinds and _uses(short) >= min(uses, 2):
            return fields
    raise NoTwin(
        f"model '{config.name}' has no twin: its {len(kinds)} kinds of layers do not fit into "
        f"periods of {LONGEST_PERIOD}"
    )


def _uses(config: ModelConfig) -> int:
    """Of one shared block; 0 if there is none."""
    return config.layer_mixers().count("attention") if config.attention_shared else 0


def _short_periods(config: ModelConfig) -> Iterator[dict[str, Any]]:
    """Periods and numbers of layers to choose from, nearest to the model's first."""
    every, ffn = config.attention_every, config.ffn
    places: list[dict[str, Any]] = [{}]
    if every is not None:
        longest = LONGEST_PERIOD // 2 if config.attention_shared else LONGEST_PERIOD
        places = [
            {"attention_every": place, **offset}
            for place in range(min(every, longest), 1, -1)
            for offset in _offsets(config.attention_offset, every, place)
        ]
    steps = range(min(ffn.experts_every, LONGEST_PERIOD), 0, -1) if ffn and ffn.experts else [1]
    for fields in places:
        for step in steps:
            experts: dict[str, Any] = {}
            if ffn is not None and ffn.experts:
                experts["ffn"] = ffn.model_copy(update={"experts_every": step})
            for layers in _depths(fields.get("attention_every", 1), step):
                yield {**fields, **experts, "num_layers": layers}


def _offsets(offset: int | None, every: int, place: int) -> Iterator[dict[str, int]]:
    """The first attention layer of a shorter period: in proportion, then anywhere else."""
    if offset is None:
        yield {}
        return
    near = offset * place // every
    yield from ({"attention_offset": i} for i in sorted(range(place), key=lambda i: abs(i - near)))


def _depths(place: int, step: int) -> Iterator[int]:
    """Numbers of layers: whole periods up to where both begin anew together, then any."""
    together = max(2, 2 * place if place > 1 else 1, math.lcm(place, step))
    yield from range(max(2, place), together + 1, place)
    yield from range(1, together)


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
        most = HEAD_DIM if a.rotary_dim == a.head_dim else HEAD_DIM - 2
        turned = min(most, max(4, _nearest(HEAD_DIM * a.rotary_dim / a.head_dim, 2)))
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
    return _with(ffn, {"size": max(32, _nearest(ffn.size * HIDDEN / hidden, 32))})


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
