"""What a model is, in one line: layers, heads, positions, block, training."""

from __future__ import annotations

from collections import Counter

from ctxsweep.models.config import Mixer, ModelConfig
from ctxsweep.models.sections import Attention, FeedForward
from ctxsweep.records import RopeScaling

MIXER_NAMES: dict[Mixer, str] = {
    "attention": "attention",
    "mamba1": "Mamba-1",
    "mamba2": "Mamba-2",
    "rwkv6": "RWKV-6",
    "rwkv7": "RWKV-7",
    "retention": "retention",
}
_BLOCKS = {"swiglu": "SwiGLU", "geglu": "GeGLU", "gelu": "GELU", "gelu_exact": "GELU"}
_SCALINGS = {"linear": "linear", "ntk": "NTK", "dynamic": "dynamic NTK", "yarn": "YaRN"} | {
    "ntk_by_parts": "NTK by parts",
    "longrope": "LongRoPE",
    "llama3": "llama3",
}


def shape_line(config: ModelConfig) -> str:
    """``decoder, 32 layers of 4096, GQA 32/8 heads of 128, RoPE θ=500000, SwiGLU 14336``..."""
    words = [_kind(config), f"{config.num_layers} layer{_s(config.num_layers)} of"]
    words[-1] += f" {config.hidden_size}" + _mixture(config)
    if config.attention is not None:
        words += _attention(config.attention, config)
    words += _states(config)
    if config.ffn is not None:
        words.append(_block(config.ffn))
    if config.trained_context is not None:
        words.append(f"trained to {tokens(config.trained_context)}")
    return ", ".join(words)


def short_line(config: ModelConfig) -> str:
    """``32 × 4096, 32/8 heads, FFN 14336``: enough to tell sizes of one make apart."""
    words = [f"{config.num_layers} × {config.hidden_size}"]
    if config.attention is not None:
        a = config.attention
        words.append(f"{a.heads}/{a.kv_heads} heads")
    if config.retention is not None:
        words.append(f"{config.retention.heads} heads")
    if config.ffn is not None:
        words.append(f"FFN {config.ffn.size}")
    return ", ".join(words)


def heads_words(attention: Attention) -> str:
    """MHA, GQA or MQA, and the heads."""
    a = attention
    if a.heads == a.kv_heads:
        return f"MHA {a.heads} head{_s(a.heads)} of {a.head_dim}"
    return f"{'MQA' if a.kv_heads == 1 else 'GQA'} {a.heads}/{a.kv_heads} heads of {a.head_dim}"


def tokens(count: int) -> str:
    """``8K`` for 8192; what is no round figure as it is."""
    for size, suffix in ((1 << 20, "M"), (1 << 10, "K")):
        if count >= size and count % size == 0:
            return f"{count // size}{suffix}"
    return f"{count:,}"


def _kind(config: ModelConfig) -> str:
    mixers = set(config.layer_mixers())
    if len(mixers) > 1:
        return "hybrid"
    return "decoder" if mixers == {"attention"} else MIXER_NAMES[config.mixer]


def _mixture(config: ModelConfig) -> str:
    """Which layers are what, in a hybrid."""
    counts = Counter(config.layer_mixers())
    if len(counts) == 1:
        return ""
    shared = " of one block's weights" if config.attention_shared else ""
    kinds = sorted(counts, key=lambda kind: kind == "attention")
    words = [
        f"{counts[kind]} {MIXER_NAMES[kind]}{shared if kind == 'attention' else ''}"
        for kind in kinds
    ]
    return f" ({' + '.join(words)})"


def _attention(attention: Attention, config: ModelConfig) -> list[str]:
    words = [heads_words(attention)]
    if attention.position == "rope":
        turned = attention.rotary_dim
        part = f" on {turned} of {attention.head_dim}" if turned else ""
        words.append(f"RoPE θ={attention.rope_theta:.10g}{part}{_scaling(attention.rope)}")
    elif attention.position == "learned":
        words.append(f"learned positions ({config.max_positions:,})")
    else:
        words.append({"alibi": "ALiBi", "none": "no positions"}[attention.position])
    if attention.window is not None:
        sinks = f" + {attention.sinks} sinks" if attention.sinks else ""
        words.append(f"window {attention.window:,}{sinks}")
    return words


def _scaling(rope: RopeScaling | None) -> str:
    if rope is None:
        return ""
    factor = f" ×{rope.factor:g}" if isinstance(rope.factor, float) else ""
    return f" ({_SCALINGS[rope.rope_type]}{factor})"


def _states(config: ModelConfig) -> list[str]:
    words = []
    if config.mamba is not None:
        words.append(f"state {config.mamba.state_size} × {config.mamba.expand}d")
    for rwkv in (config.rwkv6, config.rwkv7):
        if rwkv is not None:
            words.append(f"{config.hidden_size // rwkv.head_dim} heads of {rwkv.head_dim}")
    if config.retention is not None:
        heads = config.retention.heads
        words.append(f"{heads} heads of {config.hidden_size // heads}")
    return words


def _block(ffn: FeedForward) -> str:
    block = f"{_BLOCKS[ffn.kind]} {ffn.size}"
    if not ffn.experts:
        return block
    every = f" in every {_nth(ffn.experts_every)} layer" if ffn.experts_every > 1 else ""
    return f"{ffn.experts} experts of {block}, {ffn.experts_per_token} a token{every}"


def _nth(count: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(count, f"{count}th")


def _s(count: int) -> str:
    return "" if count == 1 else "s"
