"""Prefill of Mamba-2 and RWKV-7 against the libraries' own paths on this machine.

Same weights, same tokens, same threads. Ours is fed in the segments that suit it best.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from pairs import paired, seconds
from torch import Tensor

from ctxsweep.models.config import Mamba, ModelConfig, Rwkv7
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.layers import StateSpec
from ctxsweep.models.weights import save_weights, stored_tensors
from ctxsweep.models.weights_rwkv import RWKV7 as RWKV7_LAYOUT

TOKENS, THREADS, GOAL = 8192, 1, 2.0
SEGMENTS = (512, 1024, TOKENS)
CPU = torch.device("cpu")
SHAPE = {"vocab_size": 1024, "hidden_size": 256, "num_layers": 4}
MAMBA2 = ModelConfig(name="mamba2", mixer="mamba2", mamba=Mamba(state_size=64), **SHAPE)
RWKV7 = ModelConfig(name="rwkv7", mixer="rwkv7", norm="layernorm", rwkv7=Rwkv7(), **SHAPE)


Thunk = Callable[[], Tensor]
Prefill = Callable[[int], Tensor]  # tokens per call to the last token's logits [V]


class Row(NamedTuple):
    """One line of the table of ratios: the library's time over ours."""

    name: str
    ratio: float
    goal: float
    detail: str


class Subject(NamedTuple):
    """Two prefills of the same tokens."""

    name: str
    ours: Prefill
    theirs: Prefill


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _native(model: LanguageModel, tokens: Tensor) -> Prefill:
    spec = StateSpec(1, TOKENS, TOKENS, 64, torch.float32, torch.float32, CPU)

    def prefill(segment: int) -> Tensor:
        state = model.new_state(spec)
        for piece in tokens[None].split(segment, dim=1):
            logits = model(piece, state)
        return logits[0]

    return prefill


def _at_best(prefill: Prefill) -> Thunk:
    """The prefill in the segments that are fastest the second time."""
    candidates = [partial(prefill, segment) for segment in SEGMENTS]
    for candidate in candidates:
        candidate()
    return min(candidates, key=seconds)


def mamba2_subject(tokens: Tensor) -> Subject:
    """transformers' Mamba2ForCausalLM, with the chunk that is its fastest on a CPU."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    model = build(MAMBA2, 0, torch.float32, CPU)
    config = Mamba2Config(
        vocab_size=MAMBA2.vocab_size,
        hidden_size=256,
        num_hidden_layers=4,
        num_heads=8,
        head_dim=64,
        state_size=64,
        n_groups=1,
        chunk_size=64,
    )
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        save_weights(model, "mamba2", Path(folder) / "model.safetensors")
        theirs = Mamba2ForCausalLM.from_pretrained(folder).eval()

    @torch.no_grad()
    def prefill(segment: int) -> Tensor:
        cache = None
        for piece in tokens[None].split(segment, dim=1):
            out = theirs(piece, cache_params=cache, use_cache=True, logits_to_keep=1)
            cache = out.cache_params
        return out.logits[0, -1]

    return Subject("transformers / native, mamba2 prefill", _native(model, tokens), prefill)


def rwkv7_subject(tokens: Tensor) -> Subject:
    """The rwkv package; it decides on its version when it is first imported."""
    os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
    from rwkv.model import RWKV

    assert RWKV.__name__ == "RWKV_x070", "the rwkv package was imported before as another version"
    model = build(RWKV7, 0, torch.float32, CPU)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        torch.save(stored_tensors(model, RWKV7_LAYOUT), path.with_suffix(".pth"))
        theirs = RWKV(model=str(path), strategy="cpu fp32")

    def prefill(segment: int) -> Tensor:
        state = None
        for piece in tokens.split(segment):
            logits, state = theirs.forward(piece.tolist(), state)
        return logits

    return Subject("rwkv / native, rwkv7 prefill", _native(model, tokens), prefill)


SUBJECTS = {"mamba2": mamba2_subject, "rwkv7": rwkv7_subject}


def rows(rounds: int = 3) -> list[Row]:
    """All ratios of this file, measured now."""
    return [row for name in SUBJECTS for row in measure(name, rounds)]


def measure(name: str, rounds: int = 3) -> list[Row]:
    """The library with all tokens in one call, as it is mostly used, and in its best segments."""
    tokens = torch.randint(0, SHAPE["vocab_size"], (TOKENS,), generator=torch.manual_seed(1))
    with fixed_threads(THREADS):
        subject = SUBJECTS[name](tokens)
        ours = _at_best(subject.ours)
        ways = {"one call": partial(subject.theirs, TOKENS)}
        ways["best segments"] = _at_best(subject.theirs)
        return [_compare(f"{subject.name}, {way}", ours, ways[way], rounds) for way in ways]


def _compare(name: str, ours: Thunk, library: Thunk, rounds: int) -> Row:
    """One ratio; the two must give the same logits."""
    error = (ours() - library()).abs().max().item()
    assert error <= 1e-3, f"{name}: logits differ by {error}"
    times = paired(ours, library, rounds, warmup=0)
    low, high = times.spread
    detail = (
        f"{TOKENS / times.first_s:.0f} against {TOKENS / times.second_s:.0f} tokens/s at {TOKENS},"
        f" {low:.2f} to {high:.2f} over {rounds} rounds, {THREADS} thread"
    )
    return Row(name, times.ratio, GOAL, detail)


@pytest.mark.parametrize("name", SUBJECTS)
def test_prefill_against_the_library(
    name: str, benchmark: Callable[..., None], add_ratio: Callable[..., None]
) -> None:
    for row in benchmark.pedantic(measure, (name,), rounds=1):
        add_ratio(row.name, row.ratio, row.goal, detail=row.detail)
