"""One contract over every line of the BACKENDS table.

A new adapter is picked up by itself: every small model of the catalogue that its ``check`` accepts
is taken through the life of a measurement. Results are compared where the engine shows them, as
``next_tokens`` of ``engine()``: the greedy tokens that it would feed next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from ctxsweep.backends.base import BACKENDS, Backend, InvalidSeries, Limits
from ctxsweep.models import catalog
from ctxsweep.records import Cost, Series

PROMPT_TOKENS, DECODED, BATCH = 75, 6, 2
MODELS = [name for name in catalog.names() if name.startswith("tiny-")]


def series(backend: str, model: str, **settings: Any) -> Series:
    return Series(name="contract", backend=backend, model=model, page_size=16, **settings)


def accepts(backend: str, model: str) -> bool:
    try:
        BACKENDS[backend].adapter().check(series(backend, model))
    except InvalidSeries:
        return False
    return True


CASES = [
    (name, model)
    for name, entry in BACKENDS.items()
    if entry.adapter().availability() is None
    for model in MODELS
    if accepts(name, model)
]
every_case = pytest.mark.parametrize(("name", "model"), CASES)


def prompt(batch: int = BATCH, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (batch, PROMPT_TOKENS))


@contextmanager
def loaded(name: str, model: str, batch: int = BATCH, **settings: Any) -> Iterator[Backend]:
    limits = Limits(PROMPT_TOKENS + 40, batch, "cpu", threads=1, seed=0)
    backend = BACKENDS[name].adapter().load(series(name, model, **settings), limits)
    try:
        yield backend
    finally:
        backend.close()


def feed(backend: Backend, tokens: np.ndarray, call_tokens: int) -> None:
    for start in range(0, tokens.shape[1], call_tokens):
        backend.prefill(tokens[:, start : start + call_tokens])


def generate(backend: Backend, tokens: int = DECODED) -> list[Any]:
    """The tokens that the engine feeds itself, where it shows them."""
    shown = []
    for _ in range(tokens):
        shown.append(backend.engine().get("next_tokens"))
        backend.decode()
    return shown


@pytest.mark.parametrize("name", BACKENDS)
def test_every_engine_says_what_it_is_or_why_not(name: str) -> None:
    entry = BACKENDS[name]
    assert entry.summary
    missing = entry.adapter().availability()
    assert missing is None or (missing.reason and missing.remedy)


@pytest.mark.parametrize("name", BACKENDS)
def test_what_cannot_be_is_refused_with_its_key(name: str) -> None:
    with pytest.raises(InvalidSeries) as caught:
        BACKENDS[name].adapter().check(series(name, "tiny-gqq"))
    assert caught.value.key == "model"
    assert "tiny-gqa" in caught.value.message


@every_case
def test_prefill_whole_in_chunks_and_token_by_token_are_the_same(name: str, model: str) -> None:
    modes = {"whole": PROMPT_TOKENS, 16: 16, 37: 37, "recurrent": 1}
    shown, used = [], []
    for mode, call_tokens in modes.items():
        with loaded(name, model, prefill_chunk=mode) as backend:
            feed(backend, prompt(), call_tokens)
            used.append(backend.memory().cache_used_bytes)
            shown.append(generate(backend))
    assert shown == [shown[0]] * len(modes)
    assert used == [used[0]] * len(modes)


@every_case
def test_a_row_of_a_batch_is_a_batch_of_one(name: str, model: str) -> None:
    with loaded(name, model) as backend:
        backend.prefill(prompt())
        together = generate(backend)
    for row in range(BATCH):
        with loaded(name, model, batch=1) as backend:
            backend.prefill(prompt()[row : row + 1])
            assert generate(backend) == [step and [step[row]] for step in together]


@every_case
def test_memory_is_what_the_formula_says_at_every_length(name: str, model: str) -> None:
    with loaded(name, model) as backend:
        length = 0
        for tokens in (1, 15, 1, 33, 25):
            backend.prefill(prompt()[:, length : length + tokens])
            length += tokens
            held = backend.memory()
            assert held.cache_used_bytes == backend.cost(length).cache_bytes
            assert held.cache_used_bytes <= held.cache_reserved_bytes
        for _ in range(20):
            backend.decode()
            length += 1
            assert backend.memory().cache_used_bytes == backend.cost(length).cache_bytes
        assert backend.memory().weights_bytes > 0


@every_case
def test_a_mark_gives_back_the_same_continuation(name: str, model: str) -> None:
    with loaded(name, model) as backend:
        if not backend.capabilities.snapshot:
            with pytest.raises(Exception):  # noqa: B017 - each engine's own way of saying no
                backend.snapshot()
            return
        backend.prefill(prompt())
        mark, held = backend.snapshot(), backend.memory()
        first = generate(backend)
        for _ in range(2):
            backend.restore(mark)
            assert backend.memory() == held
            assert generate(backend) == first
        backend.restore(mark)
        backend.prefill(prompt(seed=6)[:, :20])
        onwards = generate(backend)
    with loaded(name, model) as backend:
        feed(backend, prompt(), PROMPT_TOKENS)
        backend.prefill(prompt(seed=6)[:, :20])
        assert generate(backend) == onwards


@every_case
def test_a_void_mark_is_refused(name: str, model: str) -> None:
    with loaded(name, model) as backend:
        if not backend.capabilities.snapshot:
            return
        backend.prefill(prompt()[:, :20])
        old = backend.snapshot()
        backend.prefill(prompt()[:, 20:40])
        newest = backend.snapshot()
        with pytest.raises(ValueError):
            backend.restore(old)
        backend.restore(newest)
        backend.reset()
        with pytest.raises(ValueError):
            backend.restore(newest)


@every_case
def test_reset_forgets_and_keeps_the_reservation(name: str, model: str) -> None:
    with loaded(name, model) as backend:
        empty = backend.memory()
        backend.prefill(prompt(seed=6))
        backend.decode()
        backend.reset()
        assert backend.memory() == empty
        backend.prefill(prompt())
        again = generate(backend)
    with loaded(name, model) as backend:
        backend.prefill(prompt())
        assert generate(backend) == again


@every_case
def test_the_engine_speaks_for_the_record(name: str, model: str) -> None:
    with loaded(name, model) as backend:
        backend.prefill(prompt())
        backend.decode()
        backend.synchronize()
        assert json.loads(json.dumps(backend.engine()))["cached_tokens"] == 0
        assert backend.vocab_size == 4096


@every_case
def test_the_estimate_before_loading_is_the_cost_after(name: str, model: str) -> None:
    estimate = BACKENDS[name].adapter().estimate(series(name, model), 64, BATCH)
    assert estimate is None or isinstance(estimate, Cost)
    with loaded(name, model) as backend:
        cost = backend.cost(64)
    assert estimate in (None, cost)
    assert cost.prefill_flops > cost.decode_flops > 0
    assert cost.decode_bytes > 0
