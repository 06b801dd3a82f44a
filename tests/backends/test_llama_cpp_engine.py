"""llama.cpp beyond the contract: same weights, same logits; cells as its own log counts them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxsweep.backends.base import Backend, InvalidSeries, Limits, Unsupported, resolve_backend
from ctxsweep.backends.checkpoints import model_folder
from ctxsweep.backends.llama_cpp_engine.backend import LlamaCppEngine
from ctxsweep.backends.llama_cpp_engine.binding import library, log
from ctxsweep.records import Series

MISSING = LlamaCppEngine.availability()
engine = pytest.mark.skipif(MISSING is not None, reason="needs llama-cpp-python and gguf")
MODELS = ("tiny-gqa", "tiny-mqa", "tiny-mha", "tiny-moe", "tiny-mamba1", "tiny-mamba2")
MODELS = (*MODELS, "tiny-hybrid")
PROMPT, BATCH = 75, 2


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTXSWEEP_CACHE", str(tmp_path_factory.mktemp("checkpoints")))
        yield


def series(model: str | dict[str, Any] = "tiny-gqa", **settings: Any) -> Series:
    return Series(name="s", backend="llama_cpp", model=model, **settings)


def limits(tokens: int = PROMPT + 20, batch: int = BATCH, **others: Any) -> Limits:
    return Limits(tokens, batch, **{"device": "cpu", "threads": 1, "seed": 0, **others})


@contextmanager
def loaded(asked: Series, within: Limits | None = None) -> Iterator[Backend]:
    backend = resolve_backend(asked.backend).load(asked, within or limits())
    try:
        yield backend
    finally:
        backend.close()


def native(asked: Series) -> Series:
    return asked.model_copy(update={"backend": "native", "options": {"weights": "checkpoint"}})


def prompt(tokens: int = PROMPT, batch: int = BATCH) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 4096, (batch, tokens))


def shown(backend: Backend) -> list[np.ndarray]:
    """Logits after a prompt in two chunks and after tokens that it is given."""
    backend.reset()
    backend.prefill(prompt()[:, :41])
    backend.prefill(prompt()[:, 41:])
    logits = [backend.logits()]
    for column in prompt(4).T:
        backend.prefill(column[:, None])
        logits.append(backend.logits())
    return logits


def difference(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    return max(float(abs(a - b).max()) for a, b in zip(first, second, strict=True))


@engine
@pytest.mark.parametrize("model", MODELS)
def test_float32_logits_are_those_of_the_native_model(model: str) -> None:
    with loaded(series(model)) as ours, loaded(native(series(model))) as theirs:
        assert ours.engine()["weights"] == theirs.engine()["weights"]
        reference = shown(theirs)
        assert difference(shown(ours), reference) < 1e-5
        assert abs(reference[0]).max() > 1


@engine
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("model", MODELS)
def test_narrow_types_stay_near_float32(
    model: str, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within some roundings of logits of about 2: llama.cpp keeps activations in float32."""
    asked = series(model, dtype=dtype)
    with loaded(asked) as ours, loaded(native(asked)) as theirs:
        off = difference(shown(ours), shown(theirs))
    step = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    with capsys.disabled():
        print(f"\nllama.cpp {model} {dtype}: logits within {off:.1e} of native", end="")
    assert off < 8 * step


@engine
@pytest.mark.parametrize("kv_dtype", ["float32", "float16", "bfloat16", "int8"])
def test_cell_types_are_what_was_asked_for(kv_dtype: str) -> None:
    """The type in llama.cpp's own log, its bytes, and an error that the type explains."""
    asked = series(kv_dtype=kv_dtype)
    with loaded(native(series())) as theirs:
        reference = shown(theirs)
    with loaded(asked) as ours:
        name = ours.engine()["type_k"].lower()
        off = difference(shown(ours), reference)
        said = re.findall(r"([\d.]+) MiB \(.*cells.*K \((\w+)\).*V \((\w+)\)", "".join(log()))
        reserved = ours.memory().cache_reserved_bytes
    assert said[-1][1:] == (name, name)
    assert float(said[-1][0]) == pytest.approx(reserved / 2**20, abs=0.006)
    bound = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2, "int8": 4e-2}[kv_dtype]
    assert off < bound
    assert kv_dtype == "float32" or off > 1e-5  # it really is narrower


@engine
@pytest.mark.parametrize("model", ["tiny-gqa", "tiny-mamba1", "tiny-hybrid"])
def test_reserved_bytes_are_those_that_llama_cpp_reports(model: str) -> None:
    asked = series(model, dtype="bfloat16")
    with loaded(asked, limits(tokens=5000, batch=3)) as ours:
        reserved = ours.memory().cache_reserved_bytes
        weights = ours.memory().weights_bytes
    said = "".join(log())
    buffers = [float(n) for n in re.findall(r"(?:KV|RS) buffer size = +([\d.]+) MiB", said)]
    held = [float(n) for n in re.findall(r"model buffer size = +([\d.]+) MiB", said)]
    assert sum(buffers) == pytest.approx(reserved / 2**20, abs=0.011)
    assert sum(held) == pytest.approx(weights / 2**20, abs=0.011)


@engine
def test_flash_attention_over_float32_cells_rounds_them() -> None:
    """Why it is off there unless asked for: it is no longer float32."""
    with loaded(native(series())) as theirs:
        reference = shown(theirs)
    with loaded(series(options={"flash_attn": True})) as ours:
        assert ours.engine()["flash_attn"] is True
        assert 1e-5 < difference(shown(ours), reference) < 2e-3
    for dtype, on in {"float32": False, "bfloat16": False, "float16": True}.items():
        with loaded(series(dtype=dtype)) as ours:
            assert ours.engine()["flash_attn"] is on


@engine
@pytest.mark.parametrize("model", ["tiny-gqa", "tiny-mamba2", "tiny-hybrid"])
@pytest.mark.parametrize("settings", [{"prefill_chunk": "whole"}, {"options": {"n_ubatch": 8}}])
def test_any_physical_batch_gives_the_same_logits(model: str, settings: dict[str, Any]) -> None:
    with loaded(series(model)) as plain, loaded(series(model, **settings)) as cut:
        assert difference(shown(plain), shown(cut)) < 1e-5


@engine
def test_what_llama_cpp_is_told_is_what_it_has() -> None:
    asked = series(prefill_chunk=32)
    with loaded(asked, limits(tokens=700, batch=3, threads=2)) as ours:
        said = json.loads(json.dumps(ours.engine()))
    assert (said["threads"], said["n_ubatch"], said["n_ctx"]) == (2, 96, 3 * 768)
    assert said["parameters"] > 2_000_000


REFUSED = """
from ctxsweep.backends.base import Limits
from ctxsweep.backends.llama_cpp_engine.backend import LlamaCppEngine
from ctxsweep.execute.worker import limit_memory
from ctxsweep.records import Series

series = Series(name="s", backend="llama_cpp", model="tiny-mha")
LlamaCppEngine.load(series, Limits(300, 1, "cpu", 1, 0)).close()
limit_memory(1 << 30)
try:
    LlamaCppEngine.load(series, Limits(1 << 20, 1, "cpu", 1, 0))
except MemoryError as error:
    print(error)
LlamaCppEngine.load(series, Limits(300, 1, "cpu", 1, 0)).close()
print("loads again")
"""


@engine
def test_a_cache_that_memory_refuses_is_out_of_memory() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True)
    assert "a context of 1048576 tokens" in done.stdout, done.stderr
    assert done.stdout.endswith("loads again\n")


@engine
def test_too_many_rows_are_unsupported() -> None:
    most = library().llama_max_parallel_sequences()
    with pytest.raises(Unsupported, match=f"at most {most} sequences"):
        LlamaCppEngine.load(series(), limits(batch=most + 1))


@engine
def test_a_gpu_is_asked_of_a_build_that_has_one() -> None:
    if library().llama_supports_gpu_offload():
        pytest.skip("needs a build of llama.cpp for CPUs only")
    with pytest.raises(Unsupported, match="no GPU backend") as caught:
        LlamaCppEngine.load(series(), limits(device="cuda"))
    assert "DGGML_CUDA=ON" in caught.value.remedy


@engine
def test_a_folder_is_written_again_when_it_changes(tmp_path: Path) -> None:
    """A model folder of the user's: its weights, in the dtype of the series."""
    folder = tmp_path / "model"
    folder.mkdir()
    for seed in (1, 2):
        drawn = model_folder(series(), seed)
        for file in drawn.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        asked = series(str(folder))
        with loaded(asked) as ours, loaded(native(series()), limits(seed=seed)) as theirs:
            assert difference(shown(ours), shown(theirs)) < 1e-5
            assert ours.engine()["weights"] == str(folder)


@engine
def test_biases_and_a_tied_head_are_taken_along() -> None:
    asked = series(
        {
            "model_type": "llama",
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_theta": 500000.0,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        }
    )
    tokens = prompt() % 512
    with loaded(asked) as ours, loaded(native(asked)) as theirs:
        for backend in (ours, theirs):
            backend.prefill(tokens)
        assert difference([ours.logits()], [theirs.logits()]) < 1e-5


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        ({"model": "tiny-swa"}, "model", "no sliding window"),
        ({"window": 64}, "window", "no sliding window; leave it out"),
        ({"model": "tiny-rwkv7"}, "model", "rwkv7"),
        (
            {
                "model": {
                    "like": "tiny-gqa",
                    "attention": {"rope": {"rope_type": "linear", "factor": 2.0}},
                }
            },
            "model",
            "no stretched RoPE",
        ),
        ({"model": "tiny-gqa", "kv_dtype": "fp8_e4m3"}, "kv_dtype", "nearest valid: int8"),
        ({"model": "tiny-mamba1", "kv_dtype": "float16"}, "kv_dtype", "no attention"),
        ({"options": {"fast": 1}}, "options", "'fast' is unknown"),
        ({"options": {"n_ubatch": 0}}, "options.n_ubatch", "0 is not"),
        ({"options": {"flash_attn": 1}}, "options.flash_attn", "true or false"),
        (
            {"kv_dtype": "int8", "options": {"flash_attn": False}},
            "kv_dtype",
            "needs options.flash_attn",
        ),
        ({"rope": {"rope_type": "yarn", "factor": 2.0}}, "rope", "backend transformers"),
        ({"model": {"like": "tiny-mamba2", "mamba": {"groups": 2}}}, "model", "groups"),
    ],
)
def test_a_series_that_can_never_run_is_refused(
    settings: dict[str, Any], key: str, said: str
) -> None:
    with pytest.raises(InvalidSeries, match=said) as caught:
        LlamaCppEngine.check(series(**settings))
    assert caught.value.key == key


def test_without_the_package_the_remedy_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxsweep.backends.llama_cpp_engine.backend.find_spec", lambda name: None)
    missing = LlamaCppEngine.availability()
    assert missing is not None
    assert "pip install llama-cpp-python" in missing.remedy
