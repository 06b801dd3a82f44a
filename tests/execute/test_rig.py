"""The rig with engines that ask for more than calls: whole prompts first, work done elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from fake_backend import FakeBackend

from ctxsweep.backends.base import Capabilities, Limits, Tokens
from ctxsweep.execute.rig import RandomPrompts, Rig
from ctxsweep.measure.clock import HostClock
from ctxsweep.measure.memory import MemoryMeter
from ctxsweep.measure.power import NoPowerMeter
from ctxsweep.records import Cell, Series
from ctxsweep.scenario import Procedure

BATCH = 2


class Nobody:
    def begin(self, cell: Cell) -> None:
        pass

    def tick(self, position: int, last_decode_s: float | None) -> None:
        pass


class Asking(FakeBackend):
    """Keeps what it is given; a call took as long as it says."""

    def __init__(self, series: Series, limits: Limits, capabilities: Capabilities) -> None:
        super().__init__(series, limits)
        self.capabilities = capabilities
        self.begun: list[Tokens] = []
        self.fed: list[Tokens] = []

    def begin(self, prompt: Tokens) -> None:
        assert self.context == 0
        self.begun.append(prompt)

    def prefill(self, tokens: Tokens) -> None:
        super().prefill(tokens)
        self.fed.append(tokens)

    def call_s(self) -> float:
        return 7.0 if self.calls[-1][0] == "prefill" else 0.5


def rig_of(**capabilities: bool) -> tuple[Rig, Asking]:
    series = Series(name="a", model="m", prefill_chunk=64)
    limits = Limits(1024, BATCH, "cpu", 1, 0)
    backend = Asking(series, limits, Capabilities(**capabilities))
    memory = MemoryMeter(backend, "cpu", backend.capabilities.remote)
    prompts = RandomPrompts(backend.vocab_size, BATCH, 0)
    how = Procedure(min_samples=8)
    power = NoPowerMeter("a test")
    return Rig(backend, series, BATCH, how, HostClock(), memory, power, prompts, Nobody()), backend


def test_an_engine_that_cuts_prompts_itself_has_each_once_before_its_chunks() -> None:
    rig, backend = rig_of(whole_prompt=True)
    for repeat in range(2):
        rig.restart(repeat)
        samples, readings = rig.climb(200, repeat)
        assert [s.tokens for s in samples] == [64, 64, 64, 8]
        assert [r.position for r in readings] == [64, 128, 192, 200]
    assert [prompt.shape for prompt in backend.begun] == [(BATCH, 200)] * 2
    fed = np.concatenate(backend.fed, axis=1)
    assert (fed == np.concatenate(backend.begun, axis=1)).all()
    assert (backend.begun[0] != backend.begun[1]).any()


def test_others_are_given_no_prompt_beforehand() -> None:
    rig, backend = rig_of()
    rig.restart(0)
    rig.climb(200, 0)
    assert backend.begun == [] and sum(tokens.shape[1] for tokens in backend.fed) == 200


@pytest.mark.parametrize("remote", [False, True])
def test_the_time_of_a_remote_engine_is_what_it_says(remote: bool) -> None:
    rig, _ = rig_of(remote=remote)
    rig.restart(0)
    samples, readings = rig.climb(128, 0)
    rig.decode(samples, readings, 4, 0)
    assert ({s.wall_s for s in samples} == {7.0, 0.5}) is remote
    assert all((s.cpu_s is None) is remote and s.device_s is None for s in samples)
    assert all((r.process_bytes is None) is remote for r in readings)
