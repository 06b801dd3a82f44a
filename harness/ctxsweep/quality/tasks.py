"""Trials of the tasks as tokens: what is hidden lies in real text, and the answer follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctxsweep.backends.base import Tokens
from ctxsweep.quality.haystack import Haystack
from ctxsweep.quality.task_words import TASKS, Asked
from ctxsweep.records_quality import TaskName, TaskPlan

SLACK_SHARE = 32  # of the text: so far before its place something is put in, to follow a sentence


class ContextTooShort(ValueError):
    """What is hidden and asked for does not fit into the context."""


@dataclass(frozen=True)
class TrialPrompt:
    """One trial: ``before`` ``[n]``, ``after`` ``[m]`` and ``answer`` ``[a]`` are the context.

    ``before`` ends where what is asked for begins: it is shared by all trials of a depth, and a
    prefix of that of every greater depth.
    """

    task: TaskName
    depth: float
    trial: int
    before: Tokens
    after: Tokens
    answer: Tokens

    @property
    def tokens(self) -> Tokens:
        """The whole context ``[context_tokens]``."""
        return np.concatenate([self.before, self.after, self.answer])

    @property
    def context_tokens(self) -> int:
        """Tokens in all, those of the answer included."""
        return len(self.before) + len(self.after) + len(self.answer)


def task_prompts(
    task: TaskName, plan: TaskPlan, haystack: Haystack, context_tokens: int, seed: int = 0
) -> list[TrialPrompt]:
    """All trials of a task at a context of exactly ``context_tokens``, by depth, ascending.

    Texts and keys are drawn from ``seed``, the task, the depth's index and the trial's.
    Raises ``ContextTooShort`` or ``TextTooShort``.
    """
    builder = _Builder(task, plan, haystack, context_tokens, seed)
    order = sorted(range(len(plan.depths)), key=lambda index: plan.depths[index])
    return [builder.prompt(index, trial) for index in order for trial in range(plan.trials)]


@dataclass(frozen=True)
class _Pieces:
    """A trial's words as tokens."""

    needles: list[Tokens]
    question: Tokens
    answer: Tokens

    @classmethod
    def of(cls, asked: Asked, haystack: Haystack) -> _Pieces:
        """Spaces that are tokens of their own before the answer are given, not asked for."""
        needles = [haystack.encode(needle) for needle in asked.needles]
        question, answer = haystack.encode(asked.question), haystack.encode(asked.answer)
        spaces = haystack.spaces_before(answer)
        return cls(needles, np.append(question, answer[:spaces]), answer[spaces:])

    @property
    def length(self) -> int:
        return sum(map(len, self.needles)) + len(self.question) + len(self.answer)


class _Builder:
    """What the trials of one task and one context share."""

    def __init__(
        self, task: TaskName, plan: TaskPlan, haystack: Haystack, context_tokens: int, seed: int
    ) -> None:
        words = TASKS[task]
        self.task, self.plan, self.haystack, self.context = task, plan, haystack, context_tokens
        self.seeds = [seed, list(TASKS).index(task)]
        rng = np.random.default_rng(self.seeds)
        drawn = words.distractors(rng, plan.distractors)
        self.introduction = haystack.encode(words.introduction)
        self.distractors = [
            ((index + 0.5) / len(drawn), haystack.encode(text)) for index, text in enumerate(drawn)
        ]
        self.trials = {
            (depth, trial): _Pieces.of(
                words.asked(self._rng(depth, trial), plan.distractors), haystack
            )
            for depth in range(len(plan.depths))
            for trial in range(plan.trials)
        }
        hidden = sum(len(tokens) for _, tokens in self.distractors)
        longest = max(pieces.length for pieces in self.trials.values())
        self.text_tokens = context_tokens - len(self.introduction) - hidden - longest
        if self.text_tokens < 0:
            raise ContextTooShort(
                f"task {task} takes {context_tokens - self.text_tokens} tokens under tokenizer "
                f"{haystack.tokenizer.name} without any text around them, more than a context of "
                f"{context_tokens}. Take longer contexts (--contexts) or fewer distractors"
            )
        self.slack = self.text_tokens // SLACK_SHARE
        self.start = haystack.beginning(context_tokens, rng)

    def _rng(self, depth: int, trial: int) -> np.random.Generator:
        # From 1: a seed's trailing zeros do not count.
        return np.random.default_rng([*self.seeds, depth + 1, trial + 1])

    def prompt(self, depth_index: int, trial: int) -> TrialPrompt:
        """A trial: the introduction, the text with what is hidden, the question, the answer."""
        depth, pieces = self.plan.depths[depth_index], self.trials[depth_index, trial]
        before, reached = self._before(depth)
        rest = self._rest(depth, pieces)
        hidden = sum(len(tokens) for _, tokens in rest)
        given = len(before) + len(pieces.needles[0]) + hidden + len(pieces.question)
        length = self.context - given - len(pieces.answer)
        rng = np.random.default_rng([*self.seeds, depth_index + 1, trial + 1, 1])
        start = self.haystack.passage(length, reached, rng)
        places = ((start + round(share * length), tokens) for share, tokens in rest)
        text = self.haystack.woven(start, start + length, places, self.slack)
        after = np.concatenate([pieces.needles[0], text, pieces.question])
        return TrialPrompt(self.task, depth, trial, before, after, pieces.answer)

    def _before(self, depth: float) -> tuple[Tokens, int]:
        """All that comes before what is asked for, and how far into the text it reaches."""
        inserts = [(share, tokens) for share, tokens in self.distractors if share < depth]
        places = [(self._place(share), tokens) for share, tokens in inserts]
        reached = self.haystack.cut(self._place(depth), self.start, self.slack)
        text = self.haystack.woven(self.start, reached, places, self.slack)
        return np.concatenate([self.introduction, text]), reached

    def _place(self, share: float) -> int:
        return self.start + round(share * self.text_tokens)

    def _rest(self, depth: float, pieces: _Pieces) -> list[tuple[float, Tokens]]:
        """What comes after the needle at ``depth``, with its share of the text after it."""
        links = pieces.needles[1:]
        found = [((index + 1) / (len(links) + 1), link) for index, link in enumerate(links)]
        later = [(share, tokens) for share, tokens in self.distractors if share >= depth]
        found += [((share - depth) / (1 - depth), tokens) for share, tokens in later]
        return sorted(found, key=lambda one: one[0])
