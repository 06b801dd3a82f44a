"""What every engine must do, whatever it drives: one contract over all lines of BACKENDS.

An engine takes part by a subclass of ``Contract`` in a file of its own, with the models that it is
taken through. Each case is loaded once and reset between tests; tests that need other settings load
their own. Results are compared by logits where the engine shows them, and by ``next_tokens`` of
``engine()``, the greedy tokens that it would feed next.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from ctxsweep.backends.base import (
    BACKENDS,
    Backend,
    HeldMemory,
    InvalidSeries,
    Limits,
    Logits,
    Unsupported,
)
from ctxsweep.records import Cost, Series

PROMPT_TOKENS, DECODED, CHUNK = 75, 6, 16
ROOM = PROMPT_TOKENS + 40
TOLERANCE = 1e-4
"""Of float32 logits that two ways of feeding the same tokens give, over their spread."""
MEASURABLE_BYTES = 32 << 20
Model = str | dict[str, Any]
Mode = int | str


@dataclass(frozen=True)
class Case:
    """A model that an engine is taken through, and the settings that it needs."""

    model: Model
    settings: dict[str, Any] = field(default_factory=dict)
    batch: int = 2

    def __str__(self) -> str:
        model = self.model if isinstance(self.model, str) else json.dumps(self.model)
        return "-".join([model, *(f"{v}" for v in self.settings.values())])


@dataclass(frozen=True)
class Seen:
    """What an engine showed after a prompt, and at every step after it."""

    tokens: list[Any]
    logits: list[Logits]


class Contract:
    """The tests; a subclass names its line of BACKENDS and its cases."""

    backend: ClassVar[str]
    cases: ClassVar[tuple[Case, ...]]
    page_size: ClassVar[int] = 16
    device: ClassVar[str] = "cpu"

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, case: Case) -> Iterator[Backend]:
        with cls.loaded(case, prefill_chunk=cls.chunk(case)) as backend:
            yield backend

    @classmethod
    def series(cls, case: Case, **settings: Any) -> Series:
        known = {"page_size": cls.page_size, **case.settings, **settings}
        return Series(name="contract", backend=cls.backend, model=case.model, **known)

    @classmethod
    @contextmanager
    def loaded(
        cls, case: Case, batch: int | None = None, room: int = ROOM, **settings: Any
    ) -> Iterator[Backend]:
        adapter = BACKENDS[cls.backend].adapter()
        missing = adapter.availability()
        if missing is not None:
            pytest.skip(f"needs {cls.backend}: {missing}")
        limits = Limits(room, batch or case.batch, cls.device, threads=1, seed=0)
        backend = adapter.load(cls.series(case, **settings), limits)
        try:
            yield backend
        finally:
            backend.close()

    @classmethod
    def accepts(cls, case: Case, mode: Mode) -> bool:
        try:
            BACKENDS[cls.backend].adapter().check(cls.series(case, prefill_chunk=mode))
        except InvalidSeries:
            return False
        return True

    @classmethod
    def chunk(cls, case: Case) -> Mode:
        """Prefill in parts where the engine can."""
        return CHUNK if cls.accepts(case, CHUNK) else "whole"

    def test_a_prompt_may_be_fed_in_any_parts(self, case: Case, engine: Backend) -> None:
        modes = [mode for mode in (37, "whole", "recurrent") if self.accepts(case, mode)]
        feed(engine, prompt(case.batch), call_tokens(self.chunk(case)))
        used, seen = engine.memory().cache_used_bytes, generate(engine)
        for mode in modes:
            with self.loaded(case, prefill_chunk=mode) as other:
                feed(other, prompt(case.batch), call_tokens(mode))
                assert other.memory().cache_used_bytes == used
                assert_same(generate(other), seen)

    def test_decoding_goes_on_where_prefill_ended(self, case: Case, engine: Backend) -> None:
        if not engine.capabilities.logits:
            pytest.skip(f"needs logits, which {self.backend} does not show")
        tokens = prompt(case.batch)
        feed(engine, tokens, call_tokens(self.chunk(case)))
        seen = generate(engine)
        longer = np.concatenate([tokens, np.array(seen.tokens[:-1]).T], axis=1)
        feed(engine, longer, call_tokens(self.chunk(case)))
        assert_close(engine.logits(), seen.logits[-1])

    def test_a_row_of_a_batch_is_a_batch_of_one(self, case: Case, engine: Backend) -> None:
        if case.batch == 1:
            with pytest.raises(Unsupported) as refused, self.loaded(case, batch=2):
                pass
            assert refused.value.remedy
            return
        feed(engine, prompt(case.batch), call_tokens(self.chunk(case)))
        together = generate(engine)
        with self.loaded(case, batch=1, prefill_chunk=self.chunk(case)) as alone:
            for row in range(case.batch):
                feed(alone, prompt(case.batch)[row : row + 1], call_tokens(self.chunk(case)))
                one = generate(alone)
                assert one.tokens == [step and [step[row]] for step in together.tokens]
                for logits, both in zip(one.logits, together.logits, strict=True):
                    assert_close(logits[0], both[row])

    def test_memory_is_what_the_formula_says_at_every_length(
        self, case: Case, engine: Backend
    ) -> None:
        engine.reset()
        if engine.memory().cache_used_bytes is None:
            return
        tokens, length = prompt(case.batch), 0
        parts = call_sizes(engine, self.chunk(case))
        if engine.capabilities.whole_prompt:
            engine.begin(tokens)
        for part in parts:
            engine.prefill(tokens[:, length : length + part])
            length += part
            assert_held(engine.memory(), engine.cost(length))
        for _ in range(20):
            engine.decode()
            length += 1
            assert_held(engine.memory(), engine.cost(length))

    def test_a_mark_gives_back_the_same_continuation(self, case: Case, engine: Backend) -> None:
        if not engine.capabilities.snapshot:
            return
        tokens, more = prompt(case.batch), prompt(case.batch, seed=6)[:, :20]
        feed(engine, tokens, call_tokens(self.chunk(case)))
        mark, held = engine.snapshot(), engine.memory()
        first = generate(engine)
        for _ in range(2):
            engine.restore(mark)
            assert engine.memory() == held
            assert_same(generate(engine), first)
        engine.restore(mark)
        engine.prefill(more)
        onwards = generate(engine)
        feed(engine, tokens, call_tokens(self.chunk(case)))
        engine.prefill(more)
        assert_same(generate(engine), onwards)

    def test_a_void_mark_is_refused(self, case: Case, engine: Backend) -> None:
        if not engine.capabilities.snapshot:
            return
        engine.reset()
        engine.prefill(prompt(case.batch)[:, :20])
        old = engine.snapshot()
        engine.prefill(prompt(case.batch)[:, 20:40])
        newest = engine.snapshot()
        with pytest.raises(ValueError):
            engine.restore(old)
        engine.restore(newest)
        engine.reset()
        with pytest.raises(ValueError):
            engine.restore(newest)

    def test_reset_forgets_and_keeps_the_reservation(self, case: Case, engine: Backend) -> None:
        feed(engine, prompt(case.batch), call_tokens(self.chunk(case)))
        first = generate(engine)
        engine.reset()
        nothing = engine.memory()
        feed(engine, prompt(case.batch, seed=6), call_tokens(self.chunk(case)))
        engine.decode()
        engine.reset()
        assert engine.memory() == nothing
        feed(engine, prompt(case.batch), call_tokens(self.chunk(case)))
        assert_same(generate(engine), first)

    def test_more_than_the_limit_is_refused_in_plain_words(
        self, case: Case, engine: Backend
    ) -> None:
        tokens = np.concatenate([prompt(case.batch)] * 2, axis=1)
        with pytest.raises(ValueError, match=rf"\b{ROOM}\b"):
            feed(engine, tokens, call_tokens(self.chunk(case)))
        feed(engine, prompt(case.batch), call_tokens(self.chunk(case)))  # it goes on
        generate(engine)

    def test_the_engine_speaks_for_the_record(self, case: Case, engine: Backend) -> None:
        feed(engine, prompt(case.batch), call_tokens(self.chunk(case)))
        engine.decode()
        engine.synchronize()
        said = json.loads(json.dumps(engine.engine()))
        assert not said["cached_tokens"]
        assert said["weights"]
        assert engine.vocab_size > 1

    def test_what_is_known_before_loading_is_what_is_found(
        self, case: Case, engine: Backend
    ) -> None:
        series = self.series(case, prefill_chunk=self.chunk(case))
        estimate = BACKENDS[self.backend].adapter().estimate(series, 64, case.batch)
        assert estimate is None or isinstance(estimate, Cost)
        cost = engine.cost(64)
        assert estimate in (None, cost)
        assert cost is None or cost.prefill_flops > cost.decode_flops > 0
        assert cost is None or cost.decode_bytes > 0

    def test_close_gives_the_memory_back_and_it_loads_again(
        self, case: Case, engine: Backend
    ) -> None:
        mode = self.chunk(case)
        feed(engine, prompt(case.batch), call_tokens(mode))
        first = generate(engine)
        seen = []
        for _ in range(3):
            gc.collect()
            mapped, tensors = mapped_bytes(), tensor_bytes()
            with self.loaded(case, room=1 << 15, prefill_chunk=mode) as again:
                feed(again, prompt(case.batch), call_tokens(mode))
                assert_same(generate(again), first)
                held = again.memory()
            gc.collect()
            seen.append((mapped_bytes() - mapped, tensor_bytes() - tensors))
        # What one load leaves behind (libraries, what the allocator keeps) is not held: a leak is
        # there every time.
        total = (held.weights_bytes or 0) + (held.cache_reserved_bytes or 0)
        assert min(more for _, more in seen) <= 0.1 * total
        if total > MEASURABLE_BYTES:
            assert min(more for more, _ in seen) <= 0.5 * total


def prompt(batch: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (batch, PROMPT_TOKENS))


def call_tokens(mode: Mode) -> int:
    return {"whole": 1 << 20, "recurrent": 1}.get(str(mode)) or int(mode)


def call_sizes(backend: Backend, mode: Mode) -> list[int]:
    """Uneven parts of the prompt, unless the engine cuts it itself."""
    if not backend.capabilities.chunked_prefill:
        return [PROMPT_TOKENS]
    if not backend.capabilities.whole_prompt:
        return [1, 15, 1, 33, 25]
    return [min(int(mode), PROMPT_TOKENS - at) for at in range(0, PROMPT_TOKENS, int(mode))]


def feed(backend: Backend, tokens: np.ndarray, each: int) -> None:
    """A round from its beginning: the whole prompt, ``each`` tokens a call."""
    backend.reset()
    if backend.capabilities.whole_prompt:
        backend.begin(tokens)
    for start in range(0, tokens.shape[1], each):
        backend.prefill(tokens[:, start : start + each])


def generate(backend: Backend, steps: int = DECODED) -> Seen:
    """Tokens and logits before every step, where the engine shows them."""
    tokens, logits = [], []
    for _ in range(steps):
        tokens.append(backend.engine().get("next_tokens"))
        if backend.capabilities.logits:
            logits.append(backend.logits())
        backend.decode()
    return Seen(tokens, logits)


def assert_same(a: Seen, b: Seen) -> None:
    assert a.tokens == b.tokens
    for ours, theirs in zip(a.logits, b.logits, strict=True):
        assert_close(ours, theirs)


def assert_close(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= TOLERANCE * max(1.0, b.std())


def assert_held(held: HeldMemory, cost: Cost | None) -> None:
    assert held.weights_bytes and held.cache_reserved_bytes is not None
    if cost is not None:
        assert held.cache_used_bytes == cost.cache_bytes
    assert held.cache_used_bytes is not None
    assert held.cache_used_bytes <= held.cache_reserved_bytes


def mapped_bytes() -> int:
    """Private writable mappings of this process, touched or not."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmData:"))


def tensor_bytes() -> int:
    """Bytes of the storages of all tensors that are alive."""
    storages = {}
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, torch.nn.Parameter) and one.device.type == "cpu":
            storage = one.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
