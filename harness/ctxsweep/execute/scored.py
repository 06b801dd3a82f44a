"""The procedure of cells that ask for quality: a prefill of real text that is scored as it goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from ctxsweep.backends.base import Tokens, Unsupported
from ctxsweep.execute.procedure import MAX_PREFILL_READINGS, ok_record
from ctxsweep.execute.rig import Rig
from ctxsweep.measure.memory import thin
from ctxsweep.quality.corpus import Corpus, TextTooShort, block_losses, read_corpus, stretch
from ctxsweep.quality.haystack import Haystack
from ctxsweep.quality.tasks import ContextTooShort, task_prompts
from ctxsweep.quality.tokenizer import Tokenizer, tokenizer_of
from ctxsweep.quality.trials import run_tasks
from ctxsweep.records import Cell, MemoryReading, Record, Sample
from ctxsweep.records_quality import CellQuality, LossPass, PassPlan, Quality, Trial
from ctxsweep.scenario import Budgets
from ctxsweep.store import utc_now


class TextPrompt:
    """A stretch of text in the place of random tokens."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self.start(0)

    def start(self, repeat: int) -> None:
        """From its beginning again."""
        self._position = 0

    def next(self, tokens: int) -> Tokens:
        """The next ``[1, tokens]``."""
        here = self._position
        self._position += tokens
        return self._tokens[None, here : self._position]


def scored(rig: Rig, cells: Sequence[Cell], budgets: Budgets) -> Iterator[Record]:
    """Every cell: losses along its context and the other passes it asks for, then its tasks.

    The prefill of the first ``repeats`` stretches is timed, and decode after the first, as the
    ``independent`` procedure does; the heads' work for the scores is not among it. A cell that
    takes longer than ``budgets.cell_s`` is ended by the parent.
    """
    if not rig.backend.capabilities.scores:
        raise Unsupported(
            f"backend {rig.series.backend} does not show what it thinks of every token",
            "Take backend native, or remove the section quality",
        )
    if rig.series.prefill_chunk == "recurrent":
        raise Unsupported("quality is scored chunk by chunk", "Set prefill_chunk to a number")
    for cell in cells:
        assert cell.quality is not None
        rig.watcher.begin(cell)
        warmups = rig.warm_up()
        yield _Reading(rig, cell, cell.quality).record(warmups)


class _Reading:
    """One cell's quality, and the samples that its prefills leave."""

    def __init__(self, rig: Rig, cell: Cell, plan: CellQuality) -> None:
        self.rig, self.cell, self.plan = rig, cell, plan
        self.tokenizer: Tokenizer = tokenizer_of(cell.series.model)
        self.corpus: Corpus = read_corpus(plan.text, self.tokenizer, plan.stretch_ends[-1])
        self.samples: list[Sample] = []
        self.memory: list[MemoryReading] = []
        self.stop = "count"
        self.engine: dict[str, Any] = {}

    def record(self, warmups: tuple[Sample, ...]) -> Record:
        rig, at, start = self.rig, utc_now(), self.rig.clock.now()
        rig.memory.start_cell()
        passes = [
            self._pass(index, plan)
            for index in range(len(self.plan.stretch_ends))
            for plan in self.plan.passes
        ]
        trials, problems = self._tasks()
        quality = Quality(
            text=self.corpus.source,
            tokenizer=self.tokenizer.name,
            trained_tokens=self.engine.get("model", {}).get("trained_context"),
            rope=self.engine.get("rope"),
            passes=tuple(passes),
            trials=tuple(trials),
            detail="; ".join(problems),
        )
        record = ok_record(
            rig,
            self.cell,
            samples=tuple(self.samples),
            warmups=warmups,
            memory=tuple(self.memory),
            stopped_by=self.stop,
            power=rig.power.take("prefill", "decode"),
            quality=quality,
            started_at=at,
            elapsed_s=rig.clock.now() - start,
        )
        return record.model_copy(update={"engine": self.engine})

    def _pass(self, index: int, plan: PassPlan) -> LossPass:
        """Feed one stretch, keep its losses; what is of the cell's own context is timed."""
        rig = self.rig
        tokens = stretch(self.corpus, self.plan, index, plan)
        own = plan == self.plan.passes[0]
        rig.prompts = TextPrompt(tokens[:-1])
        rig.restart(index)
        losses: list[np.ndarray] = []

        def score(position: int, count: int) -> None:
            targets = tokens[None, position + 1 : position + count + 1]
            losses.append(rig.backend.scores(targets).losses[0])

        # The board's power is of the cell's own passes, scoring included.
        with rig.power.phase("prefill") if own else nullcontext():
            samples, readings = rig.climb(plan.context_tokens, index, score)
        if own and index < rig.procedure.repeats:
            self.samples += samples
        if own and index == 0:
            self.memory += thin(readings, MAX_PREFILL_READINGS)
            self._decode()
            self.engine = rig.backend.engine()  # as it was at the cell's own context
        return LossPass(
            context_tokens=plan.context_tokens,
            stretch=index,
            end_offset=plan.end_offset,
            block_tokens=self.plan.block_tokens,
            losses=block_losses(np.concatenate(losses), self.plan.block_tokens),
        )

    def _decode(self) -> None:
        taken: list[Sample] = []
        with self.rig.power.phase("decode"):
            stop = self.rig.decode(taken, self.memory, self.cell.generate_tokens, 0)
        self.stop = stop or "count"
        self.samples += taken

    def _tasks(self) -> tuple[list[Trial], list[str]]:
        """All trials of all tasks; a task that does not fit says why, and costs nothing else."""
        if not self.plan.tasks:
            return [], []
        chunk = self.rig.series.prefill_chunk
        chunk_tokens = chunk if isinstance(chunk, int) else self.cell.context_tokens
        haystack = Haystack.of(self.corpus, self.tokenizer)
        trials: list[Trial] = []
        problems: list[str] = []
        for task, plan in self.plan.tasks.items():
            length, seed = self.cell.context_tokens, self.cell.seed
            try:
                prompts = task_prompts(task, plan, haystack, length, seed)
            except (ContextTooShort, TextTooShort) as problem:
                problems.append(str(problem))
                continue
            for trial in run_tasks(self.rig.backend, prompts, chunk_tokens):
                self.rig.watcher.tick(length, None)
                trials.append(trial)
        self.rig.backend.reset()
        return trials, problems
