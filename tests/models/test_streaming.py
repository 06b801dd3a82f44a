"""Attention sinks against the cache of StreamingLLM's paper, and against themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ctxsweep.models import accounting, streaming
from ctxsweep.models.accounting import Calls, Storage
from ctxsweep.models.config import Attention, ModelConfig
from ctxsweep.models.hf_write import NoFamily, hf_config
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.layers import StateSpec
from ctxsweep_kernels.dispatch import UnsupportedImplementation

CPU = torch.device("cpu")
HEADS, KV_HEADS, DIM = 6, 2, 16
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
SPANS = [(20, 4), (1, 1), (3, 8), (64, 1), (300, 5)]  # window, sinks
Feed = Callable[..., Tensor]


def config(**attention: Any) -> ModelConfig:
    heads = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": DIM}
    return ModelConfig(
        name="small",
        mixer="attention",
        vocab_size=97,
        hidden_size=64,
        num_layers=2,
        attention={**heads, **attention},
        ffn={"size": 96},
    )


def small(dtype: torch.dtype = torch.float32, **attention: Any) -> LanguageModel:
    """Weights large enough for attention to be uneven: a wrong angle shows."""
    model = build(config(**attention), 0, torch.float32, CPU)
    for layer in model.layers:
        layer.mixer.qkv.weight.mul_(3)
    return model.to(dtype)


def tokens(batch: int, length: int, seed: int = 3) -> Tensor:
    return torch.randint(97, (batch, length), generator=torch.Generator().manual_seed(seed))


def in_and_out(model: LanguageModel, prompt: Tensor, feed: Feed, split: Any) -> tuple[Tensor, ...]:
    """What the first mixer was given and what it made of it, ``[B, T, hidden]``."""
    seen: list[Tensor] = []
    made: list[Tensor] = []
    mixer = model.layers[0].mixer
    with (
        mixer.register_forward_pre_hook(lambda _, args: seen.append(args[0])),
        mixer.register_forward_hook(lambda _, __, out: made.append(out)),
    ):
        feed(model, prompt, split)
    return torch.cat(seen, 1), torch.cat(made, 1)


def rotated(x: Tensor, position: int, inv_freq: Tensor, factor: float) -> Tensor:
    """One token's heads ``[H, D]`` as complex numbers turned by the position."""
    half = len(inv_freq)
    pairs = torch.complex(x[:, :half], x[:, half : 2 * half])
    turned = pairs * torch.polar(torch.full_like(inv_freq, factor), position * inv_freq)
    return torch.cat([turned.real, turned.imag, x[:, 2 * half :]], dim=1)


def papers_attention(model: LanguageModel, x: Tensor) -> Tensor:
    """Token by token in float64 over a cache of unrotated keys, one sequence ``[T, hidden]``.

    The cache drops its oldest token that is no sink; whatever is in it is turned by its index.
    """
    mixer, a = model.layers[0].mixer, model.config.attention
    turning = model.config.turning(len(x))
    inv_freq = torch.as_tensor(turning.inv_freq, dtype=torch.float64)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    made = []
    for row in x.double() @ mixer.qkv.weight.double().T:
        q, k, v = row.view(-1, DIM).split([HEADS, KV_HEADS, KV_HEADS])
        keys.append(k)
        values.append(v)
        if len(keys) > a.sinks + a.window:
            del keys[a.sinks], values[a.sinks]
        turned = [
            rotated(key, place, inv_freq, turning.attention_factor)
            for place, key in enumerate(keys)
        ]
        q, k = rotated(q, len(keys) - 1, inv_freq, turning.attention_factor), torch.stack(turned)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, torch.stack(values)))
        weights = (torch.einsum("hd,nhd->hn", q, k) * DIM**-0.5).softmax(-1)
        made.append(torch.einsum("hn,nhd->hd", weights, v).flatten())
    return torch.stack(made) @ mixer.out.weight.double().T


@pytest.mark.parametrize("split", [None, 1, 7, [50, 1, 1, 18, 20]])
@pytest.mark.parametrize(
    "attention",
    [
        {"window": 20, "sinks": 4},
        {"window": 1, "sinks": 1},
        {"window": 3, "sinks": 9},
        {"window": 24, "sinks": 4, "rope": YARN},
        {"window": 20, "sinks": 2, "rotary_dim": 8, "rope_theta": 100.0},
    ],
)
def test_it_equals_the_papers_cache(attention: dict[str, Any], split: Any, feed: Feed) -> None:
    x, made = in_and_out(small(**attention), tokens(1, 90), feed, split)
    wanted = papers_attention(small(**attention), x[0])
    assert (made[0] - wanted).abs().max() <= 1e-5 * wanted.std()


def test_the_true_distance_to_a_sink_would_be_seen(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, attend = small(window=20, sinks=4), streaming.attend
    monkeypatch.setattr(streaming, "attend", lambda near, far, *rest: attend(near, near, *rest))
    x, made = in_and_out(model, tokens(1, 90), feed, None)
    wanted = papers_attention(model, x[0])
    error = (made[0] - wanted).abs().amax(-1) / wanted.std()
    assert error[:24].max() <= 1e-5
    assert error[24:].median() >= 0.1


@pytest.mark.parametrize(("window", "sinks"), SPANS)
def test_nothing_is_lost_before_the_cache_is_full(window: int, sinks: int, feed: Feed) -> None:
    prompt, span = tokens(2, 400), window + sinks
    full = feed(small(), prompt)
    streamed = feed(small(window=window, sinks=sinks), prompt)
    difference = (streamed - full).abs().amax((0, 2)) / full.std()
    assert difference[:span].max() <= 2e-5
    assert difference[span] >= 1e-3


@pytest.mark.parametrize(("window", "sinks"), SPANS)
def test_any_split_gives_the_same_logits(window: int, sinks: int, feed: Feed) -> None:
    model, prompt = small(window=window, sinks=sinks), tokens(2, 350)
    whole = feed(model, prompt)
    for splits in (1, 7, 257, [2, 3, 1, 1, 270, 1, 72]):
        assert (feed(model, prompt, splits) - whole).abs().max() <= 2e-5 * whole.std()


@pytest.mark.parametrize(
    "kv_dtype",
    [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8],
)
def test_a_narrow_cache_is_rounded_as_the_paged_one(kv_dtype: torch.dtype, feed: Feed) -> None:
    """All but rare ties, which one last bit of a key rounds the other way."""
    prompt, model = tokens(2, 400), small(window=200, sinks=4)
    exact = feed(model, prompt)
    full = feed(small(), prompt, kv_dtype=kv_dtype)
    whole, split = (feed(model, prompt, splits, kv_dtype=kv_dtype) for splits in (None, 1))
    assert ((whole - full)[:, :204].abs() / exact.std()).quantile(0.9) <= 1e-4
    assert ((whole - split).abs() / exact.std()).quantile(0.9) <= 1e-4
    assert ((whole - exact).abs() / exact.std()).quantile(0.9) >= 3e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_cost_no_more_than_their_rounding(dtype: torch.dtype, feed: Feed) -> None:
    prompt = tokens(2, 300)
    exact = feed(small(window=40, sinks=4), prompt, [256, 1, 43])
    narrow = feed(small(dtype, window=40, sinks=4), prompt, [256, 1, 43])
    assert 0 < (narrow - exact).abs().median() / exact.std() <= 4 * torch.finfo(dtype).eps


def test_a_row_of_a_batch_is_a_batch_of_one(feed: Feed) -> None:
    model, prompt = small(window=20, sinks=4), tokens(4, 90)
    rows = [feed(model, row[None], 16) for row in prompt]
    assert (feed(model, prompt, 16) - torch.cat(rows)).abs().max() <= 2e-5


@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("held", [2, 15, 24, 61])
def test_a_snapshot_gives_back_the_same_continuation(held: int, kv_dtype: torch.dtype) -> None:
    """Marked among the sinks, in the growing window, when it is full, past it."""
    model, prompt = small(window=20, sinks=4), tokens(2, held)
    spec = StateSpec(2, 1000, 64, 8, kv_dtype, torch.float32, CPU)
    with torch.inference_mode():
        state = model.new_state(spec)
        model(prompt, state)
        mark, used = state.snapshot(), state.used_bytes
        runs = []
        for _ in range(3):
            runs.append(model(tokens(2, 45, seed=4), state))
            for token in tokens(2, 30, seed=5).split(1, dim=1):
                model(token, state)
            state.restore(mark)
            assert (state.length, state.used_bytes) == (held, used)
        assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])
        state.clear()
        assert (state.length, state.used_bytes) == (0, 0)
        fresh = model(prompt, model.new_state(spec))
        assert torch.equal(model(prompt, state), fresh)


@pytest.mark.parametrize("kv_dtype", ["auto", "fp8_e4m3", "int8"])
def test_memory_is_the_formulas_and_flat(kv_dtype: Any) -> None:
    element = {"auto": torch.bfloat16, "fp8_e4m3": torch.float8_e4m3fn, "int8": torch.int8}
    model, storage = small(torch.bfloat16, window=32, sinks=5), Storage("bfloat16", kv_dtype)
    spec = StateSpec(3, 4096, 64, 16, element[kv_dtype], torch.bfloat16, CPU)
    state, used = model.new_state(spec), []
    stored = [part for layer in state.layers for part in (layer[0].stored, layer[0].scales)]
    assert state.reserved_bytes == sum(part.nbytes for part in stored if part is not None)
    with torch.inference_mode():
        for call in tokens(3, 400).split([3, 1, 30, 1, 1, 1, 1, 64, 1, 297], dim=1):
            model(call, state)
            used.append(state.used_bytes)
            assert used[-1] == accounting.cache_bytes(model.config, storage, state.length, 3)
            grows = accounting.cache_bytes_per_token(model.config, storage, state.length)
            assert bool(grows) == (state.length < 37)
    assert set(used[5:]) == {state.reserved_bytes}


@given(
    context=st.integers(1, 90),
    chunk=st.integers(1, 100),
    window=st.integers(1, 50),
    sinks=st.integers(1, 50),
)
def test_pairs_and_past_are_those_that_the_rule_lets_see(
    context: int, chunk: int, window: int, sinks: int
) -> None:
    def seen(query: int, keys: int) -> int:
        return sum(j < sinks or query - j < window for j in range(keys))

    of = config(window=window, sinks=sinks)
    starts = range(0, context, chunk)
    assert accounting.prefill_calls(of, context, chunk) == Calls(
        count=len(starts),
        tokens=context,
        past=sum(seen(start, start) for start in starts),
        pairs=sum(seen(query, query + 1) for query in range(context)),
        call_tokens=chunk,
    )
    past = seen(context, context)
    assert accounting.decode_call(of, context) == Calls(1, 1, past, past + 1, 1)


def test_decode_flops_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Composed of matrix products, since the counter does not know the CPU's flash kernel."""
    monkeypatch.setattr("ctxsweep_kernels.attention_tiles.uses_flash", lambda *_: False)
    model = small(window=12, sinks=3)
    state = model.new_state(StateSpec(3, 64, 40, 4, torch.float32, torch.float32, CPU))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(tokens(3, 40), state)
        before = counter.get_total_flops()
        model(tokens(3, 1), state)
    counted = counter.get_total_flops() - before
    assert accounting.flops(model.config, accounting.decode_call(model.config, 40), 3) == counted


def test_a_hybrids_attention_streams_too(feed: Feed) -> None:
    fields = config(window=8, sinks=2).model_dump(exclude_unset=True)
    mamba = {"mixer": "mamba2", "attention_every": 2, "mamba": {"head_dim": 16}}
    model = build(ModelConfig(**fields | mamba), 0, torch.float32, CPU)
    prompt = tokens(2, 60)
    whole = feed(model, prompt)
    assert (feed(model, prompt, [30, 1, 29]) - whole).abs().max() <= 2e-5 * whole.std()
    assert "streaming_attention" in model.ops and "paged_decode_attention" not in model.ops


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sinks": 4}, "set window"),
        ({"sinks": 4, "window": 8, "position": "alibi"}, r"rotary positions.*'alibi'"),
        ({"sinks": 0, "window": 8}, "greater than or equal to 1"),
    ],
)
def test_sinks_need_a_window_and_rotary_positions(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Attention(heads=4, kv_heads=2, head_dim=16, **fields)


def test_no_other_engines_checkpoint_has_sinks() -> None:
    with pytest.raises(NoFamily, match=r"sinks.*backend native"):
        hf_config(config(window=8, sinks=4), "float32")


def test_an_implementation_that_it_does_not_have_is_refused(feed: Feed) -> None:
    model = small(window=8, sinks=4)
    model.impl = "triton"
    with pytest.raises(UnsupportedImplementation, match="streaming_attention"):
        feed(model, tokens(1, 9))
