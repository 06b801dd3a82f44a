"""The adapters of mamba-ssm and flash-linear-attention, driven on a CPU.

Their packages' Triton kernels run in the interpreter, and mamba-ssm's CUDA scan is replaced by the
package's own reference of it. So weights, calls, states and marks are tested; speed is not. Of fla
it is RetNet: the interpreter refuses kernels of its RWKV-7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from ctxsweep.backends import cuda_packages
from ctxsweep.backends.base import Backend, Limits, resolve_backend
from ctxsweep.records import Series

pytestmark = [
    pytest.mark.filterwarnings("ignore:Triton is not supported on current platform"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="needs no GPU: there the contract runs"),
]
BATCH, PROMPT, ROOM, VOCAB = 2, 9, 20, 96
SMALL = {"hidden_size": 32, "vocab_size": VOCAB}  # the interpreter runs a program at a time
CASES = {
    "mamba1": ("mamba_ssm", {"like": "tiny-mamba1", **SMALL}),
    "mamba2": ("mamba_ssm", {"like": "tiny-mamba2", **SMALL, "mamba": {"head_dim": 32}}),
    "retnet": ("fla", {"like": "tiny-retnet", **SMALL, "retention": {"heads": 2}}),
}
every_case = pytest.mark.parametrize("loaded", CASES, indirect=True)


def prompt(tokens: int = PROMPT) -> np.ndarray:
    return np.random.default_rng(3).integers(0, VOCAB, (BATCH, tokens))


def limits() -> Limits:
    return Limits(ROOM, BATCH, "cpu", threads=1, seed=0)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTXSWEEP_CACHE", str(tmp_path_factory.mktemp("checkpoints")))
        yield


@pytest.fixture
def loaded(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    interpreted: Callable[[str], None],
) -> Iterator[Backend]:
    name, model = CASES[request.param]
    chunk = "whole" if name == "mamba_ssm" else 16
    monkeypatch.setattr(cuda_packages, "check_device", lambda *said: None)
    if name == "mamba_ssm":
        from mamba_ssm.modules import mamba_simple
        from mamba_ssm.ops.selective_scan_interface import selective_scan_ref

        monkeypatch.setattr(mamba_simple, "selective_scan_fn", selective_scan_ref)
    series = Series(name="s", backend=name, model=model, prefill_chunk=chunk)
    backend = resolve_backend(name).load(series, limits())
    interpreted(name)
    yield backend
    backend.close()


def continuation(backend: Backend, tokens: int = 2) -> list[np.ndarray]:
    """Logits now and after each greedy token."""
    logits = [backend.logits()]
    for _ in range(tokens):
        backend.decode()
        logits.append(backend.logits())
    return logits


def difference(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    return max(float(abs(a - b).max()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("loaded", ["mamba1", "mamba2"], indirect=True)
def test_mamba_ssms_logits_are_the_native_models(
    loaded: Backend, request: pytest.FixtureRequest
) -> None:
    """With the shared checkpoint's weights, through prefill and steps."""
    asked = Series(name="s", model=CASES[request.node.callspec.params["loaded"]][1])
    native = resolve_backend("native").load(asked, limits())
    assert native.engine()["weights"] == loaded.engine()["weights"]
    for backend in (loaded, native):
        backend.prefill(prompt())
    assert difference(continuation(loaded), continuation(native)) < 1e-5
    assert loaded.memory().weights_bytes == native.memory().weights_bytes
    native.close()


@every_case
def test_a_prompt_in_parts_is_the_whole(loaded: Backend) -> None:
    """mamba-ssm takes what follows the first part token by token."""
    loaded.prefill(prompt())
    whole = continuation(loaded)
    loaded.reset()
    loaded.prefill(prompt()[:, :5])
    loaded.prefill(prompt()[:, 5:])
    assert difference(continuation(loaded), whole) < 1e-5
    assert loaded.engine()["next_tokens"] == whole[-1].argmax(axis=1).tolist()


@every_case
def test_a_mark_gives_back_the_same_continuation(loaded: Backend) -> None:
    with pytest.raises(RuntimeError, match="prefill first"):
        loaded.decode()
    loaded.prefill(prompt())
    mark, held = loaded.snapshot(), loaded.memory()
    first = continuation(loaded)
    for _ in range(2):
        loaded.restore(mark)
        assert loaded.memory() == held
        assert difference(continuation(loaded), first) == 0
    loaded.reset()
    with pytest.raises(ValueError, match="void"):
        loaded.restore(mark)


@every_case
def test_the_state_is_flat_and_as_the_formula_says(loaded: Backend) -> None:
    held = []
    for tokens in (1, 7, 1):
        loaded.prefill(prompt(tokens))
        held.append(loaded.memory().cache_used_bytes)
    assert held == [held[0]] * 3
    assert held[0] > 0
    cost = loaded.cost(9)
    assert cost is None or cost.cache_bytes == held[0]


@every_case
def test_more_than_the_limit_is_refused(loaded: Backend) -> None:
    loaded.prefill(prompt())
    with pytest.raises(ValueError, match=f"{PROMPT + ROOM} tokens .* loaded for {ROOM}"):
        loaded.prefill(prompt(ROOM))
