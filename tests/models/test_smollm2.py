"""A real pretrained model: SmolLM2 in the native transformer against transformers' reading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

import ctxsweep.quality
from ctxsweep.backends.base import Limits
from ctxsweep.backends.native import NativeBackend
from ctxsweep.models.gguf_file import load_gguf
from ctxsweep.models.language_model import LanguageModel
from ctxsweep.quality.tokenizer import tokenizer_of
from ctxsweep.records import Series

CPU = torch.device("cpu")
TOKENS, PROMPT, GENERATED, CHUNK = 512, 300, 64, 96
TEXT = Path(ctxsweep.quality.__file__).parent / "texts" / "persuasion.txt"
Feed = Callable[..., Tensor]


@pytest.fixture(scope="module")
def theirs(smollm2: Path) -> transformers.PreTrainedModel:
    """Shape as published, weights dequantised by transformers' own code."""
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=100000.0,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    read = load_gguf_checkpoint(str(smollm2), return_tensors=True, model_to_load=model)
    missing, unexpected = model.load_state_dict(read["tensors"], strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.tie_weights()
    return model


@pytest.fixture(scope="module")
def ours(smollm2: Path) -> LanguageModel:
    return load_gguf(smollm2, torch.float32, CPU)


@pytest.fixture(scope="module")
def prompt(smollm2: Path) -> Tensor:
    text = TEXT.read_text(encoding="utf-8")[20_000:24_000]
    return torch.tensor([tokenizer_of(str(smollm2)).encode(text)[:TOKENS]])


@pytest.fixture(scope="module")
def wanted(theirs: transformers.PreTrainedModel, prompt: Tensor) -> Tensor:
    with torch.no_grad():
        return theirs(prompt).logits


@pytest.mark.parametrize("chunk", [None, 100])
def test_logits_are_those_of_transformers(
    chunk: int | None, ours: LanguageModel, prompt: Tensor, wanted: Tensor, feed: Feed
) -> None:
    assert prompt.shape == (1, TOKENS)
    assert (feed(ours, prompt, chunk, page_size=16) - wanted).abs().max() <= 1e-3


def test_it_has_learned_english(prompt: Tensor, wanted: Tensor) -> None:
    """Random weights are at ln 49152 = 10.8 nats."""
    losses = torch.nn.functional.cross_entropy(wanted[0, :-1], prompt[0, 1:])
    assert losses < 4.0


def test_the_same_greedy_tokens(
    theirs: transformers.PreTrainedModel, prompt: Tensor, smollm2: Path
) -> None:
    """Through the backend: paged cache, prefill in chunks, decode."""
    start = prompt[:, :PROMPT]
    with torch.no_grad():
        continued = theirs.generate(
            start, max_new_tokens=GENERATED, do_sample=False, eos_token_id=None, pad_token_id=2
        )
    series = Series(name="smollm2", model=str(smollm2), prefill_chunk=CHUNK)
    backend = NativeBackend.load(series, Limits(400, 1, "cpu", threads=1, seed=0))
    for piece in start.split(CHUNK, dim=1):
        backend.prefill(piece.numpy())
    found = backend.engine()["next_tokens"]
    while len(found) < GENERATED:
        backend.decode()
        found += backend.engine()["next_tokens"]
    assert found == continued[0, PROMPT:].tolist()
    assert len(set(found)) > 10  # and not one word over and over
