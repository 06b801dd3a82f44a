"""What a model holds in the memory of each device, and what fits.

Weights, cache and state are counted exactly; activations are an estimate whose formula stands in
``activations_bytes``. Behind a window a prefill call holds more for a moment than what stays. Under
tensor parallelism matrices, heads, channels and experts are split, norms are held by every device,
and of key and value heads each device holds at least one.
"""

from __future__ import annotations

from collections.abc import Callable

from ctxsweep.frozen import Frozen
from ctxsweep.models import accounting, accounting_recurrent
from ctxsweep.models.accounting_parameters import has_learned_positions, parameters
from ctxsweep.models.config import RWKV, ModelConfig
from ctxsweep.models.pages import pages_needed, visible_pages
from ctxsweep.planning.answers import Part
from ctxsweep.planning.deployment import Deployment, check
from ctxsweep.scenario_units import MAX_CONTEXT_TOKENS

MAX_BATCH = 1 << 16
LOGIT_BYTES = 4  # engines sample from float32


class Footprint(Frozen):
    """Bytes on each device.

    ``prefill_cache_bytes``: pages that the last prefill call holds behind a window beyond
    ``cache_bytes``, which stay.
    """

    weights_bytes: int
    cache_bytes: int
    activations_bytes: int
    prefill_cache_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All that must fit into what is not kept back."""
        held = self.weights_bytes + self.cache_bytes + self.activations_bytes
        return held + self.prefill_cache_bytes


def footprint(config: ModelConfig, deployment: Deployment, context_tokens: int) -> Footprint:
    """What each device holds at this context, for the deployment's batch.

    Raises:
        BadDeployment: the model cannot be split over so many devices.
    """
    check(config, deployment)
    return Footprint(
        weights_bytes=weights_bytes(config, deployment),
        cache_bytes=cache_bytes(config, deployment, context_tokens),
        activations_bytes=activations_bytes(config, deployment),
        prefill_cache_bytes=prefill_cache_bytes(config, deployment, context_tokens),
    )


def reserve_bytes(deployment: Deployment, memory_bytes: int) -> int:
    """What is kept back of a device's memory."""
    return round(memory_bytes * deployment.reserve_share)


def weights_bytes(config: ModelConfig, deployment: Deployment) -> int:
    """Weights on each device.

    Quantised checkpoints keep embedding, norms and head in 16 bits (as GPTQ and AWQ do); of a layer
    all else counts as quantised, also the biases and convolutions that are not: below 1%.
    """
    parts = parameters(config)
    ways = deployment.tensor_parallel
    matrices = (parts["mixer"] + parts["ffn"]) * deployment.matrix_bytes
    plain = (parts["embedding"] + parts["head"]) * deployment.plain_bytes
    return round((matrices + plain) / ways + parts["norm"] * deployment.plain_bytes)


def cache_bytes(config: ModelConfig, deployment: Deployment, context_tokens: int) -> int:
    """Cache and state on each device, in whole pages, for the batch."""
    storage, batch = deployment.storage, deployment.batch_size
    total = accounting.cache_bytes(config, storage, context_tokens, batch)
    states = accounting.cache_bytes(config, storage, 0, batch)  # float32
    ways = deployment.tensor_parallel
    held = batch * state_bytes(config, deployment) / ways
    return round((total - states) * kv_share(config, ways) + held)


def state_bytes(config: ModelConfig, deployment: Deployment) -> int:
    """A sequence's state, on all devices together; 0 where there is none."""
    kinds = (kind for kind in config.layer_mixers() if kind != "attention")
    types = deployment.activation_dtype, deployment.recurrent_dtype
    return sum(accounting_recurrent.state_bytes(config, kind, *types) for kind in kinds)


def prefill_cache_bytes(config: ModelConfig, deployment: Deployment, context_tokens: int) -> int:
    """What one prefill call holds on each device beyond what stays, at most: its own tokens come
    before those that leave the window go. With sinks a ring is written in place."""
    attention = config.attention
    if attention is None or attention.window is None or attention.sinks:
        return 0
    size, window = deployment.page_size, attention.window
    chunk = deployment.prefill_chunk  # of all sequences together
    stay = len(visible_pages(context_tokens, size, window))
    each = pages_needed(context_tokens, min(chunk, context_tokens), size, window) - stay
    most = pages_needed(window + chunk + size, chunk, size, window) - stay
    layers = config.layer_mixers().count("attention")
    token = layers * deployment.storage.kv_token_bytes(attention)
    ways = deployment.tensor_parallel
    pages = min(deployment.batch_size * each, most)
    return round(pages * size * token * kv_share(config, ways))


def kv_share(config: ModelConfig, ways: int) -> float:
    """Share of the key and value heads that each of ``ways`` devices holds: 1 for MQA."""
    if config.attention is None:
        return 1 / ways
    return -(-config.attention.kv_heads // ways) / config.attention.kv_heads


def activations_bytes(config: ModelConfig, deployment: Deployment) -> int:
    """Activations of one prefill call on each device: an estimate.

    ``c × (2·hidden + widest / N) × e + batch × vocabulary × 4``: for the ``c`` tokens of a call the
    residual stream and its norm, the widest set of values that a layer holds at once, split over
    ``N`` devices, in ``e`` bytes; and the logits of one token per sequence in float32.
    """
    tokens = max(deployment.prefill_chunk, deployment.batch_size)
    widest = max(_widths(config)) / deployment.tensor_parallel
    held = tokens * (2 * config.hidden_size + widest) * deployment.plain_bytes
    return round(held) + deployment.batch_size * config.vocab_size * LOGIT_BYTES


def _widths(config: ModelConfig) -> list[int]:
    """Values per token that each kind of block holds at once: what it projects to, its output."""
    hidden, mixers = config.hidden_size, set(config.layer_mixers())
    widths = [hidden]
    if config.attention is not None:
        a = config.attention
        widths.append((2 * a.heads + 2 * a.kv_heads) * a.head_dim)
    if config.ffn is not None:
        branches = 3 if config.ffn.gated else 2  # gate, up and product; or in and out
        copies = config.ffn.experts_per_token if config.ffn.experts else 1
        widths.append(copies * branches * config.ffn.size)
    if config.mamba is not None:
        inner = hidden * config.mamba.expand
        widths.append(4 * inner + 2 * config.mamba.groups * config.mamba.state_size)
    if mixers & RWKV:
        widths.append(8 * hidden)  # six mixed inputs, value and gate
    if config.retention is not None:
        widths.append(2 * hidden + 3 * hidden * config.retention.value_expand)
    return widths


def longest_context(
    config: ModelConfig,
    deployment: Deployment,
    memory_bytes: int,
    at_most: int = MAX_CONTEXT_TOKENS,
) -> int:
    """The longest context in tokens that fits on devices of ``memory_bytes``, ``at_most`` at most.

    0: not even one token. Learned positions end where their table does.
    """
    check(config, deployment)
    at_most = min(at_most, last_position(config) or at_most)
    return _largest(at_most, lambda n: _fits_up_to(config, deployment, memory_bytes, n))


def what_is_too_large(
    config: ModelConfig, deployment: Deployment, memory_bytes: int, context_tokens: int = 1
) -> tuple[Part, int] | None:
    """The part with which the memory is full, and the bytes up to it; None: all of it fits.

    In this order: weights, activations, states, cache.
    """
    free = memory_bytes - reserve_bytes(deployment, memory_bytes)
    held = footprint(config, deployment, context_tokens)
    states = cache_bytes(config, deployment, 0)
    parts: dict[Part, int] = {
        "weights": held.weights_bytes,
        "activations": held.activations_bytes,
        "states": states,
        "cache": held.total_bytes - held.weights_bytes - held.activations_bytes - states,
    }
    needed = 0
    for part, size in parts.items():
        needed += size
        if needed > free:
            return part, needed
    return None


def unbounded(config: ModelConfig, deployment: Deployment, longest: int) -> bool:
    """Whether no context is too long, given the longest that was sought and fits: the cache has
    stopped growing."""
    growth = accounting.cache_bytes_per_token(config, deployment.storage, MAX_CONTEXT_TOKENS)
    return longest == MAX_CONTEXT_TOKENS and growth == 0


def last_position(config: ModelConfig) -> int | None:
    """Where a table of learned positions ends; None: there is none."""
    return config.max_positions if has_learned_positions(config) else None


def largest_batch(
    config: ModelConfig,
    deployment: Deployment,
    memory_bytes: int,
    context_tokens: int,
    at_most: int = MAX_BATCH,
) -> int:
    """How many sequences of this context fit at once; 0: none."""
    check(config, deployment)

    def fits(batch: int) -> bool:
        wider = deployment.model_copy(update={"batch_size": batch})
        return _fits_up_to(config, wider, memory_bytes, context_tokens)

    return _largest(at_most, fits)


def _fits_up_to(config: ModelConfig, deployment: Deployment, memory: int, context: int) -> bool:
    """Whether the context fits, and all shorter ones: behind a window the pages held go up and
    down by one, and are most when a page has just been opened."""
    free = memory - reserve_bytes(deployment, memory)
    opened = context - (context - 1) % deployment.page_size
    return all(footprint(config, deployment, n).total_bytes <= free for n in {context, opened})


def _largest(at_most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``at_most`` that fits, where all below it do too; else 0."""
    if fits(at_most):
        return at_most
    low, high = 0, at_most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
