"""transformers under the contract: each of our models that it has an architecture for, and theirs
that hold their state otherwise."""

from __future__ import annotations

from .contract import Case, Contract

SMALL = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16}
BAMBA = SMALL | MAMBA2 | {"model_type": "bamba", "mamba_n_groups": 1, "attn_layer_indices": [1]}
FALCON_H1 = SMALL | MAMBA2 | {"model_type": "falcon_h1", "mamba_d_ssm": 128}

SQUARE = {"heads": 8, "head_dim": 32}  # together as wide as the model
FALCON_40B = {
    "like": "tiny-gqa",
    "norm": "layernorm",
    "residual": "parallel",
    "attention": SQUARE,
    "ffn": {"kind": "gelu_exact", "size": 512},
}
PHI = {
    "like": "tiny-gqa",
    "norm": "layernorm",
    "residual": "parallel_shared_norm",
    "head_bias": True,
    "attention": {"bias": True, "rotary_dim": 16},
    "ffn": {"kind": "gelu", "bias": True},
}
MPT = {
    "like": "tiny-alibi",
    "norm": "layernorm",
    "norm_bias": False,
    "attention": SQUARE | {"kv_heads": 8},
    "ffn": {"kind": "gelu_exact", "size": 1024},
}
JAMBA = {
    "like": "tiny-hybrid",
    "mixer": "mamba1",
    "mamba": {"inner_norms": True},
    "attention": {"position": "none"},
}


class TestTransformers(Contract):
    backend = "transformers"
    cases = (
        Case("tiny-gqa"),
        Case("tiny-moe"),
        Case("tiny-swa", {"window": 24}),
        Case("tiny-mamba1"),
        Case("tiny-mamba2"),
        Case("tiny-hybrid"),
        Case({"like": "tiny-gpt", "hidden_size": 128, "max_positions": 1 << 15}),
        Case(PHI),
        Case(FALCON_40B),
        Case(MPT),
        Case(JAMBA),
        Case(BAMBA),
        Case(FALCON_H1),
    )
