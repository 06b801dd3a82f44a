"""Rotary positions in the words of a transformers ``config.json``: read and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ctxsweep.models.rope import (
    HIGH_FREQ,
    LOW_FREQ,
    BadRope,
    Plain,
    check_words,
    longrope_attention,
)
from ctxsweep.records import RopeScaling

Json = Mapping[str, Any]
MAX_POSITIONS = 1 << 20
"""Written for positions whose end is not known, or is not to be one: engines refuse prompts beyond
it."""
_BASE = ("rope_theta", "partial_rotary_factor", "rope_type", "type")
_WORDS = frozenset(RopeScaling.model_fields) - {"rope_type", "target_tokens"}
_READ = ("linear", "dynamic", "yarn", "longrope", "llama3")
_SILENT = ("finetuned",)  # of YaRN's first checkpoints; says nothing of how positions turn
_OLD_NAMES = {"su": "longrope"}  # Phi-3's first files


def read_rope(raw: Json, head_dim: int, default_theta: float) -> tuple[dict[str, Any], int | None]:
    """The fields of ``models.config.Attention`` for rotary positions, and the trained length.

    From ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (before).
    Raises ``ValueError`` for what is not built.
    """
    words = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(words, Mapping):
        raise ValueError(f"rope_parameters = {words!r} must be a mapping")
    partial = words.get("partial_rotary_factor", raw.get("partial_rotary_factor")) or 1.0
    fields: dict[str, Any] = {
        "rope_theta": words.get("rope_theta") or raw.get("rope_theta") or default_theta
    }
    if partial != 1.0:
        fields["rotary_dim"] = int(head_dim * partial)
    positions, trained = raw.get("max_position_embeddings"), trained_tokens(raw)
    kind = words.get("rope_type", words.get("type", "default"))
    kind = _OLD_NAMES.get(kind, kind)
    if kind == "default":
        return fields, trained
    if kind not in _READ:
        raise ValueError(f"rope_type = {kind!r} is not built; valid: default, {', '.join(_READ)}")
    given = {word: words[word] for word in words if word in _WORDS}
    unknown = sorted(set(words) - _WORDS - {*_BASE, *_SILENT})
    if unknown:
        raise ValueError(f"rope_parameters.{unknown[0]} is not built for rope_type {kind}")
    if kind == "longrope" and positions and trained:
        given.setdefault("factor", max(1.0, positions / trained))
    if kind != "linear":
        given["original_max_position_embeddings"] = trained
    fields["rope"] = _scaling(kind, given)
    # Llama 3.1 went on training with its scaling: the file's length is that of the training.
    longer = kind == "llama3" and positions and trained and trained < positions < MAX_POSITIONS
    return fields, positions if longer else trained


def trained_tokens(raw: Json) -> int | None:
    """The longest context of the training that a ``config.json`` names, before any stretching."""
    words = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    positions = raw.get("max_position_embeddings")
    endless = positions is None or positions >= MAX_POSITIONS
    return (
        raw.get("original_max_position_embeddings")
        or words.get("original_max_position_embeddings")
        or (None if endless else positions)
    )


def plain_rope(raw: Json) -> Plain | None:
    """Rotary positions as they were trained; None if a ``config.json`` has none of one kind."""
    written = {**raw, **(raw.get("rope_parameters") or {})}
    if not isinstance(written.get("rope_theta"), int | float):
        return None
    heads = raw.get("num_attention_heads") or 1
    head_dim = raw.get("head_dim") or raw.get("hidden_size", 0) // heads
    partial = written.get("partial_rotary_factor") or 1.0
    return Plain(int(head_dim * partial), float(written["rope_theta"]), head_dim)


def _scaling(kind: str, given: dict[str, Any]) -> RopeScaling:
    try:
        scaling = RopeScaling.model_validate({"rope_type": kind, **given})
        check_words(scaling)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"rope_parameters.{where}: {first['msg']}") from error
    except BadRope as error:
        raise ValueError(f"rope_parameters.{error.key}: {error.message}") from error
    return scaling


def write_rope(scaling: RopeScaling | None, plain: Plain, trained: int | None) -> dict[str, Any]:
    """Fields of a ``config.json`` that turn positions so, with ``rope_theta`` for older readers.

    ``scaling`` is resolved (a factor that is a number, the trained length). The length is the
    trained one, or what that is stretched to.
    """
    words = {"rope_type": "default", "rope_theta": plain.theta, **_partial(plain)}
    if scaling is not None:
        words |= transformers_words(scaling, plain)
    return {
        "rope_theta": words["rope_theta"],
        "rope_parameters": words,
        **lengths(scaling, trained),
    }


def lengths(scaling: RopeScaling | None, trained: int | None) -> dict[str, int]:
    """The trained length, stretched where it is, in the words of a ``config.json``.

    Dynamic NTK reads the trained length from there, and llama3 went on training with its scaling.
    """
    if scaling is None:
        return {"max_position_embeddings": trained or MAX_POSITIONS}
    original = scaling.original_max_position_embeddings or trained
    if original is None:
        return {"max_position_embeddings": MAX_POSITIONS}
    if scaling.rope_type == "llama3" and trained and trained > original:
        reach = trained
    elif scaling.rope_type == "dynamic":
        reach = original
    else:
        assert scaling.factor != "auto", "resolve comes first"
        reach = min(MAX_POSITIONS, round(original * scaling.factor))
    return {"max_position_embeddings": reach, **_original(original)}


def endless(scaling: RopeScaling | None, trained: int | None) -> dict[str, int]:
    """The same for a file that engines take at any context, as far as its rule of positions can.

    A sweep goes beyond what was trained, and says so.
    """
    found = lengths(scaling, trained)
    original = (scaling and scaling.original_max_position_embeddings) or trained
    kept = scaling is not None and scaling.rope_type == "dynamic"
    if scaling is not None and scaling.rope_type == "llama3" and trained and original:
        kept = trained > original
    if not kept:
        found["max_position_embeddings"] = MAX_POSITIONS
    return found | _original(original)


def _original(trained: int | None) -> dict[str, int]:
    """Phi-3's word, which transformers takes for others too, before that within the parameters."""
    return {"original_max_position_embeddings": trained} if trained else {}


def _partial(plain: Plain) -> dict[str, float]:
    width = plain.head_dim or plain.rotary_dim
    return {} if width == plain.rotary_dim else {"partial_rotary_factor": plain.rotary_dim / width}


def transformers_words(scaling: RopeScaling, plain: Plain) -> dict[str, Any]:
    """A resolved ``scaling`` in types and words of transformers' ``rope_parameters``.

    What it has no type for is written in those that it has: NTK-aware as another base, by parts as
    YaRN with an attention factor of 1.
    """
    words = scaling.model_dump(mode="json", exclude_none=True, exclude={"target_tokens"})
    if scaling.rope_type == "ntk":
        base = plain.ntk_base(words["factor"])
        return {"rope_type": "default", "rope_theta": base, **_partial(plain)}
    if scaling.rope_type in ("linear", "dynamic"):
        words.pop("original_max_position_embeddings", None)
    if scaling.rope_type == "ntk_by_parts":
        words |= {"rope_type": "yarn", "attention_factor": 1.0}
    if scaling.rope_type == "llama3":
        words = {"low_freq_factor": LOW_FREQ, "high_freq_factor": HIGH_FREQ} | words
    if scaling.rope_type == "longrope":
        words["attention_factor"] = longrope_attention(scaling)
    return {"rope_theta": plain.theta, **_partial(plain), **words}
