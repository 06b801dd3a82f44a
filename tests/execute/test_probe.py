"""The probe: the same prompt for every engine, fed as the series feeds its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ctxsweep.backends.base import Capabilities, Limits
from ctxsweep.backends.native import NativeBackend
from ctxsweep.execute.probe import PROBE_TOKENS, SHOWN, read_probe
from ctxsweep.records import Probe, Series

MAX_TOKENS = 300


def probe(batch_size: int = 1, max_tokens: int = MAX_TOKENS, **settings: Any) -> Probe:
    series = Series(name="x", **{"model": "tiny-gqa", **settings})
    backend = NativeBackend.load(series, Limits(MAX_TOKENS, batch_size, "cpu", threads=1, seed=0))
    found = read_probe(backend, series, batch_size, max_tokens, seed=0)
    assert backend.memory().cache_used_bytes == 0  # nothing is left of it
    backend.close()
    assert found is not None
    return found


def rms(a: Probe, b: Probe) -> float:
    difference = np.subtract(np.array(a.logits, float), np.array(b.logits, float))
    return float(np.sqrt(np.mean(difference**2))) / a.spread


def test_it_is_the_same_however_the_series_is_fed() -> None:
    first = probe()
    assert (first.tokens, first.vocabulary, len(first.logits)) == (PROBE_TOKENS, 4096, SHOWN)
    for settings in (
        {"prefill_chunk": 48},
        {"prefill_chunk": "whole"},
        {"prefill_chunk": "recurrent"},
    ):
        assert rms(first, probe(**settings)) < 1e-5
    assert rms(first, probe(batch_size=2)) < 1e-5


def test_a_wrong_model_shows() -> None:
    assert rms(probe(), probe(window=8)) > 1e-3
    assert rms(probe(), probe(model="tiny-mqa")) > 0.1


def test_a_short_limit_shortens_it() -> None:
    assert probe(max_tokens=40).tokens == 40


class Whole:
    """Takes prompts whole; shows what it was given."""

    vocab_size = 100

    def __init__(self, **capabilities: bool) -> None:
        self.capabilities = Capabilities(**capabilities)
        self.calls: list[tuple[str, int]] = []
        self.value = 1.0

    def reset(self) -> None:
        self.calls.append(("reset", 0))

    def begin(self, prompt: np.ndarray) -> None:
        self.calls.append(("begin", prompt.shape[1]))

    def prefill(self, tokens: np.ndarray) -> None:
        self.calls.append(("prefill", tokens.shape[1]))

    def logits(self) -> np.ndarray:
        return np.full((1, self.vocab_size), self.value, dtype=np.float32)


def test_an_engine_that_cuts_prompts_itself_is_given_the_whole_first() -> None:
    backend: Any = Whole(logits=True, whole_prompt=True)
    read_probe(backend, Series(name="x", model="m", prefill_chunk=64), 1, 100, 0)
    assert backend.calls == [
        ("reset", 0),
        ("begin", 100),
        ("prefill", 64),
        ("prefill", 36),
        ("reset", 0),
    ]


def test_an_engine_without_logits_is_left_alone() -> None:
    backend: Any = Whole(logits=False)
    assert read_probe(backend, Series(name="x", model="m"), 1, 100, 0) is None
    assert backend.calls == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_can_be_stored(value: float) -> None:
    backend: Any = Whole(logits=True)
    backend.value = value
    found = read_probe(backend, Series(name="x", model="m"), 1, 100, 0)
    assert found is not None and set(found.logits) == {None}
    assert Probe.model_validate_json(found.model_dump_json()) == found
