"""What every recurrent model promises: any split gives the same logits, rows of a batch are
independent, the state never grows, and the arithmetic of its costs is that of the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ctxsweep.models import accounting_recurrent as accounting
from ctxsweep.models import accounting_rwkv
from ctxsweep.models.config import (
    Attention,
    FeedForward,
    Mamba,
    ModelConfig,
    Retention,
    Rwkv6,
    Rwkv7,
)
from ctxsweep.models.language_model import LanguageModel, ModelState, build
from ctxsweep.models.layers import StateSpec
from ctxsweep_kernels.retention import retention
from ctxsweep_kernels.ssd import ssd_chunk_scan
from ctxsweep_kernels.wkv6 import wkv6
from ctxsweep_kernels.wkv7 import wkv7

CPU = torch.device("cpu")
VOCABULARY, HIDDEN, LAYERS = 256, 128, 4
RWKV6 = Rwkv6(head_dim=32, mix_rank=8, decay_rank=12)
RWKV7 = Rwkv7(head_dim=32, decay_rank=16, rate_rank=12, value_rank=8, gate_rank=24)
MAMBA2 = Mamba(state_size=32, head_dim=32, groups=2)


def _config(name: str, **fields: Any) -> ModelConfig:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_layers": LAYERS}
    return ModelConfig(name=name, **{**sizes, **fields})


PURE = {
    "mamba1": _config("mamba1", mixer="mamba1", mamba=Mamba(state_size=8, conv_kernel=3)),
    "mamba2": _config("mamba2", mixer="mamba2", mamba=MAMBA2),
    "rwkv6": _config("rwkv6", mixer="rwkv6", norm="layernorm", rwkv6=RWKV6),
    "rwkv7": _config("rwkv7", mixer="rwkv7", norm="layernorm", rwkv7=RWKV7),
    "retention": _config(
        "retention",
        mixer="retention",
        norm="layernorm",
        retention=Retention(heads=4),
        ffn=FeedForward(kind="gelu", size=256),
    ),
}
HYBRID = _config(
    "hybrid",
    mixer="mamba2",
    mamba=MAMBA2,
    attention_every=2,
    attention=Attention(heads=4, kv_heads=2, head_dim=32),
    ffn=FeedForward(size=192),
)
RWKV_HYBRID = _config(
    "rwkv-hybrid",
    mixer="rwkv6",
    norm="layernorm",
    rwkv6=RWKV6,
    attention_every=2,
    attention=Attention(heads=4, kv_heads=2, head_dim=32),
    ffn=FeedForward(size=192),
)
ALL = PURE | {"hybrid": HYBRID, "rwkv-hybrid": RWKV_HYBRID}


def _spec(batch_size: int, dtype: torch.dtype = torch.float32) -> StateSpec:
    return StateSpec(batch_size, 1024, 512, 16, dtype, dtype, CPU)


def _model(name: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Linear maps are 3 × their initial size, so that a lost state shows far above rounding."""
    model = build(ALL[name], 5, dtype, CPU)
    for module in model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.mul_(3)
    return model


def _tokens(batch_size: int, count: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch_size, count), generator=torch.manual_seed(6))


def _logits(model: LanguageModel, tokens: Tensor, segments: list[int]) -> tuple[Tensor, ModelState]:
    state = model.new_state(_spec(tokens.shape[0], model.head.weight.dtype))
    pieces = tokens.split(segments, dim=1)
    return torch.cat([model(piece, state, all_logits=True) for piece in pieces], dim=1), state


@pytest.mark.parametrize(
    "segments", [[1] * 203, [64] * 3 + [11], [1, 100, 1, 37, 64], [202, 1]], ids=len
)
@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [(name, torch.float32, 1e-4) for name in ALL] + [(name, torch.float64, 1e-10) for name in PURE],
)
def test_any_split_gives_the_same_logits(
    name: str, segments: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    model, tokens = _model(name, dtype), _tokens(2, 203)
    whole, _ = _logits(model, tokens, [203])
    split, _ = _logits(model, tokens, segments)
    assert whole.std() > 0.1
    assert (split - whole).abs().max().item() <= tolerance


@pytest.mark.parametrize("name", ALL)
def test_a_batch_is_its_rows(name: str) -> None:
    model, tokens = _model(name), _tokens(4, 150)
    segments = [100, 48, 1, 1]
    together, state = _logits(model, tokens, segments)
    apart = [_logits(model, row[None], segments) for row in tokens]
    assert (together - torch.cat([logits for logits, _ in apart])).abs().max().item() <= 1e-4
    assert state.used_bytes == sum(row.used_bytes for _, row in apart)


@pytest.mark.parametrize("name", PURE)
def test_the_past_matters_and_can_be_returned_to(name: str) -> None:
    model, tokens = _model(name), _tokens(1, 88)
    state = model.new_state(_spec(1))
    model(tokens[:, :80], state)
    mark = state.snapshot()
    first = model(tokens[:, 80:88], state)
    state.restore(mark)
    again = model(tokens[:, 80:88], state)
    state.clear()
    alone = model(tokens[:, 80:88], state)
    assert torch.equal(first, again)
    assert (first - alone).abs().max().item() > 1e-2


@pytest.mark.parametrize("name", PURE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_state_bytes_never_change_and_are_those_of_the_formula(name: str, dtype: str) -> None:
    model, tokens = _model(name, getattr(torch, dtype)), _tokens(3, 300)
    state = model.new_state(_spec(3, getattr(torch, dtype)))
    expected = 3 * LAYERS * accounting.state_bytes(ALL[name], name, dtype)
    places = _places(state)
    for piece in tokens.split([200, 1, 98, 1], dim=1):
        assert state.used_bytes == state.reserved_bytes == expected
        model(piece, state)
    assert state.used_bytes == expected
    assert _places(state) == places, "a state moved: its memory would be allocated anew"


def _places(state: ModelState) -> list[int]:
    parts = [part for layer in state.layers for part in layer]
    return [tensor.data_ptr() for part in parts for tensor in part.tensors.values()]


@pytest.mark.parametrize("name", PURE)
def test_parameters_are_those_of_the_formula(name: str) -> None:
    for index, layer in enumerate(_model(name).layers):
        count = sum(parameter.numel() for parameter in layer.mixer.parameters())
        assert count == accounting.mixer_parameters(ALL[name], name, index)
        if name in ("rwkv6", "rwkv7"):
            count = sum(parameter.numel() for parameter in layer.ffn.parameters())
            assert count == accounting.ffn_parameters(ALL[name])


# The counter sees matrix products alone. It misses the formula's elementwise part (convolution;
# the whole of Mamba-1's scan; in decode decays and outer products) and RWKV-7's triangular solve;
# the formula leaves out RWKV-7's running sums of decays, which run as a matrix product.
@pytest.mark.parametrize("tokens", [256, 1], ids=["prefill", "decode"])
@pytest.mark.parametrize("name", PURE)
def test_flops_are_those_counted_by_torch(name: str, tokens: int) -> None:
    model = _model(name)
    state = model.new_state(_spec(1))
    in_place = {torch.ops.aten.baddbmm_: _baddbmm_flops}  # not on the counter's own list
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        model(_tokens(1, tokens), state)
    counted = counter.get_total_flops() - 2 * HIDDEN * VOCABULARY
    ffn = ALL[name].ffn
    if ffn is not None:
        counted -= LAYERS * 4 * HIDDEN * ffn.size * tokens
    expected = sum(
        accounting.flops(ALL[name], name, tokens, calls=1, layer=layer) for layer in range(LAYERS)
    )
    unseen = LAYERS * tokens * _elementwise_flops(ALL[name], decode=tokens == 1)
    assert counted == pytest.approx(expected - unseen, rel=0.02)
    assert unseen <= 0.25 * expected


def _baddbmm_flops(total: torch.Size, a: torch.Size, b: torch.Size, **_: object) -> int:
    return 2 * a.numel() * b[2]


def _elementwise_flops(config: ModelConfig, decode: bool) -> int:
    """Of the formula, what does not run as a matrix product."""
    if config.mamba is not None:
        inner, mamba = HIDDEN * config.mamba.expand, config.mamba
        if config.mixer == "mamba1":
            # h C is a product
            return inner * (2 * mamba.conv_kernel + 4 * mamba.state_size)
        channels = inner + 2 * mamba.groups * mamba.state_size
        outer = 3 * inner * mamba.state_size if decode else 0
        return 2 * mamba.conv_kernel * channels + outer
    if config.rwkv6 is not None:
        return HIDDEN * 3 * config.rwkv6.head_dim if decode else 0
    if config.rwkv7 is not None:
        return HIDDEN * (5 * config.rwkv7.head_dim if decode else accounting_rwkv.WKV7_CHUNK)
    assert config.retention is not None
    value = HIDDEN * config.retention.value_expand
    return 3 * HIDDEN * value // config.retention.heads if decode else 0


@pytest.mark.parametrize(
    ("op", "chunk"),
    [
        (ssd_chunk_scan, accounting.SSD_CHUNK),
        (wkv6, accounting_rwkv.WKV6_CHUNK),
        (wkv7, accounting_rwkv.WKV7_CHUNK),
        (retention, accounting.RETENTION_CHUNK),
    ],
)
def test_formulas_assume_the_ops_chunks(op: Callable[..., object], chunk: int) -> None:
    assert inspect.signature(op).parameters["chunk"].default == chunk
