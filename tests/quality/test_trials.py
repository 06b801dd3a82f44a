"""Trials asked of engines: one that finds keys by reading, and native models."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ctxsweep.backends.base import Capabilities, Limits, Scores, Tokens
from ctxsweep.backends.native import NativeBackend
from ctxsweep.quality.corpus import read_corpus
from ctxsweep.quality.haystack import Haystack
from ctxsweep.quality.tasks import TrialPrompt, task_prompts
from ctxsweep.quality.tokenizer import Bytes
from ctxsweep.quality.trials import run_tasks
from ctxsweep.records import Series
from ctxsweep.records_quality import TaskName, TaskPlan, Trial

CONTEXT = 1500
WRONG_LOSS = 8.0
HAYSTACK = Haystack.of(read_corpus("persuasion", Bytes(), CONTEXT), Bytes())


def asked(task: TaskName = "passkey", context: int = CONTEXT, **plan: Any) -> list[TrialPrompt]:
    return task_prompts(task, TaskPlan(**plan), HAYSTACK, context)


class Reader:
    """Reads bytes, ``window`` of them at most, and goes on as whoever has found the answer would.

    It holds its caller to the protocol: marks, chunks, and what may be scored.
    """

    def __init__(self, chunk: int, window: int = 10**9, **capabilities: bool) -> None:
        self.capabilities = Capabilities(scores=True, **capabilities)
        self.chunk, self.window = chunk, window
        self.text, self.fresh, self.marks, self.begun = b"", b"", 0, 0
        self.fed: list[int] = []
        self.scored: list[int] = []

    def begin(self, prompt: Tokens) -> None:
        assert self.capabilities.whole_prompt and not self.text
        self.begun = prompt.shape[1]

    def prefill(self, tokens: Tokens) -> None:
        assert tokens.dtype == np.int64 and (tokens == tokens[0]).all()
        assert 0 < tokens.shape[1] <= self.chunk
        if self.capabilities.whole_prompt:
            due = min(self.chunk, self.begun - len(self.text))
            assert tokens.shape[1] == due or self.capabilities.snapshot
        self.fresh = bytes(tokens[0].tolist())
        self.text += self.fresh
        self.fed.append(len(self.fresh))

    def scores(self, targets: Tokens) -> Scores:
        assert targets.shape[1] == len(self.fresh)
        self.scored.append(len(self.fresh))
        start = len(self.text) - len(self.fresh)
        right = [
            self._next(start + place + 1) == targets[0, place] for place in range(len(self.fresh))
        ]
        rows = np.repeat(np.array([right]), len(targets), axis=0)
        return Scores(np.where(rows, np.float32(0.25), np.float32(WRONG_LOSS)), rows)

    def _next(self, end: int) -> int | None:
        """The byte after ``text[:end]``, as far as it can be read in the window."""
        seen = self.text[max(0, end - self.window) : end].decode()
        for answer, given in (self._passkey(seen), self._magic(seen), self._chain(seen)):
            if answer and answer.startswith(given) and answer != given:
                return answer.encode()[len(given)]
        return None

    def _passkey(self, seen: str) -> tuple[str, str]:
        key = re.search(r"The pass key is (\d{5})\.", seen)
        given = re.search(r"What is the pass key\? The pass key is( ?\d*)$", seen)
        return (f" {key[1]}", given[1]) if key and given else ("", "")

    def _magic(self, seen: str) -> tuple[str, str]:
        given = re.search(r"\? The special magic number for (\S+) is:( ?\d*)$", seen)
        key = given and re.search(rf"magic number for {given[1]} is: (\d+)\.", seen)
        return (f" {key[1]}", given[2]) if key and given else ("", "")

    def _chain(self, seen: str) -> tuple[str, str]:
        given = re.search(r"assigned the value (\d+), they are: VAR([A-Z, ]*)$", seen)
        names = [given[1]] if given else []
        for name, of in re.findall(r"\nVAR (\w+) = (?:VAR )?(\w+)\.", seen):
            names += [name] if of in names[-1:] else []
        return (f" {', VAR '.join(names[1:])}", given[2]) if given else ("", "")

    def snapshot(self) -> object:
        self.marks += 1
        return self.marks, self.text

    def restore(self, mark: Any) -> None:
        assert mark[0] == self.marks, "an older mark is void"
        self.text, self.fresh = mark[1], b""

    def reset(self) -> None:
        self.text, self.fresh, self.begun = b"", b"", 0
        self.marks += 1


CAPABILITIES = [
    {"snapshot": True},
    {"snapshot": False},
    {"snapshot": True, "whole_prompt": True},
    {"snapshot": False, "whole_prompt": True},
]


@pytest.mark.parametrize("can", CAPABILITIES)
@pytest.mark.parametrize("chunk", [1, 7, 64, CONTEXT])
@pytest.mark.parametrize("task", ["passkey", "multi_key", "variable_tracking"])
def test_who_finds_the_answer_is_right(task: TaskName, chunk: int, can: dict[str, bool]) -> None:
    prompts = asked(task, trials=1 if chunk == 1 else 2)
    reader = Reader(chunk, **can)
    trials = list(run_tasks(reader, prompts, chunk))
    assert [(t.task, t.depth, t.trial) for t in trials] == [
        (p.task, p.depth, p.trial) for p in prompts
    ]
    for prompt, trial in zip(prompts, trials, strict=True):
        assert trial.exact
        assert trial.answer_tokens == len(prompt.answer)
        assert trial.context_tokens == CONTEXT
        assert trial.log_probability == -0.25 * len(prompt.answer)


def test_who_finds_nothing_is_wrong_in_all() -> None:
    prompts = asked()
    (trial, *_) = run_tasks(Reader(64, window=20, snapshot=True), prompts, 64)
    assert trial.correct_tokens == 0
    assert trial.log_probability == -WRONG_LOSS * len(prompts[0].answer)


@pytest.mark.parametrize("window", [300, 700, 1100])
def test_a_window_loses_what_lies_before_it_and_nothing_else(window: int) -> None:
    prompts = asked(depths=(0.02, 0.2, 0.4, 0.6, 0.8, 0.98))
    trials = list(run_tasks(Reader(64, window=window, snapshot=True), prompts, 64))
    needles = [len(prompt.before) + 1 for prompt in prompts]
    seen = [CONTEXT - 1 - needle <= window for needle in needles]
    assert [trial.exact for trial in trials] == seen
    assert {True, False} == set(seen)


def test_only_the_answer_is_scored_and_shared_text_is_fed_once() -> None:
    prompts = asked()
    reader = Reader(100, snapshot=True)
    list(run_tasks(reader, prompts, 100))
    assert reader.scored == [len(prompt.answer) for prompt in prompts]
    deepest = len(prompts[-1].before)
    assert sum(reader.fed) == deepest + sum(len(p.after) + len(p.answer) - 1 for p in prompts)


def test_an_engine_without_snapshots_is_fed_every_prompt() -> None:
    prompts = asked()
    reader = Reader(100)
    list(run_tasks(reader, prompts, 100))
    assert sum(reader.fed) == len(prompts) * (CONTEXT - 1)
    assert reader.scored == [len(prompt.answer) for prompt in prompts]


def test_what_another_length_has_marked_is_not_taken() -> None:
    (prompt,) = asked(trials=1, depths=(0.5,))
    longer = replace(prompt, after=np.concatenate([np.full(100, ord(" ")), prompt.after]))
    reader = Reader(100, snapshot=True, whole_prompt=True)
    assert all(trial.exact for trial in run_tasks(reader, [prompt, longer], 100))
    assert sum(reader.fed) == CONTEXT - 1 + CONTEXT + 99


def test_all_sequences_of_a_batch_are_asked() -> None:
    reader = Reader(100, snapshot=True)
    shapes = []
    reader.prefill = lambda tokens, feed=reader.prefill: (shapes.append(len(tokens)), feed(tokens))
    trials = list(run_tasks(reader, asked(trials=1), 100, batch_size=3))
    assert set(shapes) == {3}
    assert all(trial.exact for trial in trials)


@pytest.mark.parametrize("model", ["tiny-gqa", "tiny-swa", "tiny-mamba2"])
@pytest.mark.parametrize("task", ["passkey", "variable_tracking"])
def test_a_native_model_thinks_the_same_with_snapshots_and_without(
    model: str, task: TaskName
) -> None:
    prompts = asked(task, context=1100, depths=(0.1, 0.8), distractors=2)
    series = Series(name="s", model=model, prefill_chunk=256)

    def run(snapshot: bool) -> list[Trial]:
        backend = NativeBackend.load(series, Limits(1100, 1, "cpu", threads=1, seed=0))
        backend.capabilities = replace(backend.capabilities, snapshot=snapshot)
        return list(run_tasks(backend, prompts, 256))

    shared, whole = run(True), run(False)
    per_token = [one.log_probability / one.answer_tokens for one in whole]
    assert all(-20 < value < -4 for value in per_token)  # random weights know nothing
    for one, other in zip(shared, whole, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
        assert one.correct_tokens == other.correct_tokens


def test_scores_are_those_of_one_prefill_of_all() -> None:
    """An independent way to the same number: logits after every token, one by one."""
    (prompt,) = asked(context=600, depths=(0.5,), trials=1)
    series = Series(name="s", model="tiny-gqa", prefill_chunk=600)
    backend = NativeBackend.load(series, Limits(600, 1, "cpu", threads=1, seed=3))
    (trial,) = run_tasks(backend, [prompt], 128)
    backend.reset()
    backend.prefill(prompt.tokens[None, : -len(prompt.answer)])
    expected = 0.0
    for token in prompt.answer:
        logits = backend.logits()[0].astype(np.float64)
        expected += logits[token] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        backend.prefill(np.array([[token]]))
    assert trial.log_probability == pytest.approx(expected, abs=1e-4)
