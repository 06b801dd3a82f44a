"""Families of transformers with state-space layers, and hybrids, as read from a ``config.json``."""

from __future__ import annotations

from typing import Any

from ctxsweep.models.hf_words import Fields, Json, count, head_dim_of, only, trained_length
from ctxsweep.models.rope_words import read_rope
from ctxsweep.models.sections import step_rank


def read_mamba(raw: Json) -> Fields:
    """Mamba-1 as transformers stores it."""
    only(raw, "hidden_act", "silu")
    only(raw, "use_bias", False)
    only(raw, "use_conv_bias", True)
    hidden = count(raw, "hidden_size")
    return {
        "mixer": "mamba1",
        **_stack(raw, tied=True),
        "mamba": {
            "state_size": raw.get("state_size", 16),
            "expand": raw.get("expand", 2),
            "conv_kernel": raw.get("conv_kernel", 4),
            "dt_rank": _rank(raw, "time_step_rank", hidden),
        },
    }


def _rank(raw: Json, key: str, hidden: int) -> Any:
    """The rank of the step's projection; ``auto`` is a sixteenth of the width."""
    rank = raw.get(key, "auto")
    if isinstance(rank, str) and rank != "auto":
        raise ValueError(f"{key} = {rank!r} must be auto or a whole number of at least 1")
    return step_rank(hidden) if rank == "auto" else rank


def read_mamba2(raw: Json) -> Fields:
    """Mamba-2 as transformers stores it."""
    only(raw, "hidden_act", "silu")
    only(raw, "use_bias", False)
    only(raw, "use_conv_bias", True)
    only(raw, "rms_norm", True)
    _only_unlimited_steps(raw)
    return {
        "mixer": "mamba2",
        **_stack(raw, tied=False),
        "mamba": {
            "state_size": raw.get("state_size", 128),
            "expand": raw.get("expand", 2),
            "conv_kernel": raw.get("conv_kernel", 4),
            "head_dim": raw.get("head_dim", 64),
            "groups": raw.get("n_groups", 8),
        },
    }


# What transformers takes for absent keys: experts, and no rotary positions.
_GRANITE: Json = {
    "num_local_experts": 8,
    "position_embedding_type": None,
    "attention_multiplier": 1.0,
}


def read_granite_hybrid(raw: Json) -> Fields:
    """Granite 4 without experts: Mamba-2 or attention with RoPE in every layer, then SwiGLU."""
    raw = {**_GRANITE, **raw}
    only(raw, "hidden_act", "silu")
    only(raw, "num_local_experts", 0)
    only(raw, "position_embedding_type", "rope")
    only(raw, "mamba_conv_bias", True)
    only(raw, "mamba_proj_bias", False)
    _only_unlimited_steps(raw)
    for key in ("embedding_multiplier", "logits_scaling", "residual_multiplier"):
        only(raw, key, 1, 1.0)
    heads, hidden = count(raw, "num_attention_heads"), count(raw, "hidden_size")
    head_dim = raw.get("head_dim") or head_dim_of(raw, hidden, heads)
    if abs(raw["attention_multiplier"] - head_dim**-0.5) > 1e-6:
        raise ValueError(
            f"attention_multiplier = {raw['attention_multiplier']} is not built; valid: "
            f"{head_dim**-0.5:g} (head_dim ** -0.5)"
        )
    rope, trained = read_rope(raw, head_dim, 1e4)
    return {
        "mixer": "mamba2",
        **_hybrid(raw, hidden),
        **_places(raw["layer_types"]),
        "trained_context": trained,
        "attention": {
            "heads": heads,
            "kv_heads": raw.get("num_key_value_heads") or heads,
            "head_dim": head_dim,
            **rope,
            "bias": raw.get("attention_bias", False),
        },
        "ffn": {"kind": "swiglu", "size": raw["shared_intermediate_size"]},
        "mamba": {
            "state_size": raw["mamba_d_state"],
            "expand": raw.get("mamba_expand", 2),
            "conv_kernel": raw.get("mamba_d_conv", 4),
            "head_dim": raw["mamba_d_head"],
            "groups": raw.get("mamba_n_groups", 1),
        },
    }


_JAMBA: Json = {
    "num_key_value_heads": 8,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "max_position_embeddings": 262144,
}


def read_jamba(raw: Json) -> Fields:
    """Jamba: Mamba-1 with norms of step, B and C; attention without positions; some experts."""
    raw = {**_JAMBA, **raw}
    only(raw, "hidden_act", "silu")
    only(raw, "mamba_conv_bias", True)
    only(raw, "mamba_proj_bias", False)
    heads, hidden = count(raw, "num_attention_heads"), count(raw, "hidden_size")
    every, first = count(raw, "attn_layer_period"), raw["attn_layer_offset"]
    return {
        "mixer": "mamba1",
        **_hybrid(raw, hidden),
        "attention_every": every,
        **({} if first == every - 1 else {"attention_offset": first}),
        "trained_context": trained_length(raw, "max_position_embeddings"),
        "attention": {
            "heads": heads,
            "kv_heads": raw["num_key_value_heads"] or heads,
            "head_dim": raw.get("head_dim") or head_dim_of(raw, hidden, heads),
            "position": "none",
        },
        "ffn": {"kind": "swiglu", "size": raw["intermediate_size"], **_jamba_experts(raw)},
        "mamba": {
            "state_size": raw.get("mamba_d_state", 16),
            "expand": raw.get("mamba_expand", 2),
            "conv_kernel": raw.get("mamba_d_conv", 4),
            "dt_rank": _rank(raw, "mamba_dt_rank", hidden),
            "inner_norms": True,
        },
    }


def _jamba_experts(raw: Json) -> Fields:
    """Experts in the k-th, 2k-th, ... layers; one expert is a dense block."""
    if raw["num_experts"] == 1:
        return {}
    every = count(raw, "expert_layer_period")
    only(raw, "expert_layer_offset", every - 1)
    return {
        "experts": count(raw, "num_experts"),
        "experts_per_token": raw["num_experts_per_tok"],
        "experts_every": every,
        "router": "all",
    }


def _hybrid(raw: Json, hidden: int) -> Fields:
    return {
        "vocab_size": raw["vocab_size"],
        "hidden_size": hidden,
        "num_layers": raw["num_hidden_layers"],
        "norm": "rmsnorm",
        "norm_eps": raw.get("rms_norm_eps", 1e-6),
        "tied_embeddings": raw.get("tie_word_embeddings", False),
    }


def _places(kinds: object) -> Fields:
    """The step between attention layers and the first of them; other orders are not built."""
    if not isinstance(kinds, list):
        raise ValueError(f"layer_types = {kinds!r} must be a list of the layers' kinds")
    attends = [kind in ("attention", "full_attention") for kind in kinds]
    first = attends.index(True) if True in attends else len(attends)
    for every in range(max(2, first + 1), len(attends) + 1):
        if attends == [i % every == first for i in range(len(attends))]:
            own = {} if first == every - 1 else {"attention_offset": first}
            return {"attention_every": every, **own}
    raise ValueError(
        f"layer_types = {kinds} is not built; valid: attention in every k-th layer, k > 1"
    )


def _only_unlimited_steps(raw: Json) -> None:
    # JSON has no infinity; transformers 5 writes the second.
    only(raw, "time_step_limit", [0.0, float("inf")], [0.0, {"__float__": "Infinity"}])


def _stack(raw: Json, tied: bool) -> Fields:
    return {
        "vocab_size": raw["vocab_size"],
        "hidden_size": raw["hidden_size"],
        "num_layers": raw["num_hidden_layers"],
        "norm": "rmsnorm",
        "norm_eps": raw.get("layer_norm_epsilon", 1e-5),
        "tied_embeddings": raw.get("tie_word_embeddings", tied),
    }
