"""What a configuration demands, from arithmetic alone: parameters, cache, FLOPs, least bytes.

FLOPs count multiply and add of matrix products; norms, activations and softmax are left out, as
is usual. Least bytes count what no implementation can avoid: the weights that a call uses, the
cached tokens that its queries see, and what it adds; activations are taken to stay on chip.
Never imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctxsweep.models import accounting_recurrent as recurrent
from ctxsweep.models.accounting_parameters import (
    attention_matrix,
    attention_of,
    call_parameters,
    expert_matrix,
    ffn_of,
    has_learned_positions,
    parameters,
)
from ctxsweep.models.config import RWKV, Attention, ModelConfig
from ctxsweep.models.pages import visible_pages
from ctxsweep.records import Cost, DType, KVDType

ELEMENT_BYTES = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "int8": 1,
}
INT8_SCALE_BYTES = 4  # one fp32 scale for a token's key of one head, and one for its value


@dataclass(frozen=True)
class Storage:
    """How weights and cache are held."""

    dtype: DType
    kv_dtype: KVDType = "auto"
    page_size: int = 256

    @property
    def element_bytes(self) -> int:
        """Bytes of a weight."""
        return ELEMENT_BYTES[self.dtype]

    def kv_token_bytes(self, attention: Attention) -> int:
        """Bytes of one token's keys and values in one layer."""
        kind = self.dtype if self.kv_dtype == "auto" else self.kv_dtype
        scale = INT8_SCALE_BYTES if kind == "int8" else 0
        return 2 * attention.kv_heads * (attention.head_dim * ELEMENT_BYTES[kind] + scale)


@dataclass(frozen=True)
class Calls:
    """Calls of the model in a row, for one sequence.

    ``past`` sums over the calls the cached tokens that each reads; ``pairs`` sums over the
    queries the keys that each sees (itself among them). All calls but the last are of
    ``call_tokens``.
    """

    count: int
    tokens: int
    past: int
    pairs: int
    call_tokens: int

    @property
    def last_tokens(self) -> int:
        """Tokens of the last call."""
        return self.tokens - (self.count - 1) * self.call_tokens


def cache_bytes(
    config: ModelConfig, storage: Storage, context_tokens: int, batch_size: int = 1
) -> int:
    """Cache and state at a context, exact: whole pages, int8 scales, the states' own types."""
    total = 0
    for kind in config.layer_mixers():
        if kind == "attention":
            attention = attention_of(config)
            held = _held_tokens(attention, storage, context_tokens)
            total += held * storage.kv_token_bytes(attention)
        else:
            total += recurrent.state_bytes(config, kind, storage.dtype)
    return total * batch_size


def cache_bytes_per_token(config: ModelConfig, storage: Storage, context_tokens: int) -> float:
    """What one more token adds for a sequence, pages averaged; 0 past a window and for states."""
    layers = config.layer_mixers().count("attention")
    if not layers:
        return 0.0
    attention = attention_of(config)
    # Pages let go at once of what the next token cannot see, a ring when that token comes.
    span, let_go = attention.span, 0 if attention.sinks else 1
    full = span is not None and context_tokens >= span - let_go
    return 0.0 if full else float(layers * storage.kv_token_bytes(attention))


def cost(
    config: ModelConfig,
    storage: Storage,
    context_tokens: int,
    batch_size: int = 1,
    chunk_tokens: int | None = None,
) -> Cost:
    """A prefill of the whole context in calls of ``chunk_tokens`` (None: in one), and one decode
    step after it."""
    prefill = prefill_calls(config, context_tokens, chunk_tokens or context_tokens)
    decode = decode_call(config, context_tokens)
    return Cost(
        parameters=sum(parameters(config).values()),
        prefill_flops=flops(config, prefill, batch_size),
        prefill_bytes=least_bytes(config, storage, prefill, batch_size),
        decode_flops=flops(config, decode, batch_size),
        decode_bytes=least_bytes(config, storage, decode, batch_size),
        cache_bytes=cache_bytes(config, storage, context_tokens, batch_size),
        cache_bytes_per_token=cache_bytes_per_token(config, storage, context_tokens),
    )


def prefill_calls(config: ModelConfig, context_tokens: int, chunk_tokens: int) -> Calls:
    """A prefill from nothing. The call at s reads min(s, W − 1) tokens; s = 0, chunk, ..."""
    count = -(-context_tokens // chunk_tokens)
    window = _window(config, context_tokens)
    growing = min(count, (window - 1) // chunk_tokens + 1)
    past = chunk_tokens * growing * (growing - 1) // 2 + (window - 1) * (count - growing)
    seen = min(context_tokens, window)
    pairs = seen * (seen + 1) // 2 + (context_tokens - seen) * window
    return Calls(count, context_tokens, past, pairs, chunk_tokens)


def decode_call(config: ModelConfig, context_tokens: int) -> Calls:
    """One more token when ``context_tokens`` are held."""
    seen = min(context_tokens, _window(config, context_tokens + 1) - 1)
    return Calls(1, 1, seen, seen + 1, 1)


@dataclass(frozen=True)
class Flops:
    """FLOPs of matrix products: of the layers' projections and the head, of queries with keys and
    values, of the recurrences (their projections, which one formula counts, included)."""

    linear: float
    attention: float
    recurrent: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.linear + self.attention + self.recurrent


def flops(config: ModelConfig, calls: Calls, batch_size: int = 1) -> float:
    """FLOPs of the matrix products, all together; see ``flops_by_part``."""
    return flops_by_part(config, calls, batch_size).total


def flops_by_part(config: ModelConfig, calls: Calls, batch_size: int = 1) -> Flops:
    """FLOPs of the matrix products; of experts only those that a token goes through.

    The head runs on the last token of a call alone.
    """
    linear = 2.0 * config.hidden_size * config.vocab_size * calls.count
    pairs = scans = 0.0
    for layer, kind in enumerate(config.layer_mixers()):
        if kind == "attention":
            a = attention_of(config)
            linear += 2.0 * attention_matrix(config) * calls.tokens
            pairs += 4.0 * a.heads * a.head_dim * calls.pairs
        else:
            scans += recurrent.flops(config, kind, calls.tokens, calls.count, layer)
        if kind not in RWKV and config.has_ffn(layer):
            ffn = ffn_of(config)
            chooses = ffn.has_experts(layer)
            active = (ffn.experts_per_token if chooses else 1) * expert_matrix(config)
            router = ffn.experts * config.hidden_size if chooses else 0
            linear += 2.0 * (active + router) * calls.tokens
    return Flops(linear * batch_size, pairs * batch_size, scans * batch_size)


@dataclass(frozen=True)
class LeastBytes:
    """Bytes that must move: of the weights that calls use, of what the context left behind."""

    weights: float
    cache: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.cache


def least_bytes(config: ModelConfig, storage: Storage, calls: Calls, batch_size: int = 1) -> float:
    """Bytes that must move, all together; see ``least_bytes_by_part``."""
    return least_bytes_by_part(config, storage, calls, batch_size).total


def least_bytes_by_part(
    config: ModelConfig, storage: Storage, calls: Calls, batch_size: int = 1
) -> LeastBytes:
    """Bytes that must move: weights once a call, cache read and added, states read and written.

    Weights that layers share are read for each of them. Of experts those touched are counted, in
    expectation over routers that favour none.
    """
    wide = storage.element_bytes
    rows = batch_size * calls.tokens + (calls.tokens if has_learned_positions(config) else 0)
    weights = float(call_parameters(config) * calls.count)
    weights -= _untouched_expert_parameters(config, calls, batch_size)
    held = 0.0
    for kind in config.layer_mixers():
        if kind == "attention":
            held += (calls.past + calls.tokens) * storage.kv_token_bytes(attention_of(config))
        else:
            held += 2 * calls.count * recurrent.state_bytes(config, kind, storage.dtype)
    return LeastBytes(wide * (weights + rows * config.hidden_size), batch_size * held)


def _held_tokens(attention: Attention, storage: Storage, context_tokens: int) -> int:
    """Tokens that a sequence has room for: whole pages, or with sinks a ring beside them."""
    if attention.sinks and attention.span:
        return min(context_tokens, attention.span)
    pages = visible_pages(context_tokens, storage.page_size, attention.window)
    return len(pages) * storage.page_size


def _window(config: ModelConfig, context_tokens: int) -> int:
    """Tokens that a query can see at most, itself included."""
    span = config.attention.span if config.attention else None
    return min(span, context_tokens) if span else context_tokens


def _untouched_expert_parameters(config: ModelConfig, calls: Calls, batch_size: int) -> float:
    """Of all layers' experts, those that the calls are expected not to choose, summed over them."""
    if config.ffn is None or not config.ffn.experts:
        return 0.0
    ffn = config.ffn
    passed = 1 - ffn.experts_per_token / ffn.experts  # by one token
    full, last = (passed ** (batch_size * n) for n in (calls.call_tokens, calls.last_tokens))
    missed = ffn.experts * ((calls.count - 1) * full + last)
    layers = sum(
        kind not in RWKV and config.has_ffn(i) and ffn.has_experts(i)
        for i, kind in enumerate(config.layer_mixers())
    )
    return missed * expert_matrix(config) * layers
