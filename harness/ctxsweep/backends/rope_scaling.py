"""Stretched rotary positions in the words of transformers: what each kind needs and takes."""

from __future__ import annotations

from ctxsweep.backends.base import InvalidSeries
from ctxsweep.records import RopeScaling

NEEDED = {
    "linear": (),
    "yarn": ("original_max_position_embeddings",),
    "llama3": ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "longrope": ("original_max_position_embeddings", "short_factor", "long_factor"),
}
OPTIONAL = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow"),
    "longrope": ("attention_factor",),
}
KEPT = ("rope_theta", "partial_rotary_factor")
"""Words of the positions that are stretched; the others would be of another stretching."""


def check_words(rope: RopeScaling) -> None:
    """Raise ``InvalidSeries`` for a word that is missing or that the kind does not have."""
    kind, given = rope.rope_type, rope.model_dump(exclude_none=True)
    always = ("rope_type", "factor", "original_max_position_embeddings")
    for word in NEEDED[kind]:
        if word not in given:
            raise InvalidSeries(f"rope.{word}", f"{kind} needs it")
    for word in given:
        if word not in (*always, *NEEDED[kind], *OPTIONAL.get(kind, ())):
            raise InvalidSeries(f"rope.{word}", f"{kind} has no such setting; leave it out")
