"""The native backend beyond the contract: what it refuses, its dtypes, its limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctxsweep.backends.base import InvalidSeries, Limits, Unsupported
from ctxsweep.backends.native import NativeBackend
from ctxsweep.models.hf_config import config_from_folder
from ctxsweep.models.language_model import build
from ctxsweep.models.weights import save_weights
from ctxsweep.records import Series
from ctxsweep_kernels import dispatch


def series(model: str = "tiny-gqa", **settings: Any) -> Series:
    return Series(name="s", model=model, page_size=16, **settings)


def limits(tokens: int = 100, batch: int = 2, seed: int = 0) -> Limits:
    return Limits(tokens, batch, "cpu", threads=1, seed=seed)


def prompt(tokens: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4096, (batch, tokens))


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        ({"model": "tiny-gqq"}, "model", "did you mean 'tiny-gqa'"),
        ({"model": "tiny-mamba2", "kv_dtype": "int8"}, "kv_dtype", "no attention"),
        ({"model": "tiny-rwkv7", "window": 64}, "window", "no attention"),
        ({"model": "tiny-rwkv7", "sinks": 4}, "sinks", "no attention"),
        ({"sinks": 4}, "sinks", "set window"),
        ({"model": "tiny-alibi", "window": 64, "sinks": 4}, "sinks", "rotary positions"),
        ({"prefill_chunk": 0}, "prefill_chunk", "at least 1"),
        ({"options": {"fast": True}}, "options", "'fast' is unknown"),
    ],
)
def test_a_series_that_can_never_run_is_refused(
    settings: dict[str, Any], key: str, said: str
) -> None:
    values = {"name": "s", "model": "tiny-gqa", **settings}
    asked = Series.model_construct(**{**Series(name="s", model="m").model_dump(), **values})
    with pytest.raises(InvalidSeries, match=said) as caught:
        NativeBackend.check(asked)
    assert caught.value.key == key


def test_sinks_change_no_weights() -> None:
    """Nor need they be in a checkpoint that other engines read."""
    seen = []
    for settings in ({}, {"window": 60, "sinks": 4}):
        one = series(options={"weights": "checkpoint"}, **settings)
        backend = NativeBackend.load(one, limits())
        backend.prefill(prompt(64))
        seen.append(backend.logits())
    assert abs(seen[0] - seen[1]).max() <= 1e-4
    assert backend.engine()["implementations"] == {"streaming_attention": "torch"}
    with pytest.raises(Unsupported, match="streaming_attention"):
        NativeBackend.load(series(window=60, sinks=4, options={"impl": "triton"}), limits())


def test_too_few_learned_positions_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="139264 learned positions"):
        NativeBackend.load(series("tiny-gpt"), limits(139265))


def test_cuda_without_a_device_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unsupported, match="no CUDA device"):
        NativeBackend.load(series(), Limits(64, 1, "cuda", 1, 0))


def test_a_kernel_that_cannot_take_the_model_is_unsupported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr("ctxsweep_kernels.wkv7.MOST_KEYS", 8)
    backend = NativeBackend.load(series("tiny-rwkv7", options={"impl": "triton"}), limits())
    with pytest.raises(Unsupported, match=r"wkv7: K = .* Leave options.impl out"):
        backend.prefill(prompt(3))


def test_a_context_beyond_the_reservation_is_refused_with_its_numbers() -> None:
    backend = NativeBackend.load(series(), limits(100))
    backend.prefill(prompt(100))
    with pytest.raises(ValueError, match=r"101 tokens of context .* loaded for 100"):
        backend.decode()


def test_an_allocation_that_fails_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="loading tiny-mha"):
        NativeBackend.load(series("tiny-mha"), limits(1 << 40, batch=64))


def test_decode_needs_a_context() -> None:
    backend = NativeBackend.load(series(), limits())
    with pytest.raises(RuntimeError, match="prefill first"):
        backend.decode()


def test_a_series_window_replaces_the_models() -> None:
    backend = NativeBackend.load(series("tiny-swa", window=32, prefill_chunk=16), limits(400))
    used = []
    for _ in range(20):
        backend.prefill(prompt(16))
        used.append(backend.memory().cache_used_bytes)
    page_bytes = 2 * 2 * 16 * 32 * 4
    assert set(used[2:]) == {2 * 2 * page_bytes * 2}  # batch × layers × pages of 16
    assert backend.engine()["model"]["attention"]["window"] == 32


@pytest.mark.parametrize("model", ["tiny-gqa", "tiny-hybrid", "tiny-moe"])
def test_an_fp8_cache_takes_half_of_bf16s(model: str) -> None:
    grown = {}
    for kv_dtype in ("bfloat16", "fp8_e4m3", "fp8_e5m2", "int8"):
        asked = series(model, dtype="bfloat16", kv_dtype=kv_dtype)
        backend = NativeBackend.load(asked, limits())
        backend.reset()
        empty = backend.memory().cache_used_bytes
        backend.prefill(prompt(80))
        grown[kv_dtype] = backend.memory().cache_used_bytes - empty
        assert backend.memory().cache_used_bytes == backend.cost(80).cache_bytes
    assert grown["fp8_e4m3"] == grown["fp8_e5m2"] == grown["bfloat16"] / 2
    assert grown["int8"] == grown["bfloat16"] / 2 * (32 + 4) / 32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_take_their_elements_bytes(dtype: Any) -> None:
    backend = NativeBackend.load(series(dtype=dtype), limits())
    element = 4 if dtype == "float32" else 2
    assert backend.memory().weights_bytes == element * backend.cost(1).parameters
    backend.prefill(prompt(40))
    backend.decode()
    assert len(backend.engine()["next_tokens"]) == 2


def test_a_seed_decides_the_weights() -> None:
    shown = []
    for seed in (0, 0, 1):
        backend = NativeBackend.load(series(), limits(seed=seed))
        backend.prefill(prompt(50))
        shown.append(backend.engine()["next_tokens"])
    assert shown[0] == shown[1] != shown[2]


def test_a_folder_is_run_with_its_weights(tmp_path: Path) -> None:
    config = {
        "model_type": "mistral",
        "vocab_size": 4096,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    device = torch.device("cpu")
    model = build(config_from_folder(tmp_path), 9, torch.float32, device)
    save_weights(model, "mistral", tmp_path / "model.safetensors")
    backend = NativeBackend.load(series(str(tmp_path), window=24), limits(seed=1))
    assert torch.equal(backend._model.embedding.weight, model.embedding.weight)
    assert backend.engine()["model"]["attention"]["window"] == 24
    backend.prefill(prompt(60))


def test_the_record_names_the_code_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(model: str) -> dict[str, str]:
        engine = NativeBackend.load(series(model), limits()).engine()
        return dict(engine["implementations"])

    monkeypatch.setattr(dispatch, "_build_problem", lambda op: None)
    assert told("tiny-gqa")["paged_decode_attention"] == "c"
    monkeypatch.setattr(dispatch, "_build_problem", lambda op: "no compiler")
    assert set(told("tiny-gqa").values()) == {"torch"}
    assert set(told("tiny-mamba2")) == {
        "causal_conv1d",
        "selective_state_update",
        "ssd_chunk_scan",
    }
