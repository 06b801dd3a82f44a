"""Trials asked of an engine and judged, without decoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from ctxsweep.backends.base import Backend, Tokens
from ctxsweep.quality.tasks import TrialPrompt
from ctxsweep.records_quality import Trial

LOG_PROBABILITY_DECIMALS = 5


def run_tasks(
    backend: Backend, prompts: Iterable[TrialPrompt], chunk_tokens: int, batch_size: int = 1
) -> Iterator[Trial]:
    """Ask an engine with ``capabilities.scores``, a trial at a time.

    The answer is fed as if the engine had given it: what it thought of every token of it says
    whether greedy decoding would have. Every prompt is prefilled in calls of ``chunk_tokens`` at
    most; where the engine has snapshots, what the prompt before it shares is not prefilled again.
    All ``batch_size`` sequences are the same; the first is read. Call ``backend.reset`` after it.
    """
    run = _Run(backend, chunk_tokens, batch_size)
    return (run.trial(prompt) for prompt in prompts)


class _Run:
    """An engine, and the trial whose text before the needle it has marked."""

    def __init__(self, backend: Backend, chunk_tokens: int, batch_size: int) -> None:
        self.backend, self.can = backend, backend.capabilities
        self.chunk, self.batch_size = chunk_tokens, batch_size
        self.marked: TrialPrompt | None = None
        self.mark: object = None

    def trial(self, prompt: TrialPrompt) -> Trial:
        """Prefill a prompt with its answer, and read what was thought of the answer."""
        tokens, predicting = prompt.tokens, prompt.context_tokens - len(prompt.answer) - 1
        losses, correct = 0.0, 0
        start = self._begin(prompt)
        for first, end in pairwise(self._edges(start, predicting, len(tokens) - 1)):
            self.backend.prefill(self._rows(tokens[first:end]))
            if end > predicting:
                scores = self.backend.scores(self._rows(tokens[first + 1 : end + 1]))
                of_answer = slice(max(0, predicting - first), None)
                losses += float(scores.losses[0, of_answer].sum(dtype=np.float64))
                correct += int(scores.likeliest[0, of_answer].sum())
        return Trial(
            task=prompt.task,
            context_tokens=prompt.context_tokens,
            depth=prompt.depth,
            trial=prompt.trial,
            answer_tokens=len(prompt.answer),
            correct_tokens=correct,
            log_probability=round(-losses, LOG_PROBABILITY_DECIMALS),
        )

    def _edges(self, start: int, predicting: int, stop: int) -> list[int]:
        """Where calls begin and end; what is scored has calls of its own, where it may."""
        if self.can.whole_prompt and not self.can.snapshot:  # the engine has cut the prompt itself
            return [*range(start, stop, self.chunk), stop]
        return [*range(start, predicting, self.chunk), *range(predicting, stop, self.chunk), stop]

    def _begin(self, prompt: TrialPrompt) -> int:
        """Hold as much of the prompt as can be shared, and say how many tokens that is."""
        if not self.can.snapshot:
            self._restart(prompt)
            return 0
        before, held = prompt.before, 0
        if self.marked is not None and _begins_with(prompt, self.marked):
            self.backend.restore(self.mark)
            held = len(self.marked.before)
        else:
            self._restart(prompt)
        if held < len(before):
            for first, end in pairwise([*range(held, len(before), self.chunk), len(before)]):
                self.backend.prefill(self._rows(before[first:end]))
            self.mark, self.marked = self.backend.snapshot(), prompt
        return len(before)

    def _restart(self, prompt: TrialPrompt) -> None:
        self.backend.reset()
        if self.can.whole_prompt:
            self.backend.begin(self._rows(prompt.tokens[:-1]))

    def _rows(self, tokens: Tokens) -> Tokens:
        return np.repeat(tokens[None], self.batch_size, axis=0)


def _begins_with(prompt: TrialPrompt, marked: TrialPrompt) -> bool:
    """Whether the state after ``marked.before`` is one of ``prompt``'s.

    Not at another context: how RoPE is stretched may depend on the length.
    """
    same = prompt.context_tokens == marked.context_tokens
    return same and np.array_equal(prompt.before[: len(marked.before)], marked.before)
