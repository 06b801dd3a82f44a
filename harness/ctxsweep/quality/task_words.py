"""The tasks in words: what is hidden in the text, what is asked, and what the answer is.

``passkey`` follows Mohtashami and Jaggi (arXiv 2305.16300); ``multi_key`` (one key is asked for)
and ``variable_tracking`` (one chain, after an example) follow RULER (arXiv 2404.06654). A question
ends in the words that stood before what is asked for, so that the form of an answer is no riddle.
All but an introduction begins with whitespace, so that no word runs into the text before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ctxsweep.records_quality import TaskName

ADJECTIVE_WORDS = (
    "amber ancient bitter bold brave bright broken calm clever cold copper crimson curious distant "
    "eager early fancy gentle golden hidden humble lively lucky narrow patient proud quiet rapid "
    "silver simple velvet windy"
)
NOUN_WORDS = (
    "anchor apple basket bridge button candle canyon castle compass dragon engine feather forest "
    "garden hammer island kettle ladder lantern lemon magnet mirror needle ocean pencil piano "
    "river saddle ticket tunnel violin window"
)
ADJECTIVES, NOUNS = ADJECTIVE_WORDS.split(), NOUN_WORDS.split()
ASKED, OTHERS = NOUNS[:4], NOUNS[4:]  # nouns of keys that are asked for, and of distractors
LETTERS = 26
NAME_LETTERS = 5


@dataclass(frozen=True)
class Asked:
    """One trial: the first needle is at its depth, the others evenly between it and the end."""

    needles: tuple[str, ...]
    question: str
    answer: str


def no_distractors(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Task:
    """``asked`` draws a trial, ``distractors`` what stands all over the text of all trials.

    Both are given the ``distractors`` of the task's plan.
    """

    introduction: str
    asked: Callable[[np.random.Generator, int], Asked]
    distractors: Callable[[np.random.Generator, int], tuple[str, ...]] = no_distractors


def _passkey(rng: np.random.Generator, count: int) -> Asked:
    key = rng.integers(10_000, 100_000)
    return Asked(
        needles=(f"\nThe pass key is {key}. Remember it. {key} is the pass key.",),
        question="\n\nWhat is the pass key? The pass key is",
        answer=f" {key}",
    )


def _magic(word: str, number: int) -> str:
    return f"\nThe special magic number for {word} is: {number}."


def _number(rng: np.random.Generator) -> int:
    return int(rng.integers(1_000_000, 10_000_000))


def _key(rng: np.random.Generator, count: int) -> Asked:
    word, number = f"{rng.choice(ADJECTIVES)}-{rng.choice(ASKED)}", _number(rng)
    return Asked(
        needles=(_magic(word, number),),
        question=f"\n\nWhat is the special magic number for {word}? "
        f"The special magic number for {word} is:",
        answer=f" {number}",
    )


def _other_keys(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """Keys that are never asked for."""
    pairs = rng.choice(len(ADJECTIVES) * len(OTHERS), size=count, replace=False)
    words = (f"{ADJECTIVES[p // len(OTHERS)]}-{OTHERS[p % len(OTHERS)]}" for p in pairs)
    return tuple(_magic(word, _number(rng)) for word in words)


def _name(index: int) -> str:
    letters = []
    for _ in range(NAME_LETTERS):
        index, letter = divmod(index, LETTERS)
        letters.append(chr(ord("A") + letter))
    return "".join(letters)


def _assigned(names: Sequence[str], value: int) -> Asked:
    """Every variable but the first is assigned the one before it."""
    given = [str(value), *(f"VAR {name}" for name in names)]
    return Asked(
        needles=tuple(f"\nVAR {name} = {of}." for name, of in zip(names, given, strict=False)),
        question=f"\n\nQuestion: Find all variables that are assigned the value {value} in the "
        "text above.\nAnswer: According to the chain of variable assignment in the text above, "
        f"{len(names)} variables are assigned the value {value}, they are: VAR",
        answer=f" {', VAR '.join(names)}",
    )


def _chain(rng: np.random.Generator, count: int) -> Asked:
    """A variable with a value, and ``count`` links after it."""
    drawn = rng.choice(LETTERS**NAME_LETTERS, size=count + 1, replace=False)
    return _assigned([_name(int(index)) for index in drawn], int(rng.integers(10_000, 100_000)))


def _example() -> str:
    """A chain without a text, asked and answered: it shows the form of the answer."""
    shown = _assigned(["QKZWR", "MBTUE", "HLXOF", "ZPGNA"], 48213)
    return f"{''.join(shown.needles)}{shown.question}{shown.answer}\n\n"


TRACK = "Memorize and track the chain of variable assignment hidden in the following text.\n"

TASKS: dict[TaskName, Task] = {
    "passkey": Task(
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize "
        "it. I will quiz you about the important information there.\n\n",
        _passkey,
    ),
    "multi_key": Task(
        "Some special magic numbers are hidden within the following text. Make sure to memorize "
        "them. I will quiz you about the numbers afterwards.\n\n",
        _key,
        _other_keys,
    ),
    "variable_tracking": Task(
        f"{TRACK}{_example()}{TRACK}\n",
        _chain,
    ),
}
