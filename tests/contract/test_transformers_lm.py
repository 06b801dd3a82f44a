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
        Case(BAMBA),
        Case(FALCON_H1),
    )
