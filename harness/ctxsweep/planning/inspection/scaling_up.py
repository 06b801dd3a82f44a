"""A larger model of the same make: deeper and wider together, everything else in proportion.

Size grows with depth × width², so both grow by the cube root of the factor. Kept are a head's
width, the ratio of key/value heads, the feed-forward ratio, the period of a hybrid, vocabulary and
experts; widths stay multiples of 128, which matrix units like.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from ctxsweep.models.accounting_parameters import parameters
from ctxsweep.models.config import ModelConfig

GRANULE = 128
MOST_LEAN = 1.6  # how much more one of depth and width may grow than the other


def scaled_up(config: ModelConfig, factor: float) -> ModelConfig | None:
    """The model of this make nearest to ``factor`` times the parameters; None if none is near."""
    wanted = factor * _count(config)
    even = factor ** (1 / 3)
    best: tuple[float, ModelConfig] | None = None
    for hidden in _widths(config, even):
        candidate = _of_width(config, hidden, wanted, factor)
        if candidate is None:
            continue
        lean = math.log((hidden / config.hidden_size) / (candidate.num_layers / config.num_layers))
        if abs(lean) > math.log(MOST_LEAN):
            continue
        miss = abs(math.log(_count(candidate) / wanted)) + 0.1 * abs(lean)
        if best is None or miss < best[0]:
            best = miss, candidate
    return best[1] if best else None


def _widths(config: ModelConfig, even: float) -> Iterator[int]:
    """Hidden sizes to try: those that whole groups of whole heads fill."""
    step = GRANULE
    for unit in _units(config):
        step = math.lcm(step, unit)
    if step > config.hidden_size:  # a small model of odd heads: finer steps
        step = math.lcm(*_units(config), 2)
    low, high = config.hidden_size * even / MOST_LEAN, config.hidden_size * even * MOST_LEAN
    first, last = max(1, math.ceil(low / step)), math.floor(high / step)
    for number in range(first, last + 1, max(1, (last - first) // 48)):
        yield number * step


def _units(config: ModelConfig) -> Iterator[int]:
    """What the hidden size must be made of."""
    yield 2
    if a := config.attention:
        group = a.heads // a.kv_heads if a.kv_heads > 1 else 1
        # The smallest width by which heads × head_dim keeps its ratio to the hidden size.
        head = a.head_dim * group
        yield max(1, round(head * config.hidden_size / (a.heads * a.head_dim)))
    for rwkv in (config.rwkv6, config.rwkv7):
        if rwkv is not None:
            yield rwkv.head_dim
    if config.retention is not None:
        yield config.hidden_size // config.retention.heads
    if config.mamba is not None and "mamba2" in config.layer_mixers():
        head, expand = config.mamba.head_dim, config.mamba.expand
        yield math.lcm(head * config.mamba.groups, expand) // expand


def _of_width(config: ModelConfig, hidden: int, wanted: float, factor: float) -> ModelConfig | None:
    """The model of this width with the layers that come nearest; None if there can be none."""
    period = math.lcm(config.attention_every or 1, config.ffn.experts_every if config.ffn else 1)
    try:
        one, two = (_made(config, hidden, n * period, factor) for n in (1, 2))
        each = _count(two) - _count(one)
        periods = round((wanted - (_count(one) - each)) / each)
        return _made(config, hidden, max(1, periods) * period, factor)
    except ValidationError:
        return None


def _made(config: ModelConfig, hidden: int, layers: int, factor: float) -> ModelConfig:
    """Every width in proportion to the hidden size. Raises ``ValidationError``."""
    ratio = hidden / config.hidden_size
    fields: dict[str, Any] = config.model_dump(exclude_unset=True, exclude={"published"})
    fields |= {
        "name": f"{config.name} ×{factor:g}",
        "source": f"{config.name} scaled",
        "hidden_size": hidden,
        "num_layers": layers,
    }
    if config.embedding_scale and math.isclose(
        config.embedding_scale, config.hidden_size**0.5, rel_tol=1e-3
    ):
        fields["embedding_scale"] = hidden**0.5
    if a := config.attention:
        heads = round(a.heads * ratio)
        shared = 1 if a.kv_heads == 1 else heads * a.kv_heads // a.heads
        fields["attention"] |= {"heads": heads, "kv_heads": shared}
    if config.ffn is not None:
        fields["ffn"]["size"] = _rounded(config.ffn.size * ratio)
    for key, section in (("rwkv6", config.rwkv6), ("rwkv7", config.rwkv7)):
        if section is not None and section.ffn_size is not None:
            fields[key]["ffn_size"] = _rounded(section.ffn_size * ratio)
    if config.retention is not None:
        fields["retention"]["heads"] = round(config.retention.heads * ratio)
    if config.mamba is not None and config.mamba.dt_rank is not None:
        fields["mamba"]["dt_rank"] = max(1, round(config.mamba.dt_rank * ratio))
    return ModelConfig.model_validate(fields)


def _rounded(width: float) -> int:
    step = GRANULE if width >= GRANULE else 8
    return max(step, round(width / step) * step)


def _count(config: ModelConfig) -> int:
    return sum(parameters(config).values())
