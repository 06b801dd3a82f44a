"""mamba-ssm and flash-linear-attention: what they say without a GPU, and what they refuse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ctxsweep.backends import cuda_packages
from ctxsweep.backends.base import InvalidSeries, Limits, Unsupported, resolve_backend
from ctxsweep.backends.fla_models import own_config
from ctxsweep.models import accounting, catalog
from ctxsweep.records import Series

NAMES = ("mamba_ssm", "fla")
MODELS = {"mamba_ssm": "tiny-mamba2", "fla": "tiny-retnet"}


def series(backend: str, model: str | dict[str, Any], **settings: Any) -> Series:
    chunk = {"prefill_chunk": "whole"} if backend == "mamba_ssm" else {}
    return Series(name="s", backend=backend, model=model, **{**chunk, **settings})


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a GPU's device node."""
    node = tmp_path / "nvidiactl"
    node.touch()
    monkeypatch.setattr(cuda_packages, "DRIVERS", (str(node),))


@pytest.mark.parametrize("name", NAMES)
def test_without_a_gpu_it_says_why_and_what_runs_instead(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_packages, "DRIVERS", ())
    missing = resolve_backend(name).availability()
    assert missing is not None
    assert "needs a CUDA GPU" in missing.reason
    assert "kernels" in missing.reason
    assert "backend native" in missing.remedy


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("name", NAMES)
def test_with_a_gpu_the_package_is_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_packages, "find_spec", lambda module: None)
    missing = resolve_backend(name).availability()
    assert missing is not None
    assert "is not installed" in missing.reason
    assert missing.remedy.startswith("pip install")
    monkeypatch.setattr(cuda_packages, "find_spec", lambda module: object())
    assert resolve_backend(name).availability() is None


@pytest.mark.parametrize("name", NAMES)
def test_a_cpu_run_is_unsupported_without_importing_the_package(name: str) -> None:
    """The trap of engines that crash on a CPU: it is met before their import."""
    asked = series(name, MODELS[name])
    with pytest.raises(Unsupported, match="runs on CUDA only, not on cpu") as caught:
        resolve_backend(name).load(asked, Limits(64, 1, "cpu", 1, 0))
    assert "backend native" in caught.value.remedy
    assert name not in sys.modules


@pytest.mark.parametrize(
    ("backend", "model", "settings", "key", "said"),
    [
        ("mamba_ssm", "tiny-gqa", {}, "model", "nearest: tiny-mamba2"),
        ("mamba_ssm", "tiny-hybrid", {}, "model", "no plain stack"),
        ("mamba_ssm", "tiny-mamba1", {"prefill_chunk": 512}, "prefill_chunk", "valid: whole"),
        ("mamba_ssm", "tiny-mamba1", {"kv_dtype": "float16"}, "kv_dtype", "no keys and values"),
        ("mamba_ssm", "tiny-mamba1", {"options": {"x": 1}}, "options", "'x' is unknown"),
        ("mamba_ssm", {"like": "tiny-mamba2", "norm_eps": 1e-6}, {}, "model", "norm_eps"),
        ("mamba_ssm", {"like": "tiny-mamba2", "mamba": {"groups": 2}}, {}, "model", "groups"),
        (
            "mamba_ssm",
            "tiny-mamba2",
            {"rope": {"rope_type": "linear", "factor": 2.0}},
            "rope",
            "leave it out",
        ),
        ("fla", "tiny-gqa", {}, "model", "nearest: tiny-retnet"),
        ("fla", {"model_type": "llama"}, {}, "model.model_type", "retnet, gla, rwkv6, rwkv7"),
        ("fla", "tiny-retnet", {"kv_dtype": "int8"}, "kv_dtype", "no keys and values"),
        ("fla", {"model_type": "gla"}, {"window": 64}, "window", "leave it out"),
        ("fla", {"model_type": "gla"}, {"sinks": 4}, "sinks", "leave it out"),
        ("fla", "tiny-rwkv7", {"options": {"x": 1}}, "options", "'x' is unknown"),
    ],
)
def test_a_series_that_can_never_run_is_refused(
    backend: str, model: str | dict[str, Any], settings: dict[str, Any], key: str, said: str
) -> None:
    with pytest.raises(InvalidSeries, match=said) as caught:
        resolve_backend(backend).check(series(backend, model, **settings))
    assert caught.value.key == key


def test_states_of_mamba_ssm_are_of_the_weights_type_and_one_input_wider() -> None:
    """It keeps the whole convolution window, and no float32 state beside narrow weights."""
    estimate = resolve_backend("mamba_ssm").estimate
    for model, values in {"tiny-mamba1": 512 * (4 + 16), "tiny-mamba2": 640 * 4 + 512 * 64}.items():
        for dtype, width in {"float32": 4, "bfloat16": 2}.items():
            cost = estimate(series("mamba_ssm", model, dtype=dtype), 1000, 3)
            assert cost is not None
            assert cost.cache_bytes == 3 * 2 * values * width
            assert cost.parameters == sum(
                accounting.parameters(catalog.load_config(model)).values()
            )


def test_a_folder_of_another_family_is_not_run_as_flas(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InvalidSeries, match="'llama' is not driven"):
        resolve_backend("fla").check(series("fla", str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "gla"}')
    resolve_backend("fla").check(series("fla", str(tmp_path)))


def test_fla_is_given_the_shapes_of_the_catalogue() -> None:
    described = own_config(series("fla", "tiny-retnet"))
    config = catalog.load_config("tiny-retnet")
    assert described is not None
    assert config.retention is not None
    assert described["num_heads"] == config.retention.heads
    assert described["expand_v"] == config.retention.value_expand
    assert described["hidden_size"] == config.hidden_size
    written = {"model_type": "gla", "hidden_size": 64}
    assert own_config(series("fla", written)) == written
