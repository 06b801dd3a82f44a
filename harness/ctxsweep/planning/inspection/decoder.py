"""What a model is made of and what it will ask for, from its configuration alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ctxsweep.models import accounting_recurrent as recurrent
from ctxsweep.models.accounting import (
    Storage,
    cache_bytes,
    decode_call,
    flops_by_part,
    least_bytes,
    prefill_calls,
)
from ctxsweep.models.accounting_parameters import (
    active_parameters,
    has_learned_positions,
    layers_with_weights,
    parameters,
)
from ctxsweep.models.config import ModelConfig, Published
from ctxsweep.planning.inspection.inspected import (
    AtLength,
    CacheRow,
    Growth,
    Inspection,
    Part,
    PublishedCount,
    Scaled,
    Token,
)
from ctxsweep.planning.inspection.rule_of_thumb import rule_of_thumb
from ctxsweep.planning.inspection.scaling_up import scaled_up
from ctxsweep.planning.inspection.shape_words import MIXER_NAMES, shape_line, short_line, tokens
from ctxsweep.planning.remarks import reach_words, stretched_reach, trained_reach
from ctxsweep.records import DType, KVDType

CONTEXTS = (1024, 8192, 32768, 131072)
FACTORS = (2.0, 10.0)
UNKNOWN_TRAINING = 8192
"""Taken for the trained context where none is known."""
PAGE_SIZE = 16


def inspect_model(
    config: ModelConfig,
    contexts: Sequence[int] = CONTEXTS,
    batch_size: int = 1,
    dtype: DType = "bfloat16",
    kv_dtype: KVDType = "auto",
) -> Inspection:
    """Everything ``ctxsweep inspect`` shows of a model; bytes and FLOPs are of the whole batch."""
    storage = Storage(dtype, kv_dtype, PAGE_SIZE)
    rule = rule_of_thumb(config)
    base = _base_context(config)
    attention = config.attention
    return Inspection(
        name=config.name,
        source=config.source,
        shape=shape_line(config),
        dtype=dtype,
        kv_dtype=kv_dtype,
        batch_size=batch_size,
        parts=tuple(_parts(config)),
        parameters=rule.exact,
        active_parameters=active_parameters(config),
        weights_bytes=rule.exact * storage.element_bytes,
        published=published_count(config.published, rule.exact, _tied_head(config)),
        rule=rule,
        token=_token(config),
        window=attention.span if attention else None,
        contexts=tuple(contexts),
        cache=tuple(_cache_rows(config, storage, contexts, batch_size)),
        lengths=tuple(_at_length(config, storage, n, batch_size) for n in contexts),
        base_context=base,
        growth=tuple(_growth(config, storage, base, batch_size)),
        sizes=tuple(_sizes(config, storage, base, batch_size)),
        remarks=tuple(_remarks(config, max(contexts))),
    )


def _parts(config: ModelConfig) -> Iterator[Part]:
    """Parameters by part, the mixers of a hybrid each for itself."""
    counts = parameters(config)
    rows = config.max_positions if has_learned_positions(config) else 0
    yield Part(name="embedding", parameters=counts["embedding"] - rows * config.hidden_size)
    if rows:
        yield Part(name="positions", parameters=rows * config.hidden_size)
    mixers, own = config.layer_mixers(), layers_with_weights(config)
    others = 0
    for kind in sorted(set(mixers) - {"attention"}):
        held = sum(recurrent.mixer_parameters(config, kind, i) for i in own if mixers[i] == kind)
        others += held
        yield Part(name=MIXER_NAMES[kind], parameters=held)
    if "attention" in mixers:
        yield Part(name="attention", parameters=counts["mixer"] - others)
    named = {"ffn": "feed-forward", "norm": "norms", "head": "head"}
    yield from (Part(name=name, parameters=counts[key]) for key, name in named.items())


def _tied_head(config: ModelConfig) -> int:
    return config.hidden_size * config.vocab_size if config.tied_embeddings else 0


def published_count(
    said: Published | None, exact: int, tied_head: int = 0
) -> PublishedCount | None:
    """What was published, and whether the count is that, as far as its digits go."""
    if said is None:
        return None
    return PublishedCount(
        parameters=said.parameters,
        rounded_to=said.rounded_to,
        equal=said.agrees(exact),
        head_apart=tied_head > 0 and said.parameters == exact + tied_head,
        source=said.source,
    )


def _token(config: ModelConfig) -> Token:
    """A forward pass by its slope over the context, and training by the rule and exactly."""
    step = flops_by_part(config, decode_call(config, 0))
    longer = flops_by_part(config, decode_call(config, 1))
    length = config.trained_context or UNKNOWN_TRAINING
    whole = flops_by_part(config, prefill_calls(config, length, length))
    heads = 2.0 * config.hidden_size * config.vocab_size * (length - 1)  # a prefill runs one
    return Token(
        forward_flops=step.total - step.attention,
        flops_per_context_token=longer.attention - step.attention,
        training_rule_flops=6.0 * active_parameters(config),
        training_flops=3 * (whole.total + heads) / length,
        training_context=length,
    )


def _cache_rows(
    config: ModelConfig, storage: Storage, contexts: Sequence[int], batch_size: int
) -> Iterator[CacheRow]:
    """One line for every type that keys and values may have here; states have but one."""
    kinds: list[KVDType] = [storage.kv_dtype]
    if config.attention is not None:
        same = "auto" if storage.kv_dtype == storage.dtype else storage.kv_dtype
        kinds += [kind for kind in ("auto", "fp8_e4m3", "int8") if kind != same]
    mixers = config.layer_mixers()
    fixed = sum(
        recurrent.state_bytes(config, kind, storage.dtype) for kind in mixers if kind != "attention"
    )
    for kind in kinds:
        held = replace(storage, kv_dtype=kind)
        a = config.attention
        token = mixers.count("attention") * held.kv_token_bytes(a) if a else 0
        yield CacheRow(
            kv_dtype=kind,
            bytes_per_token=float(batch_size * token),
            fixed_bytes=batch_size * fixed,
            most_bytes=_most_bytes(config, held, batch_size),
            at_bytes=tuple(cache_bytes(config, held, n, batch_size) for n in contexts),
        )


def _most_bytes(config: ModelConfig, storage: Storage, batch_size: int) -> int | None:
    """Where growth ends; None: it does not. Neither end of a window need fall on a page's border,
    so that the most is held somewhere within a page behind it."""
    span = config.attention.span if config.attention else 0
    if span is None:
        return None
    lengths = range(span, span + storage.page_size + 1)
    return max(cache_bytes(config, storage, n, batch_size) for n in lengths)


def _at_length(config: ModelConfig, storage: Storage, length: int, batch_size: int) -> AtLength:
    prefill = flops_by_part(config, prefill_calls(config, length, length), batch_size)
    step = decode_call(config, length)
    return AtLength(
        context_tokens=length,
        cache_bytes=cache_bytes(config, storage, length, batch_size),
        prefill_flops=prefill.total,
        attention_share=prefill.attention / prefill.total,
        decode_flops=flops_by_part(config, step, batch_size).total,
        decode_bytes=least_bytes(config, storage, step, batch_size),
    )


def _base_context(config: ModelConfig) -> int:
    """Where growth is told from: the trained context, as far as ten times it can be asked."""
    return min(config.trained_context or UNKNOWN_TRAINING, 1 << 20)


def _growth(config: ModelConfig, storage: Storage, base: int, batch_size: int) -> Iterator[Growth]:
    """By which factors figures grow when the context does."""
    lengths = {factor: int(base * factor) for factor in (1.0, *FACTORS)}
    rows = {factor: _at_length(config, storage, n, batch_size) for factor, n in lengths.items()}
    figures = {factor: _figures(row) for factor, row in rows.items()}
    for what, value in figures[1.0].items():
        yield Growth(
            what=what,
            base=value,
            unit="FLOPs" if what in ("prefill", "FLOPs of a decode step") else "bytes",
            factors={f"{f:g}": figures[f][what] / value for f in FACTORS},
        )


def _figures(row: AtLength) -> dict[str, float]:
    return {
        "cache or state": row.cache_bytes,
        "bytes of a decode step": row.decode_bytes,
        "FLOPs of a decode step": row.decode_flops,
        "prefill": row.prefill_flops,
    }


def _sizes(config: ModelConfig, storage: Storage, base: int, batch_size: int) -> Iterator[Scaled]:
    """This model, and those of about twice and ten times its size, all at the base context."""
    for factor in (1.0, *FACTORS):
        model = config if factor == 1.0 else scaled_up(config, factor)
        if model is None:
            continue
        row = _at_length(model, storage, base, batch_size)
        yield Scaled(
            factor=factor,
            shape=short_line(model),
            parameters=sum(parameters(model).values()),
            cache_bytes=row.cache_bytes,
            decode_bytes=row.decode_bytes,
            prefill_flops=row.prefill_flops,
        )


def _remarks(config: ModelConfig, longest: int) -> Iterator[str]:
    """What the figures do not say by themselves."""
    if has_learned_positions(config) and longest > config.max_positions:
        yield (
            f"The table of positions ends at {tokens(config.max_positions)}: longer contexts are "
            "shown, but cannot be run."
        )
    elif longest > (stretched_reach(config) or trained_reach(config) or longest):
        said = reach_words(config, tokens)
        yield f"It was {said}: beyond, the figures hold, the quality may not."
    if set(config.layer_mixers()) - {"attention"}:
        yield "The recurrent part of a state is held in float32, whatever the weights' type."
    if config.trained_context is None:
        yield f"No trained context is known; {tokens(UNKNOWN_TRAINING)} stands in for it."
