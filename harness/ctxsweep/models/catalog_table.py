"""The catalogue as rows: what each model is made of and what it holds. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ctxsweep.models import catalog, encoder
from ctxsweep.models.accounting import (
    Storage,
    cache_bytes,
    cache_bytes_per_token,
    has_learned_positions,
    parameters,
)
from ctxsweep.models.config import ModelConfig, Published
from ctxsweep.models.encoder import EncoderConfig
from ctxsweep.models.sections import Attention

FAR_TOKENS = 128 * 1024
STORAGE = Storage("bfloat16", "auto", 16)
OWN, ENCODERS = "tiny", "encoders"
MIXERS: Mapping[str, str] = MappingProxyType(
    {
        "mamba1": "Mamba-1",
        "mamba2": "Mamba-2",
        "rwkv6": "RWKV-6",
        "rwkv7": "RWKV-7",
        "retention": "retention",
    }
)


@dataclass(frozen=True)
class Row:
    """A model; bytes are of one sequence in bfloat16, recurrent states in float32.

    ``token_bytes``: what one more token of an early context adds. ``far_bytes``: cache and state
    at ``FAR_TOKENS``, None where its learned positions end before.
    """

    name: str
    made_of: str
    parameters: int
    trained_tokens: int | None
    token_bytes: float
    far_bytes: int | None
    source: str
    published: Published | None


def row(config: ModelConfig) -> Row:
    """The row of a model."""
    ends = has_learned_positions(config) and config.max_positions < FAR_TOKENS
    return Row(
        name=config.name,
        made_of=made_of(config),
        parameters=sum(parameters(config).values()),
        trained_tokens=config.trained_context,
        token_bytes=cache_bytes_per_token(config, STORAGE, 1),
        far_bytes=None if ends else cache_bytes(config, STORAGE, FAR_TOKENS),
        source=config.source,
        published=config.published,
    )


def encoder_row(config: EncoderConfig) -> Row:
    """The row of an encoder: what a token read leaves for the decoder, where there is one."""
    read = encoder.memory(config, 1, 1 if config.decoder_layers else 0)
    return Row(
        name=config.name,
        made_of=config.kind,
        parameters=sum(encoder.parameters(config).values()),
        trained_tokens=config.trained_tokens(),
        token_bytes=read.cross_cache_bytes,
        far_bytes=None,
        source=config.source,
        published=config.published,
    )


def by_family() -> dict[str, list[Row]]:
    """Every model of the catalogue, smallest first in its family; our own and encoders last."""
    families = catalog.families()
    found = {
        family: sorted((row(catalog.load_config(n)) for n in held), key=lambda r: r.parameters)
        for family, held in sorted(families.items(), key=lambda pair: (pair[0] == OWN, pair[0]))
    }
    found[ENCODERS] = [encoder_row(catalog.load_encoder(name)) for name in catalog.encoder_names()]
    return found


def made_of(config: ModelConfig) -> str:
    """Mixers, how heads share keys and values, positions, window and experts, in a few words."""
    words = []
    if config.mixer != "attention":
        words.append(MIXERS[config.mixer])
    if config.attention is not None:
        words += _attention_words(config.attention)
    if config.attention is not None and config.attention_every is not None:
        shared = " shared" if config.attention_shared else ""
        words[1] += f" in 1 of {config.attention_every}{shared}"
    if config.ffn is not None and config.ffn.experts:
        words.append(f"{config.ffn.experts_per_token} of {config.ffn.experts} experts")
    return ", ".join(words)


def _attention_words(a: Attention) -> list[str]:
    group = a.heads // a.kv_heads
    words = ["MHA" if group == 1 else f"MQA {group}:1" if a.kv_heads == 1 else f"GQA {group}:1"]
    if a.window is not None:
        words.append(f"window {a.window}")
    if a.position in ("alibi", "learned"):
        words.append({"alibi": "ALiBi", "learned": "learned positions"}[a.position])
    if a.rope is not None:
        words.append(a.rope.rope_type)
    return words
