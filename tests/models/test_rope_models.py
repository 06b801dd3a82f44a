"""Whole models with stretched positions: against transformers with the same weights and config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctxsweep.backends.base import InvalidSeries, Limits
from ctxsweep.backends.native import NativeBackend
from ctxsweep.models import catalog
from ctxsweep.records import RopeScaling, Series

transformers = pytest.importorskip("transformers", reason="needs transformers")

TRAINED, LENGTH = 64, 200
SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "max_position_embeddings": TRAINED,
}
WORDS: dict[str, dict[str, Any]] = {
    "linear": {},
    "dynamic": {},
    "yarn": {"beta_fast": 16.0},
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": {
        "short_factor": [1.0] * 8,
        "long_factor": [1.0 + i / 3 for i in range(8)],
    },
}
KINDS = (*WORDS, "ntk", "ntk_by_parts")
PROMPT = np.random.default_rng(0).integers(0, 97, (2, LENGTH))


def folder(tmp_path: Path, words: dict[str, Any] | None = None) -> str:
    """A model of theirs on disk, its positions stretched by ``words``."""
    torch.manual_seed(0)
    shape = SHAPE if words is None else {**SHAPE, "rope_parameters": words}
    config = transformers.LlamaConfig(**shape)
    transformers.LlamaForCausalLM(config).eval().save_pretrained(tmp_path)
    return str(tmp_path)


def theirs(path: str, prompt: np.ndarray) -> np.ndarray:
    model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.from_numpy(prompt), use_cache=False).logits.numpy()


def ours(path: str, chunk: int | str, rope: RopeScaling | None = None, **more: Any) -> np.ndarray:
    """Logits ``[B, V]`` after the prompt, from the native backend."""
    series = Series(name="s", model=path, prefill_chunk=chunk, rope=rope, page_size=32, **more)
    backend = NativeBackend.load(series, Limits(LENGTH, 2, "cpu", threads=1, seed=0))
    step = LENGTH if chunk == "whole" else int(chunk)
    if backend.capabilities.whole_prompt:
        backend.begin(PROMPT)
    for start in range(0, LENGTH, step):
        backend.prefill(PROMPT[:, start : start + step])
    return backend.logits()


@pytest.mark.parametrize("chunk", ["whole", 48])
@pytest.mark.parametrize("kind", WORDS)
def test_a_stretched_folder_gives_the_logits_of_transformers(
    kind: str, chunk: int | str, tmp_path: Path
) -> None:
    words = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **WORDS[kind]}
    if kind not in ("linear", "dynamic"):
        words["original_max_position_embeddings"] = TRAINED
    path = folder(tmp_path, words)
    assert np.abs(ours(path, chunk) - theirs(path, PROMPT)[:, -1]).max() <= 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_series_stretches_as_the_folder_would(kind: str, tmp_path: Path) -> None:
    """The trained length comes from the model, in chunks; auto is the target over it."""
    more = {k: tuple(v) if isinstance(v, list) else v for k, v in WORDS.get(kind, {}).items()}
    path = folder(tmp_path)
    by_number = ours(path, 48, RopeScaling(rope_type=kind, factor=4.0, **more))
    target = RopeScaling(rope_type=kind, factor="auto", target_tokens=4 * TRAINED, **more)
    assert np.abs(ours(path, 48, target) - by_number).max() <= 1e-5
    assert np.abs(by_number - theirs(path, PROMPT)[:, -1]).max() > 1e-3


def test_cached_keys_of_dynamic_ntk_fit_the_prompt_that_was_begun(tmp_path: Path) -> None:
    """Without the length beforehand, early chunks turn for a shorter context than late ones."""
    path = folder(tmp_path)
    dynamic = RopeScaling(rope_type="dynamic", factor=4.0)
    series = Series(name="s", model=path, prefill_chunk=48, rope=dynamic)
    backend = NativeBackend.load(series, Limits(LENGTH, 2, "cpu", threads=1, seed=0))
    assert backend.capabilities.whole_prompt
    for start in range(0, LENGTH, 48):  # begin left out
        backend.prefill(PROMPT[:, start : start + 48])
    assert np.abs(backend.logits() - ours(path, "whole", dynamic)).max() > 1e-3
    backend.reset()
    backend.begin(PROMPT)
    for start in range(0, LENGTH, 48):
        backend.prefill(PROMPT[:, start : start + 48])
    assert np.abs(backend.logits() - ours(path, "whole", dynamic)).max() <= 1e-4
    assert backend.engine()["rope"]["fixed_at_tokens"] == LENGTH


@pytest.mark.parametrize("impl", ["torch", "auto"])
def test_every_implementation_sharpens_attention_alike(impl: str, tmp_path: Path) -> None:
    words = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "attention_factor": 1.4,
        "original_max_position_embeddings": TRAINED,
    }
    path = folder(tmp_path, words)
    found = ours(path, 48, options={"impl": impl})
    assert np.abs(found - theirs(path, PROMPT)[:, -1]).max() <= 1e-4


def test_scores_are_the_losses_of_the_targets(tmp_path: Path) -> None:
    path = folder(tmp_path)
    series = Series(name="s", model=path, prefill_chunk=64)
    backend = NativeBackend.load(series, Limits(LENGTH, 2, "cpu", threads=1, seed=0))
    logits = theirs(path, PROMPT)
    log_p = torch.from_numpy(logits).log_softmax(-1)
    found = []
    for start in range(0, LENGTH - 1, 64):
        end = min(start + 64, LENGTH - 1)
        backend.prefill(PROMPT[:, start:end])
        found.append(backend.scores(PROMPT[:, start + 1 : end + 1]))
    targets = torch.from_numpy(PROMPT[:, 1:]).unsqueeze(-1)
    wanted = -log_p[:, :-1].gather(-1, targets).squeeze(-1).numpy()
    assert np.abs(np.concatenate([s.losses for s in found], 1) - wanted).max() <= 1e-4
    likeliest = logits[:, :-1].argmax(-1) == PROMPT[:, 1:]
    assert (np.concatenate([s.likeliest for s in found], 1) == likeliest).all()
    with pytest.raises(RuntimeError, match="as many tokens"):
        backend.scores(PROMPT[:, :3])


@pytest.mark.parametrize(
    ("model", "rope", "key", "says"),
    [
        ("tiny-mamba2", RopeScaling(rope_type="linear", factor=2), "rope", "no rotary"),
        ("tiny-alibi", RopeScaling(rope_type="linear", factor=2), "rope", "no rotary"),
        (
            "tiny-gqa",
            RopeScaling(rope_type="yarn", factor="auto", target_tokens=64),
            "rope.original_max_position_embeddings",
            "trained context",
        ),
        (
            "tiny-gqa",
            RopeScaling(rope_type="llama3", factor=2, beta_fast=3),
            "rope.original_max_position_embeddings",
            "needs it",
        ),
    ],
)
def test_what_cannot_be_stretched_is_refused(
    model: str, rope: RopeScaling, key: str, says: str
) -> None:
    with pytest.raises(InvalidSeries, match=says) as caught:
        NativeBackend.check(Series(name="s", model=model, rope=rope))
    assert caught.value.key == key


def test_a_stretched_model_of_the_catalogue_is_checked_when_read() -> None:
    attention = {"rope": {"rope_type": "yarn", "factor": 4.0}}
    with pytest.raises(ValueError, match=r"attention\.rope\.original_max_position_embeddings"):
        catalog.load_config({"like": "tiny-gqa", "attention": attention})
