"""Rotary positions and the ways of stretching them past the trained context. Never imports torch.

Rotary positions: arXiv 2104.09864. With d rotary dimensions, base θ, factor s, trained length L0
and ``f_i = θ^(−2i/d)``, every rule gives d/2 frequencies and a factor on the rotated queries and
keys, from the words of a ``RopeScaling``; rules are the lines of ``RULES``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxsweep.records import RopeScaling

Array = npt.NDArray[np.float64]
BETA_FAST, BETA_SLOW = 32.0, 1.0
LOW_FREQ, HIGH_FREQ = 1.0, 4.0


class BadRope(ValueError):
    """Rotary positions that cannot be stretched so; ``key`` is the word of ``RopeScaling``."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message


@dataclass(frozen=True)
class Turning:
    """How fast the pairs of dimensions turn.

    ``inv_freq [d/2]``: radians per token. ``attention_factor`` multiplies the rotated dimensions.
    """

    inv_freq: Array
    attention_factor: float = 1.0


@dataclass(frozen=True)
class Plain:
    """Rotary positions as they were trained: ``rotary_dim`` d of ``head_dim``, ``theta`` θ."""

    rotary_dim: int
    theta: float
    head_dim: int | None = None

    @property
    def inv_freq(self) -> Array:
        """``θ^(−2i/d)``, ``[d/2]``."""
        return self.of_base(self.theta)

    def of_base(self, theta: float) -> Array:
        """The frequencies of another base."""
        exponents = np.arange(0, self.rotary_dim, 2, dtype=np.float64) / self.rotary_dim
        frequencies: Array = theta**-exponents
        return frequencies

    def ntk_base(self, factor: float) -> float:
        """The base that slows the slowest pair ``factor`` times and leaves the fastest alone."""
        return float(self.theta * factor ** (self.rotary_dim / (self.rotary_dim - 2)))


def turning(
    scaling: RopeScaling | None, plain: Plain, trained_tokens: int | None, length: int
) -> Turning:
    """Frequencies for a context of ``length`` tokens of a model trained on ``trained_tokens``.

    ``length`` counts only for dynamic NTK and LongRoPE. Raises ``BadRope``.
    """
    if scaling is None:
        return Turning(plain.inv_freq)
    known = resolve(scaling, trained_tokens)
    check_words(known, plain)
    return RULES[known.rope_type].apply(known, plain, length)


def resolve(scaling: RopeScaling, trained_tokens: int | None) -> RopeScaling:
    """The same with its factor as a number, and with the trained length where that is known.

    Raises ``BadRope`` if the trained length or the target is missing for ``factor: auto``.
    """
    trained = scaling.original_max_position_embeddings or trained_tokens
    factor = scaling.factor
    if factor != "auto" and scaling.target_tokens is not None:
        raise BadRope("target_tokens", "is for factor auto; leave it out, or set factor: auto")
    if factor == "auto":
        if trained is None:
            raise BadRope(
                "original_max_position_embeddings",
                "factor auto needs the trained context, which the model does not name; set it, or "
                "set factor to a number",
            )
        if scaling.target_tokens is None:
            raise BadRope("target_tokens", "factor auto needs it: the context to stretch to")
        factor = max(1.0, scaling.target_tokens / trained)
    return scaling.model_copy(
        update={
            "factor": factor,
            "target_tokens": None,
            "original_max_position_embeddings": trained,
        }
    )


def check_words(scaling: RopeScaling, plain: Plain | None = None) -> None:
    """Raise ``BadRope`` for a word that is missing, that the rule does not have or that cannot be.

    ``plain`` brings the checks that depend on the model.
    """
    rule = RULES[scaling.rope_type]
    given = scaling.model_dump(exclude_none=True)
    for word in rule.needed:
        if word not in given:
            raise BadRope(word, f"{scaling.rope_type} needs it")
    for word in given:
        if word not in (*COMMON, *rule.needed, *rule.optional):
            raise BadRope(word, f"{scaling.rope_type} has no such setting; leave it out")
    low, high = scaling.low_freq_factor or LOW_FREQ, scaling.high_freq_factor or HIGH_FREQ
    if low >= high:
        raise BadRope("low_freq_factor", f"{low:g} must be below high_freq_factor = {high:g}")
    fast, slow = scaling.beta_fast or BETA_FAST, scaling.beta_slow or BETA_SLOW
    if fast <= slow:
        raise BadRope("beta_fast", f"{fast:g} turns must be more than beta_slow = {slow:g}")
    if plain is None:
        return
    if scaling.rope_type in ("ntk", "dynamic") and plain.rotary_dim < 4:
        raise BadRope(
            "rope_type", f"{scaling.rope_type} needs 4 rotary dimensions, not {plain.rotary_dim}"
        )
    if scaling.rope_type in ("yarn", "ntk_by_parts") and plain.theta <= 1:
        raise BadRope("rope_type", f"{scaling.rope_type} needs a base above 1, not {plain.theta:g}")
    for word in ("short_factor", "long_factor"):
        factors = getattr(scaling, word)
        if factors is not None and len(factors) != plain.rotary_dim // 2:
            raise BadRope(
                word,
                f"has {len(factors)} numbers; the model turns {plain.rotary_dim // 2} pairs of "
                "dimensions, and needs one for each",
            )


def depends_on_length(scaling: RopeScaling | None) -> bool:
    """Whether keys are turned otherwise in a longer context, so that cached ones would not fit."""
    if scaling is None or not RULES[scaling.rope_type].by_length:
        return False
    # Llama 3.1 as GGUF holds the same divisors for both.
    return scaling.short_factor is None or scaling.short_factor != scaling.long_factor


def _linear(scaling: RopeScaling, plain: Plain, length: int) -> Turning:
    """Position interpolation (arXiv 2306.15595): ``f/s``."""
    return Turning(plain.inv_freq / _factor(scaling))


def _ntk(scaling: RopeScaling, plain: Plain, length: int) -> Turning:
    """NTK-aware (arXiv 2309.00071, definition 1): the base becomes ``θ·s^(d/(d−2))``."""
    return Turning(plain.of_base(plain.ntk_base(_factor(scaling))))


def _dynamic(scaling: RopeScaling, plain: Plain, length: int) -> Turning:
    """Dynamic NTK (as above, section 3.3): ``s`` becomes ``max(1, s·L/L0 − (s−1))``."""
    s = _factor(scaling)
    stretched = max(1.0, s * length / _trained(scaling) - (s - 1))
    return Turning(plain.of_base(plain.ntk_base(stretched)))


def _by_parts(scaling: RopeScaling, plain: Plain, length: int) -> Turning:
    """NTK-by-parts (as above, section 3.2): slow pairs interpolate, fast ones do not."""
    inv_freq = plain.inv_freq
    ramp = yarn_ramp(scaling, plain)
    return Turning(inv_freq / _factor(scaling) * ramp + inv_freq * (1 - ramp))


def _yarn(scaling: RopeScaling, plain: Plain, length: int) -> Turning:
    """YaRN (as above, section 3.4): by parts, and attention sharpened by ``0.1·ln s + 1``."""
    return Turning(_by_parts(scaling, plain, length).inv_freq, _yarn_attention(scaling))


def yarn_ramp(scaling: RopeScaling, plain: Plain) -> Array:
    """How much each pair interpolates, ``[d/2]``: 0 if it turns ``beta_fast`` times or more over
    the trained length, 1 if ``beta_slow`` times or fewer, linear in the pair's number between.

    As in the paper's code the bounds are whole numbers, unless ``truncate`` is false.
    """
    trained = _trained(scaling)

    def pair_of(turns: float) -> float:
        wave = math.log(trained / (turns * 2 * math.pi))
        return plain.rotary_dim * wave / (2 * math.log(plain.theta))

    low = pair_of(scaling.beta_fast or BETA_FAST)
    high = pair_of(scaling.beta_slow or BETA_SLOW)
    if scaling.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, plain.rotary_dim - 1)
    if low == high:
        high += 0.001
    pairs = np.arange(plain.rotary_dim // 2, dtype=np.float64)
    return np.clip((pairs - low) / (high - low), 0.0, 1.0)


def _yarn_attention(scaling: RopeScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def scale(weight: float) -> float:
        return 1.0 + 0.1 * weight * math.log(_factor(scaling))

    if scaling.mscale and scaling.mscale_all_dim:
        return scale(scaling.mscale) / scale(scaling.mscale_all_dim)
    return scale(1.0)


def _longrope(scaling: RopeScaling, plain: Plain, length: int) -> Turning:
    """LongRoPE (arXiv 2402.13753): given divisors, others past the trained length."""
    trained = _trained(scaling)
    divisors = scaling.long_factor if length > trained else scaling.short_factor
    return Turning(plain.inv_freq / np.asarray(divisors), longrope_attention(scaling))


def longrope_attention(scaling: RopeScaling) -> float:
    """``sqrt(1 + ln s / ln L0)`` unless given."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    trained = _trained(scaling)
    return math.sqrt(1 + math.log(_factor(scaling)) / math.log(trained)) if trained > 1 else 1.0


def _llama3(scaling: RopeScaling, plain: Plain, length: int) -> Turning:
    """Llama 3.1 (arXiv 2407.21783, as Meta's code has it): slow pairs interpolate, by wavelength.

    ``low_freq_factor`` and ``high_freq_factor`` are turns over the trained length; between them
    both frequencies are blended linearly in the number of turns.
    """
    low, high = scaling.low_freq_factor or LOW_FREQ, scaling.high_freq_factor or HIGH_FREQ
    inv_freq = plain.inv_freq
    turns = _trained(scaling) * inv_freq / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return Turning(inv_freq * kept + inv_freq / _factor(scaling) * (1 - kept))


@dataclass(frozen=True)
class Rule:
    """A way of stretching, and the words of ``RopeScaling`` that it needs and takes."""

    apply: Callable[[RopeScaling, Plain, int], Turning]
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    by_length: bool = False


COMMON = ("rope_type", "factor", "target_tokens", "original_max_position_embeddings")
_TRAINED = ("original_max_position_embeddings",)
_RAMP = ("beta_fast", "beta_slow", "truncate")
RULES: Mapping[str, Rule] = {
    "linear": Rule(_linear),
    "ntk": Rule(_ntk),
    "dynamic": Rule(_dynamic, _TRAINED, by_length=True),
    "ntk_by_parts": Rule(_by_parts, _TRAINED, _RAMP),
    "yarn": Rule(_yarn, _TRAINED, (*_RAMP, "attention_factor", "mscale", "mscale_all_dim")),
    "longrope": Rule(
        _longrope,
        (*_TRAINED, "short_factor", "long_factor"),
        ("attention_factor",),
        by_length=True,
    ),
    "llama3": Rule(_llama3, _TRAINED, ("low_freq_factor", "high_freq_factor")),
}


def _factor(scaling: RopeScaling) -> float:
    assert scaling.factor != "auto", "resolve comes first"
    return scaling.factor


def _trained(scaling: RopeScaling) -> int:
    assert scaling.original_max_position_embeddings is not None, "check_words comes first"
    return scaling.original_max_position_embeddings


def described(scaling: RopeScaling, plain: Plain, length: int) -> dict[str, Any]:
    """A resolved scaling as it is applied at a length, for the record."""
    applied = turning(scaling, plain, None, length)
    return {
        **scaling.model_dump(mode="json", exclude_none=True),
        "attention_factor": applied.attention_factor,
        "slowest_turns_every_tokens": 2 * math.pi / float(applied.inv_freq[-1]),
        **({"fixed_at_tokens": length} if depends_on_length(scaling) else {}),
    }
