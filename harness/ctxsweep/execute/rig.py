"""A loaded backend on the bench: climbs and decode runs, timed, with their memory readings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from ctxsweep.backends.base import Backend, Tokens
from ctxsweep.execute.prediction import PrefillCurve
from ctxsweep.measure.clock import Clock
from ctxsweep.measure.memory import MemoryMeter
from ctxsweep.measure.power import PowerMeter
from ctxsweep.records import Cell, MemoryReading, Sample, Series
from ctxsweep.scenario import Procedure

RECURRENT_GROUP = 64
"""Calls of one token each that one sample times in recurrent prefill."""
MIN_FOR_INTERVAL = 6
"""Below this no pair of order statistics covers the median with 95%."""
Z95 = 1.96

Stop = Literal["noise", "time", "count"]


class Watcher(Protocol):
    """Told where the work is, so that deadlines and the progress display can follow."""

    def begin(self, cell: Cell) -> None:
        """Work towards a cell begins."""

    def tick(self, position: int, last_decode_s: float | None) -> None:
        """A chunk or a token is done."""


class Prompts(Protocol):
    """Where a prefill's tokens come from."""

    def start(self, repeat: int) -> None:
        """Begin the prompt of a repetition."""

    def next(self, tokens: int) -> Tokens:
        """The next ``[B, tokens]`` of the prompt."""


class RandomPrompts:
    """Seeded random tokens, new for each repetition so that no prefix can be found again."""

    def __init__(self, vocab_size: int, batch_size: int, seed: int) -> None:
        self._vocab_size = vocab_size
        self._batch_size = batch_size
        self._seed = seed
        self.start(0)

    def start(self, repeat: int) -> None:
        """Begin the prompt of a repetition."""
        self._random = np.random.default_rng([self._seed, repeat])

    def next(self, tokens: int) -> Tokens:
        """The next ``[B, tokens]`` of the prompt."""
        size = (self._batch_size, tokens)
        return self._random.integers(0, self._vocab_size, size=size, dtype=np.int64)


def noise(values: Sequence[float]) -> float:
    """Relative half-width of the median's 95% interval from order statistics; inf for too few.

    Ranks by the normal approximation to the binomial (Conover, Practical Nonparametric
    Statistics, section 3.2).
    """
    n = len(values)
    if n < MIN_FOR_INTERVAL:
        return math.inf
    ordered = np.sort(np.asarray(values))
    half = Z95 * math.sqrt(n) / 2
    low = max(0, math.floor(n / 2 - half))
    high = min(n - 1, math.ceil(n / 2 + half))
    return float((ordered[high] - ordered[low]) / 2 / ordered[n // 2])


@dataclass
class Rig:
    """One backend with all that measures it. Holds where it stands in the context."""

    backend: Backend
    series: Series
    batch_size: int
    procedure: Procedure
    clock: Clock
    memory: MemoryMeter
    power: PowerMeter
    prompts: Prompts
    watcher: Watcher
    position: int = 0
    seen: list[Sample] = field(default_factory=list)
    """All prefill samples of this child, for predictions."""

    def restart(self, repeat: int) -> None:
        """Drop the context; the next prompt is a new one."""
        self.backend.reset()
        self.prompts.start(repeat)
        self.position = 0

    def warm_up(self) -> tuple[Sample, ...]:
        """A short prefill and a few decode steps before anything counts."""
        tokens = self.procedure.warmup_tokens
        if not tokens:
            return ()
        self.restart(self.procedure.repeats)
        samples, _ = self.climb(tokens, self.procedure.repeats)
        steps = min(tokens, self.procedure.min_samples)
        samples += [self._step(i, self.procedure.repeats) for i in range(steps)]
        self.seen.clear()
        return tuple(samples)

    def climb(
        self, target: int, repeat: int, after: Callable[[int, int], None] | None = None
    ) -> tuple[list[Sample], list[MemoryReading]]:
        """Prefill in chunks up to ``target`` tokens of context; a reading after every chunk.

        ``after`` is called behind every chunk, with where it began and its tokens; not timed.
        """
        samples, readings = [], []
        for chunk in self._chunks(target):
            tokens = chunk.shape[1]
            self.memory.before()
            samples.append(self._time("prefill", self._feed(chunk), tokens, repeat))
            self.position += tokens
            readings.append(self.memory.reading("prefill", self.position))
            if after is not None:
                after(self.position - tokens, tokens)
            self.watcher.tick(self.position, None)
        self.seen += samples
        return samples, readings

    def decode(
        self, taken: list[Sample], readings: list[MemoryReading], steps: int, repeat: int
    ) -> Stop | None:
        """Generate up to ``steps`` tokens, adding to ``taken``; why it stopped early, or None.

        The caller gives back the context (restore or reset): ``position`` does not move.
        """
        every = self.procedure.memory_every_tokens
        spent_s = sum(sample.wall_s for sample in taken)
        for i in range(steps):
            if i % every == 0:
                self.memory.before()
            taken.append(self._step(i, repeat))
            spent_s += taken[-1].wall_s
            stop = self._stop(taken, spent_s)
            if (i + 1) % every == 0 or stop or i + 1 == steps:
                readings.append(self.memory.reading("decode", self.position + i + 1))
            self.watcher.tick(self.position + i + 1, taken[-1].wall_s)
            if stop:
                return stop
        return None

    def predict_s(self, start: int, end: int) -> float:
        """Predicted time of a prefill from ``start`` to ``end``; 0 before any was seen."""
        return PrefillCurve(self.seen).seconds(start, end)

    def _chunks(self, target: int) -> Iterator[Tokens]:
        """The next calls' tokens, drawn as they are needed unless the engine wants all at once."""
        if not self.backend.capabilities.whole_prompt:
            while self.position < target:
                yield self.prompts.next(self._chunk_tokens(target))
            return
        start = self.position
        prompt = self.prompts.next(target - start)
        self.backend.begin(prompt)
        while self.position < target:
            here = self.position - start
            yield prompt[:, here : here + self._chunk_tokens(target)]

    def _chunk_tokens(self, target: int) -> int:
        left = target - self.position
        chunk = self.series.prefill_chunk
        if chunk == "whole":
            return left
        return min(left, RECURRENT_GROUP if chunk == "recurrent" else chunk)

    def _feed(self, prompt: Tokens) -> Callable[[], None]:
        if self.series.prefill_chunk != "recurrent":
            return lambda: self.backend.prefill(prompt)
        columns: Iterator[Tokens] = (prompt[:, i : i + 1] for i in range(prompt.shape[1]))
        singles = list(columns)

        def token_by_token() -> None:
            for single in singles:
                self.backend.prefill(single)

        return token_by_token

    def _step(self, index: int, repeat: int) -> Sample:
        return self._time("decode", self.backend.decode, 1, repeat, offset=index)

    def _time(
        self,
        phase: Literal["prefill", "decode"],
        call: Callable[[], None],
        tokens: int,
        repeat: int,
        offset: int = 0,
    ) -> Sample:
        timing = self.clock.time(call, self.backend.synchronize)
        remote = self.backend.capabilities.remote
        return Sample(
            phase=phase,
            position=self.position + offset,
            tokens=tokens,
            wall_s=self.backend.call_s() if remote else timing.wall_s,
            cpu_s=None if remote else timing.cpu_s,
            device_s=None if remote else timing.device_s,
            repeat=repeat,
        )

    def _stop(self, taken: Sequence[Sample], spent_s: float) -> Stop | None:
        count = len(taken)
        # Sorting at every token would be work beside the work measured: look ever more rarely.
        due = count >= self.procedure.min_samples and count % max(1, count // 16) == 0
        if due and noise([sample.wall_s for sample in taken]) < self.procedure.max_noise:
            return "noise"
        return "time" if spent_s >= self.procedure.max_cell_s else None
