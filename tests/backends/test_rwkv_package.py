"""The rwkv package against the native models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ctxsweep.backends import rwkv_package
from ctxsweep.backends.base import Backend, InvalidSeries, Limits, Unsupported
from ctxsweep.backends.native import NativeBackend
from ctxsweep.backends.rwkv_package import RwkvPackageBackend
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.language_model import build
from ctxsweep.models.weights import stored_tensors
from ctxsweep.models.weights_rwkv import LAYOUTS
from ctxsweep.records import RopeScaling, Series

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
needs_package = pytest.mark.skipif(
    RwkvPackageBackend.availability() is not None, reason="needs rwkv"
)
SMALL = {"vocab_size": 300, "hidden_size": 64, "num_layers": 3, "norm": "layernorm"}
SIX = ModelConfig(
    name="six", mixer="rwkv6", rwkv6={"head_dim": 16, "mix_rank": 8, "decay_rank": 12}, **SMALL
)
SEVEN = ModelConfig(
    name="seven",
    mixer="rwkv7",
    rwkv7={"head_dim": 16, "decay_rank": 12, "rate_rank": 10, "value_rank": 6, "gate_rank": 20},
    **SMALL,
)
TOKENS = np.random.default_rng(1).integers(0, 300, (1, 90))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTXSWEEP_CACHE", str(tmp_path / "cache"))


def series(model: str | dict[str, Any], **settings: Any) -> Series:
    return Series(name="rwkv", backend="rwkv", model=model, **settings)


def limits(**changed: Any) -> Limits:
    known = {"max_context_tokens": 400, "batch_size": 1, "device": "cpu", "threads": 1, "seed": 3}
    return Limits(**(known | changed))


def inline(config: ModelConfig) -> dict[str, Any]:
    return config.model_dump(exclude_unset=True)


def perturbed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every weight away from its initial value, so that none can be left out unseen."""
    generator = torch.Generator().manual_seed(4)
    return {
        name: t + 0.1 * t.abs().mean().clamp(min=0.1) * torch.randn(t.shape, generator=generator)
        for name, t in tensors.items()
    }


def saved(tensors: dict[str, Tensor], path: Path) -> str:
    torch.save(tensors, path)
    return str(path)


def steps(backend: Backend, decoded: int = 8) -> list[np.ndarray]:
    """Logits after the prompt and after each token generated from it."""
    backend.prefill(TOKENS)
    seen = [backend.logits()]
    for _ in range(decoded):
        backend.decode()
        seen.append(backend.logits())
    return seen


def drawn(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """The weights of a seed, as a checkpoint names them."""
    model = build(config, seed, torch.float32, torch.device("cpu"))
    return stored_tensors(model, LAYOUTS[config.mixer])


both = pytest.mark.parametrize("config", [SIX, SEVEN], ids=lambda config: config.name)


@needs_package
@both
def test_the_native_model_agrees(config: ModelConfig) -> None:
    """The same seed gives both the same weights; 1e-4 of logits that spread over 0.5."""
    model = inline(config)
    ours = steps(NativeBackend.load(series(model), limits()))
    package = RwkvPackageBackend.load(series(model), limits())
    theirs = steps(package)
    assert theirs[0].std() > 0.3
    assert max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)) <= 1e-4
    native = NativeBackend.load(series(model), limits())
    assert package.engine()["weights"] == native.engine()["weights"]
    # The package lays RWKV-6's first norm into the embedding, once, and drops it.
    dropped = 2 * 64 * 4 if config is SIX else 0
    assert package.memory().weights_bytes == native.memory().weights_bytes - dropped


@needs_package
@both
def test_a_checkpoint_runs_on_both(config: ModelConfig, tmp_path: Path) -> None:
    path = saved(perturbed(drawn(config, 5)), tmp_path / "model.pth")
    loaded = [
        adapter.load(series(path), limits()) for adapter in (NativeBackend, RwkvPackageBackend)
    ]
    ours, theirs = (steps(backend) for backend in loaded)
    assert max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)) <= 1e-4
    assert [backend.engine()["weights"] for backend in loaded] == [path, path]
    other = steps(NativeBackend.load(series(inline(config)), limits()))
    assert np.abs(other[0] - ours[0]).max() > 0.1


@needs_package
@both
def test_narrow_types_stay_near_and_live_in_one_process(config: ModelConfig) -> None:
    """All types are loaded before the first runs: the package keeps its type in a global."""
    loaded = {
        dtype: RwkvPackageBackend.load(series(inline(config), dtype=dtype), limits())
        for dtype in ("float32", "bfloat16", "float16")
    }
    held = {}
    for dtype, backend in loaded.items():
        backend.prefill(TOKENS)
        held[dtype] = backend.memory()
        assert held[dtype].cache_used_bytes == backend.cost(90).cache_bytes
    exact = loaded["float32"].logits()
    for dtype in ("bfloat16", "float16"):
        eps = torch.finfo(getattr(torch, dtype)).eps
        error = np.median(np.abs(loaded[dtype].logits() - exact)) / exact.std()
        assert 0 < error <= 4 * eps
        assert held[dtype].weights_bytes < 0.6 * held["float32"].weights_bytes
        # The matrix states stay in float32.
        assert held[dtype].cache_used_bytes > 0.8 * held["float32"].cache_used_bytes


@needs_package
def test_the_state_keeps_the_last_calls_activations_alive() -> None:
    backend = RwkvPackageBackend.load(series("tiny-rwkv6"), limits())
    used, row = backend.cost(1).cache_bytes, 256 * 4
    for call in (64, 10, 1):
        backend.prefill(np.zeros((1, call), np.int64))
        held = backend.memory()
        assert held.cache_used_bytes == used
        assert held.cache_reserved_bytes == used + 2 * 2 * (call - 1) * row  # layers × blocks


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        ({"model": "tiny-gqa"}, "model", "tiny-rwkv6, tiny-rwkv7, or a .pth file"),
        ({"model": "rwkv6.pth"}, "model", "not a model folder, .gguf or .pth file"),
        ({"window": 64}, "window", "no attention"),
        ({"kv_dtype": "fp8_e4m3"}, "kv_dtype", "no keys and values"),
        ({"rope": RopeScaling(rope_type="linear", factor=2)}, "rope", "no rotary positions"),
        ({"options": {"jit": False}}, "options", "no options"),
        ({"model": {"like": "tiny-rwkv7", "tied_embeddings": True}}, "model", "tied_embeddings"),
        ({"model": {"like": "tiny-rwkv7", "norm": "rmsnorm"}}, "model", "norm: layernorm"),
        (
            {"model": {"like": "tiny-rwkv6", "rwkv6": {"mix_rank": 1}}},
            "model.rwkv6.mix_rank",
            "nearest: 2",
        ),
        (
            {
                "model": {
                    "like": "tiny-rwkv7",
                    "attention_every": 2,
                    "attention": {"heads": 4, "kv_heads": 4, "head_dim": 64},
                }
            },
            "model",
            "not a pure RWKV",
        ),
    ],
    ids=str,
)
def test_what_the_package_cannot_run_is_refused(
    settings: dict[str, Any], key: str, said: str
) -> None:
    with pytest.raises(InvalidSeries) as caught:
        RwkvPackageBackend.check(series(**{"model": "tiny-rwkv7", **settings}))
    assert caught.value.key == key
    assert said in caught.value.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@needs_package
def test_a_device_that_is_not_there_is_unsupported() -> None:
    with pytest.raises(Unsupported, match=r"no CUDA device.*--device cpu"):
        RwkvPackageBackend.load(series("tiny-rwkv7"), limits(device="cuda"))


def test_a_package_that_is_not_installed_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rwkv_package, "_package_file", lambda: None)
    with pytest.raises(Unsupported, match=r"not installed\. pip install rwkv"):
        RwkvPackageBackend.load(series("tiny-rwkv7"), limits())


def test_nothing_heavy_is_imported_to_plan_a_sweep(tmp_path: Path) -> None:
    path = saved(drawn(SIX, 0), tmp_path / "six.pth")
    code = (
        "import sys; from ctxsweep.backends.rwkv_package import RwkvPackageBackend as R;"
        "from ctxsweep.records import Series; R.availability();"
        f"ones = [Series(name='s', model=m) for m in ('tiny-rwkv7', {path!r})];"
        "[(R.check(one), R.estimate(one, 1024, 1)) for one in ones];"
        "print([name for name in ('torch', 'rwkv') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
