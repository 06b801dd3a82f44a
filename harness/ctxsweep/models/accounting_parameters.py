"""Parameters that a configuration demands, by part and by layer. Never imports torch."""

from __future__ import annotations

from ctxsweep.models import accounting_recurrent as recurrent
from ctxsweep.models.config import RWKV, Attention, FeedForward, ModelConfig


def parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by part: embedding (with learned positions), mixer, ffn, norm, head.

    A tied head has none of its own; layers that share one block's weights count once.
    """
    hidden, own = config.hidden_size, layers_with_weights(config)
    rows = config.vocab_size + (config.max_positions if has_learned_positions(config) else 0)
    norms = sum(_layer_norms(config, i) for i in own) + 1 + config.has_embedding_norm()
    head = 0 if config.tied_embeddings else hidden * config.vocab_size
    return {
        "embedding": hidden * rows,
        "mixer": sum(_mixer_parameters(config, i) for i in own),
        "ffn": sum(_ffn_parameters(config, i) for i in own),
        "norm": config.norm_width() * norms,
        "head": head + (config.vocab_size if config.head_bias else 0),
    }


def active_parameters(config: ModelConfig) -> int:
    """Parameters that one token goes through: of experts those chosen; of the embedding all.

    A block that layers share counts for each of them: its work is done as often.
    """
    layers = range(config.num_layers)
    total = sum(_mixer_parameters(config, i) + _active_ffn_parameters(config, i) for i in layers)
    total += config.norm_width() * sum(_layer_norms(config, i) for i in layers)
    parts = parameters(config)
    rest = parts["embedding"] + parts["head"]
    return total + rest + config.norm_width() * (1 + config.has_embedding_norm())


def call_parameters(config: ModelConfig) -> int:
    """Parameters that a call reads, all experts among them: every layer's, and the head's."""
    layers = range(config.num_layers)
    total = sum(_mixer_parameters(config, i) + _ffn_parameters(config, i) for i in layers)
    norms = sum(_layer_norms(config, i) for i in layers) + 1 + config.has_embedding_norm()
    total += config.norm_width() * norms + config.hidden_size * config.vocab_size
    return total + (config.vocab_size if config.head_bias else 0)


def layers_with_weights(config: ModelConfig) -> tuple[int, ...]:
    """Layers that bring weights of their own: all, but for those that share an earlier one's."""
    mixers = config.layer_mixers()
    if not config.attention_shared:
        return tuple(range(len(mixers)))
    first = mixers.index("attention")
    return tuple(i for i, kind in enumerate(mixers) if kind != "attention" or i == first)


def attention_of(config: ModelConfig) -> Attention:
    """The section of a model with attention layers."""
    assert config.attention is not None
    return config.attention


def ffn_of(config: ModelConfig) -> FeedForward:
    """The section of a model with feed-forward blocks."""
    assert config.ffn is not None
    return config.ffn


def attention_matrix(config: ModelConfig) -> int:
    """Elements of an attention layer's projections."""
    a = attention_of(config)
    return config.hidden_size * a.head_dim * 2 * (a.heads + a.kv_heads)


def expert_matrix(config: ModelConfig) -> int:
    """Elements of one expert's projections, or of the dense block's."""
    ffn = ffn_of(config)
    return (3 if ffn.gated else 2) * config.hidden_size * ffn.size


def has_learned_positions(config: ModelConfig) -> bool:
    """Whether positions are rows of a table beside the embedding."""
    return config.attention is not None and config.attention.position == "learned"


def _mixer_parameters(config: ModelConfig, layer: int) -> int:
    kind = config.layer_mixers()[layer]
    if kind != "attention":
        return recurrent.mixer_parameters(config, kind, layer)
    a = attention_of(config)
    biases = (a.heads + 2 * a.kv_heads) * a.head_dim if a.bias else 0
    biases += config.hidden_size if a.biased_output else 0
    return attention_matrix(config) + biases


def _ffn_parameters(config: ModelConfig, layer: int) -> int:
    if config.layer_mixers()[layer] in RWKV:
        return recurrent.ffn_parameters(config)
    if not config.has_ffn(layer):
        return 0
    ffn, matrix = ffn_of(config), expert_matrix(config)
    if ffn.has_experts(layer):
        return ffn.experts * (matrix + config.hidden_size)
    biases = (2 if ffn.gated else 1) * ffn.size + config.hidden_size
    return matrix + (biases if ffn.bias else 0)


def _active_ffn_parameters(config: ModelConfig, layer: int) -> int:
    ffn = config.ffn
    if ffn is None or not config.has_ffn(layer) or not ffn.has_experts(layer):
        return _ffn_parameters(config, layer)
    return ffn.experts_per_token * expert_matrix(config) + ffn.experts * config.hidden_size


def _layer_norms(config: ModelConfig, layer: int) -> int:
    """Norms over the hidden size in a layer: before the mixer, and before a block of its own."""
    return 1 + (config.has_ffn(layer) and config.residual != "parallel_shared_norm")
