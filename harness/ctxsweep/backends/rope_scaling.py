"""A series' ``rope``, laid over a model: checked, and in the words that engines read."""

from __future__ import annotations

from typing import Any

from ctxsweep.backends.base import InvalidSeries
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.rope import BadRope, Plain, check_words, depends_on_length, described, resolve
from ctxsweep.models.rope_words import transformers_words
from ctxsweep.records import RopeScaling, Series


def stretched(config: ModelConfig, scaling: RopeScaling) -> ModelConfig:
    """The model with its rotary positions stretched. Raises ``InvalidSeries``."""
    attention = config.attention
    if attention is None or attention.position != "rope":
        raise InvalidSeries("rope", f"model '{config.name}' has no rotary positions; leave it out")
    known = checked(scaling, config.trained_context, attention.turned)
    attention = attention.model_copy(update={"rope": known})
    return config.model_copy(update={"attention": attention})


def checked(scaling: RopeScaling, trained_tokens: int | None, plain: Plain | None) -> RopeScaling:
    """The scaling resolved for a model (of which ``plain`` may not be known yet).

    Raises ``InvalidSeries``.
    """
    try:
        known = resolve(scaling, trained_tokens)
        check_words(known, plain)
    except BadRope as error:
        raise InvalidSeries(f"rope.{error.key}", error.message) from error
    return known


def engine_words(scaling: RopeScaling, trained_tokens: int | None, plain: Plain) -> dict[str, Any]:
    """``rope_parameters`` of a ``config.json`` for another engine. Raises ``InvalidSeries``."""
    return transformers_words(checked(scaling, trained_tokens, plain), plain)


def check_fixed(
    engine: str, series: Series, config: ModelConfig | None, moving: tuple[str, ...]
) -> None:
    """Raise ``InvalidSeries`` if positions are stretched by one of ``moving``.

    These are rules that the engine applies at another length than the prompt's, be they of the
    series or of its model.
    """
    own = config.attention.rope if config is not None and config.attention else None
    scaling = series.rope or own
    if scaling is not None and scaling.rope_type in moving and depends_on_length(scaling):
        raise InvalidSeries(
            "rope.rope_type" if series.rope else "model",
            f"{scaling.rope_type}: {engine} turns keys by how long a call's context is, or may "
            "become, so that cached ones no longer fit; nearest valid: yarn, or backend native, "
            "which takes the length of the prompt",
        )


def applied(config: ModelConfig, length: int) -> dict[str, Any]:
    """For the record: how positions were stretched, at the length that counts."""
    attention = config.attention
    if attention is None or attention.rope is None:
        return {}
    known = resolve(attention.rope, config.trained_context)
    return {"rope": described(known, attention.turned, length)}
