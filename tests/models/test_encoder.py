"""Encoders: parameters against transformers, FLOPs against what torch counts, caches by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from ctxsweep.models import catalog, encoder
from ctxsweep.models.encoder import EncoderConfig

transformers = pytest.importorskip("transformers", reason="needs transformers")
BERT: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "encoder_layers": 3,
    "heads": 4,
    "head_dim": 8,
    "ffn_size": 48,
    "max_positions": 64,
    "token_types": 2,
    "pooler": True,
}
T5: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "heads": 4,
    "head_dim": 6,
    "ffn_size": 48,
    "norm": "rmsnorm",
    "bias": False,
    "relative_buckets": 32,
}


def config(fields: dict[str, Any]) -> EncoderConfig:
    return EncoderConfig(name="e", source="s", **fields)


def their_bert(c: EncoderConfig) -> torch.nn.Module:
    settings = transformers.BertConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        num_hidden_layers=c.encoder_layers,
        num_attention_heads=c.heads,
        intermediate_size=c.ffn_size,
        max_position_embeddings=c.max_positions,
        type_vocab_size=c.token_types,
        attn_implementation="eager",
    )
    return transformers.BertModel(settings).eval()


def their_t5(c: EncoderConfig) -> torch.nn.Module:
    settings = transformers.T5Config(
        vocab_size=c.vocab_size,
        d_model=c.hidden_size,
        d_kv=c.head_dim,
        d_ff=c.ffn_size,
        num_layers=c.encoder_layers,
        num_decoder_layers=c.decoder_layers,
        num_heads=c.heads,
        relative_attention_num_buckets=c.relative_buckets,
        attn_implementation="eager",
    )
    return transformers.T5ForConditionalGeneration(settings).eval()


def parameters_of(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "theirs", "count"),
    [("bert-base", their_bert, 109_482_240), ("t5-base", their_t5, 222_903_552)],
)
def test_published_encoders_have_the_parameters_of_transformers(
    name: str, theirs: Any, count: int
) -> None:
    known = catalog.load_encoder(name)
    with torch.device("meta"):
        model = theirs(known)
    assert sum(encoder.parameters(known).values()) == parameters_of(model) == count
    published = known.published
    assert published is not None
    assert published.agrees(count)
    assert abs(count - published.parameters) <= 0.005 * published.parameters


def test_every_part_is_that_of_the_model() -> None:
    """The parts apart, so that an error in one cannot hide in another."""
    with torch.device("meta"):
        named = dict(their_t5(config(T5)).named_parameters())
    parts = encoder.parameters(config(T5))
    cross = sum(p.numel() for n, p in named.items() if "EncDecAttention" in n)
    assert parts["cross_attention"] == cross
    assert parts["ffn"] == sum(p.numel() for n, p in named.items() if ".wi." in n or ".wo." in n)
    assert parts["norm"] == sum(p.numel() for n, p in named.items() if "layer_norm" in n)
    assert parts["embedding"] == named["shared.weight"].numel()


def counted(model: torch.nn.Module, **inputs: torch.Tensor) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(**inputs, **({"use_cache": False} if "decoder_input_ids" in inputs else {}))
    return counter.get_total_flops()


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_an_encoders_flops_are_those_that_torch_counts(tokens: int) -> None:
    known = config(BERT)
    ids = torch.randint(60, (2, tokens))
    assert encoder.flops(known, tokens, 0, 2).total == counted(their_bert(known), input_ids=ids)


def test_an_encoder_decoders_flops_are_those_that_torch_counts() -> None:
    """One written token: for more of them torch's one call has pairs that a mask takes away."""
    known = config(T5)
    model, ids = their_t5(known), torch.randint(60, (2, 9))
    one = torch.randint(60, (2, 1))
    wanted = encoder.flops(known, 9, 1, 2)
    assert wanted.total == counted(model, input_ids=ids, decoder_input_ids=one)
    assert wanted.encode == encoder.flops(known, 9, 0, 2).total


def test_caches_are_those_that_transformers_holds() -> None:
    known, model = config(T5), their_t5(config(T5))
    ids, written = torch.randint(60, (2, 9)), torch.randint(60, (2, 4))
    with torch.inference_mode():
        held = model(input_ids=ids, decoder_input_ids=written, use_cache=True).past_key_values
    sizes = [
        sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        for cache in (held.self_attention_cache, held.cross_attention_cache)
    ]
    memory = encoder.memory(known, 9, 4, 2, element_bytes=4)
    assert [memory.self_cache_bytes, memory.cross_cache_bytes] == sizes
    assert memory.weights_bytes == 4 * parameters_of(model)
    assert memory.total_bytes > sum(sizes) + memory.weights_bytes


def test_t5_base_keeps_36_kib_for_a_token_read_and_36_for_one_written() -> None:
    """2 · 12 layers · 12 heads · 64 · 2 bytes, each."""
    known = catalog.load_encoder("t5-base")
    memory = encoder.memory(known, 1000, 10)
    assert memory.cross_cache_bytes == 1000 * 36 * 1024
    assert memory.self_cache_bytes == 10 * 36 * 1024
    assert encoder.memory(known, 1000, 0).cross_cache_bytes == 0


@pytest.mark.parametrize(
    ("name", "read", "written", "message"),
    [
        ("bert-base", 513, 0, "bert-base: an input of 513 tokens; valid: 1 to 512"),
        ("bert-base", 0, 0, "an input of 0 tokens"),
        ("bert-base", 8, 1, "is an encoder alone and writes nothing"),
        ("t5-base", 0, 1, "an input of 0 tokens; valid: 1 or more"),
        ("t5-base", 8, -1, "an output of -1 tokens"),
    ],
)
def test_lengths_that_cannot_be(name: str, read: int, written: int, message: str) -> None:
    known = catalog.load_encoder(name)
    for ask in (encoder.memory, encoder.flops):
        with pytest.raises(ValueError, match=message):
            ask(known, read, written)


@pytest.mark.parametrize("batch", [0, -3])
def test_a_batch_that_cannot_be(batch: int) -> None:
    known = catalog.load_encoder("t5-base")
    for ask in (encoder.memory, encoder.flops):
        with pytest.raises(ValueError, match=f"t5-base: a batch of {batch}; valid: 1 or more"):
            ask(known, 8, 0, batch)


def test_an_input_beyond_the_training_is_remarked() -> None:
    """T5 read 512 tokens at most (arXiv 1910.10683, section 3.1.2); its positions have no end."""
    t5, bert = catalog.load_encoder("t5-base"), catalog.load_encoder("bert-base")
    assert (t5.trained_tokens(), t5.longest_input()) == (512, None)
    assert t5.remark(512) is None
    assert "Trained on inputs of up to 512 tokens" in str(t5.remark(513))
    assert bert.remark(512) is None
    assert config(T5).remark(1 << 20) is None, "nothing is known of its training"


def test_positions_are_of_one_kind() -> None:
    with pytest.raises(ValidationError, match="one of max_positions and relative_buckets"):
        config({**BERT, "relative_buckets": 32})


def test_an_unknown_encoder_gets_the_nearest() -> None:
    with pytest.raises(catalog.UnknownModel, match="did you mean 't5-base'"):
        catalog.load_encoder("t5base")


@given(read=st.integers(1, 5000), written=st.integers(1, 5000), batch=st.integers(1, 9))
def test_cost_grows_with_each_length_and_in_proportion_to_the_batch(
    read: int, written: int, batch: int
) -> None:
    known = config(T5)
    one = encoder.flops(known, read, written)
    assert encoder.flops(known, read, written, batch).total == pytest.approx(batch * one.total)
    assert encoder.flops(known, read + 1, written).total > one.total
    assert encoder.flops(known, read, written + 1).decode > one.decode
