"""What the arithmetic says against what a built model holds and does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from ctxsweep.models import accounting, catalog
from ctxsweep.models.accounting import Calls, Storage
from ctxsweep.models.accounting_parameters import active_parameters
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.language_model import MIXERS, LanguageModel, build
from ctxsweep.models.layers import StateSpec

CPU = torch.device("cpu")
BUILT = [name for name in catalog.names() if catalog.load_config(name).mixer in MIXERS]
TINY = [name for name in BUILT if name.startswith("tiny-")]
PART_OF = {"embedding": "embedding", "positions": "embedding", "head": "head"}


def part(name: str) -> str:
    """Which part a parameter of a ``LanguageModel`` belongs to."""
    top = name.split(".")[0]
    if top in PART_OF:
        return PART_OF[top]
    if top != "layers":
        return "norm"
    inner = name.split(".")[2]
    return "norm" if inner.endswith("_norm") else inner


def transformer(**fields: Any) -> ModelConfig:
    return ModelConfig(
        **{
            "name": "t",
            "mixer": "attention",
            "vocab_size": 50,
            "hidden_size": 32,
            "num_layers": 2,
            "attention": {"heads": 4, "kv_heads": 2, "head_dim": 8},
            "ffn": {"size": 48},
            **fields,
        }
    )


@pytest.mark.parametrize("name", BUILT)
def test_parameters_by_part_are_those_of_the_built_model(name: str) -> None:
    config = catalog.load_config(name)
    with torch.device("meta"):
        model = LanguageModel(config)
    counted: Counter[str] = Counter()
    for tensor_name, tensor in model.named_parameters():
        counted[part(tensor_name)] += tensor.numel()
    said = accounting.parameters(config)
    assert {key: n for key, n in said.items() if n} == dict(counted)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention": {"heads": 4, "kv_heads": 1, "head_dim": 8, "bias": True}},
        {"ffn": {"size": 48, "bias": True}, "tied_embeddings": True},
        {"ffn": {"kind": "gelu", "size": 48, "bias": True}, "norm": "layernorm"},
        {"ffn": {"kind": "gelu", "size": 48, "experts": 3}},
        {"ffn": None},
        {"ffn": {"kind": "geglu", "size": 48}, "embedding_scale": 5.0},
        {"norm": "layernorm", "norm_bias": False, "residual": "parallel"},
        {"norm": "layernorm", "residual": "parallel_shared_norm", "head_bias": True},
        {"norm": "layernorm", "embedding_norm": True},
        {"num_layers": 3, "ffn": {"size": 48, "experts": 4, "experts_every": 2}},
        {
            "mixer": "mamba1",
            "num_layers": 8,
            "attention_every": 4,
            "attention_offset": 1,
            "mamba": {"inner_norms": True},
        },
        {
            "mixer": "mamba2",
            "num_layers": 6,
            "attention_every": 2,
            "attention_shared": True,
            "mamba": {"head_dim": 16},
            "ffn": {"size": 48, "layers": "attention"},
        },
    ],
)
def test_parameters_of_variants(fields: dict[str, Any]) -> None:
    config = transformer(**fields)
    built = sum(p.numel() for p in LanguageModel(config).parameters())
    assert sum(accounting.parameters(config).values()) == built


@pytest.mark.parametrize("kv_dtype", ["auto", "fp8_e4m3", "int8"])
@pytest.mark.parametrize("name", TINY)
def test_cache_bytes_are_those_of_the_tensors(name: str, kv_dtype: Any) -> None:
    config = catalog.load_config(name)
    if config.attention is not None:
        attention = config.attention.model_copy(update={"window": 40} if "swa" in name else {})
        config = config.model_copy(update={"attention": attention})
    element = {"auto": torch.bfloat16, "fp8_e4m3": torch.float8_e4m3fn, "int8": torch.int8}
    storage = Storage("bfloat16", kv_dtype, 16)
    model = build(config, 0, torch.bfloat16, CPU)
    state = model.new_state(StateSpec(2, 200, 50, 16, element[kv_dtype], torch.bfloat16, CPU))
    tokens = torch.randint(4096, (2, 120))
    with torch.inference_mode():
        for call in tokens.split([50, 1, 30, 1, 1, 37], dim=1):
            model(call, state)
            assert state.used_bytes == accounting.cache_bytes(config, storage, state.length, 2)


def counted_flops(model: LanguageModel, call: torch.Tensor, state: Any) -> float:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(call, state)
    return float(counter.get_total_flops())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attention": {"heads": 4, "kv_heads": 4, "head_dim": 16}},
        {"attention": {"heads": 4, "kv_heads": 1, "head_dim": 8, "window": 12}},
        {"ffn": {"kind": "gelu", "size": 40}, "norm": "layernorm"},
        {"ffn": {"size": 20, "experts": 5, "experts_per_token": 2}},
        {"num_layers": 4, "ffn": {"size": 20, "experts": 5, "experts_every": 2}},
        {"ffn": {"kind": "geglu", "size": 40}, "residual": "parallel_shared_norm"},
    ],
)
def test_decode_flops_are_those_that_torch_counts(fields: dict[str, Any]) -> None:
    """Ops in torch, since the counter does not see into C."""
    config = transformer(**fields)
    model = build(config, 0, torch.float32, CPU)
    model.impl = "torch"
    state = model.new_state(StateSpec(3, 64, 40, 4, torch.float32, torch.float32, CPU))
    with torch.inference_mode():
        model(torch.randint(50, (3, 40)), state)
    counted = counted_flops(model, torch.randint(50, (3, 1)), state)
    assert accounting.flops(config, accounting.decode_call(config, 40), 3) == counted


@pytest.mark.parametrize("experts", [0, 5])
def test_prefill_flops_outside_of_attention_are_those_that_torch_counts(experts: int) -> None:
    """The attention op also multiplies what its mask then removes, so it is taken out."""
    config = transformer(ffn={"size": 20, "experts": experts})
    model = build(config, 0, torch.float32, CPU)
    for layer in model.layers:
        layer.mixer.forward = lambda x, state, step, mixer=layer.mixer: mixer.out(
            mixer.qkv(x)[..., : mixer.out.in_features]
        )
    state = model.new_state(StateSpec(2, 64, 40, 4, torch.float32, torch.float32, CPU))
    counted = sum(
        counted_flops(model, call, state) for call in torch.randint(50, (2, 40)).split(16, dim=1)
    )
    calls = accounting.prefill_calls(config, 40, 16)
    without_pairs = replace(calls, pairs=0)
    assert accounting.flops(config, without_pairs, 2) == counted


@given(
    context=st.integers(1, 90),
    chunk=st.integers(1, 100),
    window=st.none() | st.integers(1, 100),
)
def test_pairs_and_past_equal_the_sums_they_stand_for(
    context: int, chunk: int, window: int | None
) -> None:
    config = transformer(attention={"heads": 2, "kv_heads": 1, "head_dim": 8, "window": window})
    width = window or 10**9
    calls = accounting.prefill_calls(config, context, chunk)
    starts = range(0, context, chunk)
    assert calls == Calls(
        count=len(starts),
        tokens=context,
        past=sum(min(start, width - 1) for start in starts),
        pairs=sum(min(query + 1, width) for query in range(context)),
        call_tokens=chunk,
    )
    assert calls.last_tokens == context - starts[-1]
    seen = min(context, width - 1)
    assert accounting.decode_call(config, context) == Calls(1, 1, seen, seen + 1, 1)


def test_decode_bytes_are_weights_and_cache() -> None:
    config = catalog.load_config("tiny-gqa")
    cost = accounting.cost(config, Storage("bfloat16", "fp8_e4m3", 256), 1000, 3, 512)
    parts = accounting.parameters(config)
    weights = sum(parts.values()) - parts["embedding"] + 3 * config.hidden_size
    token_bytes = 2 * 2 * 32
    assert cost.decode_bytes == 2 * weights + 3 * 2 * 1001 * token_bytes
    assert cost.cache_bytes == 3 * 2 * 1024 * token_bytes
    assert cost.cache_bytes_per_token == 2 * token_bytes
    assert cost.parameters == sum(parts.values())


def test_a_window_bounds_what_decode_reads_and_adds_nothing_past_it() -> None:
    config = catalog.load_config("tiny-swa")
    storage = Storage("float32")
    near, far, further = (accounting.cost(config, storage, n) for n in (2048, 8192, 65536))
    assert near.cache_bytes_per_token == 1024
    assert accounting.cache_bytes_per_token(config, storage, 4094) == 1024
    assert accounting.cache_bytes_per_token(config, storage, 4095) == 0  # the next token sees W - 1
    assert near.decode_bytes < far.decode_bytes
    assert far.cache_bytes_per_token == 0
    for field in ("decode_bytes", "decode_flops", "cache_bytes"):
        assert getattr(far, field) == getattr(further, field)


def test_bytes_of_experts_are_of_those_touched() -> None:
    config = catalog.load_config("tiny-moe")
    storage, expert = Storage("float32"), 3 * 256 * 224 * 4
    read = [accounting.cost(config, storage, 1024, batch).decode_bytes for batch in (1, 512)]
    dense = accounting.parameters(config)
    every = 4 * (sum(dense.values()) - dense["embedding"])
    cache = 1025 * 1024
    # One token goes through 2 of 8 experts in each of 2 layers; 512 tokens through all.
    assert read[0] == pytest.approx(every - 2 * 6 * expert + cache + 256 * 4)
    assert read[1] == pytest.approx(every + 512 * (cache + 256 * 4), rel=1e-9)
    # A short last call has its own expectation: 1025 tokens as 512 + 512 + 1.
    calls = accounting.prefill_calls(config, 1025, 512)
    moved = accounting.least_bytes(config, storage, calls)
    tokens = 1025 * 256 * 4 + (1025 + 512 + 1024) * 1024
    assert moved == pytest.approx(3 * every - 2 * 6 * expert + tokens, rel=1e-9)


def test_parts_of_flops_and_bytes_are_the_whole() -> None:
    for name in TINY:
        config, storage = catalog.load_config(name), Storage("bfloat16")
        for calls in (
            accounting.prefill_calls(config, 700, 256),
            accounting.decode_call(config, 9),
        ):
            parts = accounting.flops_by_part(config, calls, 2)
            assert parts.total == accounting.flops(config, calls, 2)
            assert (parts.attention > 0) == ("attention" in config.layer_mixers())
            assert (parts.recurrent > 0) == (set(config.layer_mixers()) != {"attention"})
            moved = accounting.least_bytes_by_part(config, storage, calls, 2)
            assert moved.total == accounting.least_bytes(config, storage, calls, 2)


def test_a_block_that_layers_share_is_held_once_and_read_for_each() -> None:
    sections: dict[str, Any] = {
        "mixer": "mamba2",
        "num_layers": 6,
        "attention_every": 2,
        "mamba": {"head_dim": 16},
        "ffn": {"size": 48, "layers": "attention"},
    }
    apart = transformer(**sections)
    shared = transformer(**sections, attention_shared=True)
    block = 32 * 8 * 2 * (4 + 2) + 3 * 32 * 48 + 2 * 32
    held = [sum(accounting.parameters(config).values()) for config in (apart, shared)]
    assert held[0] - held[1] == 2 * block
    costs = [accounting.cost(config, Storage("float32"), 100) for config in (apart, shared)]
    assert costs[0].decode_bytes == costs[1].decode_bytes
    assert costs[0].decode_flops == costs[1].decode_flops
    assert costs[0].cache_bytes == costs[1].cache_bytes


def test_active_parameters_are_those_a_token_goes_through() -> None:
    dense = transformer()
    assert active_parameters(dense) == sum(accounting.parameters(dense).values())
    ffn = {"size": 20, "experts": 5, "experts_per_token": 2, "experts_every": 2}
    config = transformer(num_layers=4, ffn=ffn)
    unused = 2 * 3 * (3 * 32 * 20)  # two layers with experts, three of five not chosen
    total = sum(accounting.parameters(config).values())
    assert active_parameters(config) == total - unused


def test_only_layers_with_experts_leave_some_untouched() -> None:
    """In an RWKV-7 hybrid the attention layers alone have the ffn section."""
    sections = {"attention_every": 3, "rwkv7": {"head_dim": 16}, "norm": "layernorm"}
    ffn = {"size": 48, "experts": 8, "experts_per_token": 2}
    config = transformer(mixer="rwkv7", num_layers=3, ffn=ffn, **sections)
    read = [
        accounting.least_bytes(config, Storage("float32"), Calls(1, tokens, 0, 0, tokens))
        for tokens in (1, 1000)
    ]
    per_token = 4 * 32 + 4 * 2 * 2 * 8  # embedding row, keys and values
    assert read[1] - read[0] == pytest.approx(999 * per_token + 6 * 3 * 32 * 48 * 4)


def test_the_hybrid_grows_by_its_attention_layers_alone() -> None:
    storage = Storage("float32")
    hybrid, full = (
        accounting.cost(catalog.load_config(name), storage, 4096)
        for name in ("tiny-hybrid", "tiny-gqa")
    )
    assert 2 * hybrid.cache_bytes_per_token == full.cache_bytes_per_token
    pure = accounting.cost(catalog.load_config("tiny-mamba2"), storage, 4096)
    assert hybrid.cache_bytes == full.cache_bytes // 2 + pure.cache_bytes // 2


@pytest.mark.parametrize(
    ("hidden", "layers", "ranks"),
    [(2048, 24, (32, 64)), (2560, 32, (32, 64)), (4096, 32, (64, 128))],
)
def test_rwkv6_has_the_parameters_of_its_paper(
    hidden: int, layers: int, ranks: tuple[int, int]
) -> None:
    """arXiv 2404.05892 gives 2 D V + 13 D² L + D (464 L + 4) for ranks 32 and 64."""
    mix, decay = ranks
    section = {"mix_rank": mix, "decay_rank": decay}
    config = ModelConfig(
        name="finch",
        mixer="rwkv6",
        norm="layernorm",
        rwkv6=section,
        vocab_size=65536,
        hidden_size=hidden,
        num_layers=layers,
    )
    per_layer = 464 + 10 * (mix - 32) + 2 * (decay - 64)
    published = 2 * hidden * 65536 + 13 * hidden**2 * layers + hidden * (per_layer * layers + 4)
    assert sum(accounting.parameters(config).values()) == published


def test_rwkv6_costs_the_same_at_every_context() -> None:
    config, storage = catalog.load_config("tiny-rwkv6"), Storage("bfloat16")
    near, far = (accounting.cost(config, storage, n, 1, 512) for n in (1024, 65536))
    # Two layers: two shifts in the model's type, and a float32 matrix for each of four heads.
    assert near.cache_bytes == far.cache_bytes == 2 * (2 * 256 * 2 + 4 * 64 * 64 * 4)
    assert near.decode_flops == far.decode_flops
    # Beside the matrix products with weights: r S (2), the decay of S (1) and k v (2).
    parts = accounting.parameters(config)
    linears = parts["mixer"] + parts["ffn"] - 2 * (10 + 2) * 256 + parts["head"]
    assert near.decode_flops == 2 * linears + 2 * 5 * 4 * 64 * 64
