"""Trials as tokens: exact lengths, things where they should be, prefixes that can be shared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep.quality.corpus import Corpus, TextTooShort, read_corpus
from ctxsweep.quality.haystack import Haystack
from ctxsweep.quality.task_words import TASKS
from ctxsweep.quality.tasks import SLACK_SHARE, ContextTooShort, TrialPrompt, task_prompts
from ctxsweep.quality.tokenizer import Bytes, Tokenizer
from ctxsweep.records_quality import TaskName, TaskPlan

MAGIC = r"\nThe special magic number for ([a-z-]+) is: (\d{7})\."
TEXT_TOKENS = 20_000


class Words:
    """One token a word with the whitespace before it, or a digit, or whitespace before digits."""

    name = "words"
    vocab_size = 100_000

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._words: list[str] = []

    def encode(self, text: str) -> list[int]:
        return [self._id(word) for word in re.findall(r"\s+(?=\d)|\d|\s*[^\s\d]+|\s+", text)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._words[token] for token in ids)

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self._words)
            self._words.append(word)
        return self._ids[word]


class Stripped(Words):
    """As SentencePiece does it: the first space of what is written out is gone."""

    name = "stripped"

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode(ids).removeprefix(" ")


def haystack_of(tokenizer: Tokenizer) -> Haystack:
    read = read_corpus("persuasion", tokenizer, TEXT_TOKENS)
    return Haystack.of(Corpus(read.tokens[:TEXT_TOKENS], read.source), tokenizer)


HAYSTACKS = {one.name: haystack_of(one) for one in (Bytes(), Words(), Stripped())}

contexts = st.integers(1400, 6000)
depths = st.lists(st.floats(0, 1), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 2**32 - 1)
haystacks = st.sampled_from(list(HAYSTACKS.values()))
tasks = st.sampled_from(list(TASKS))
counts = st.integers(0, 5)


def written(haystack: Haystack, tokens: np.ndarray) -> str:
    return haystack.tokenizer.decode(tokens.tolist())


def some_prompts(task: TaskName = "passkey", tokenizer: str = "words", **plan: object) -> list:
    return task_prompts(task, TaskPlan.model_validate(plan), HAYSTACKS[tokenizer], 2000)


@settings(max_examples=60, deadline=None)
@given(haystacks, tasks, contexts, depths, counts, seeds)
def test_a_trial_is_exactly_the_context_and_shares_what_comes_before(
    haystack: Haystack, task: TaskName, context: int, at: tuple[float, ...], count: int, seed: int
) -> None:
    plan = TaskPlan(depths=at, trials=2, distractors=count)
    prompts = task_prompts(task, plan, haystack, context, seed)
    assert [(p.depth, p.trial) for p in prompts] == [(d, t) for d in sorted(at) for t in (0, 1)]
    assert {len(p.tokens) for p in prompts} == {p.context_tokens for p in prompts} == {context}
    for one, following in pairwise(prompts):
        assert np.array_equal(one.before, following.before[: len(one.before)])
    for first, second in zip(prompts[::2], prompts[1::2], strict=True):
        assert np.array_equal(first.before, second.before)


@settings(max_examples=60, deadline=None)
@given(haystacks, contexts, depths, seeds)
def test_a_pass_key_lies_at_its_depth_and_is_the_answer(
    haystack: Haystack, context: int, at: tuple[float, ...], seed: int
) -> None:
    introduction = haystack.encode(TASKS["passkey"].introduction)
    for prompt in task_prompts("passkey", TaskPlan(depths=at, trials=1), haystack, context, seed):
        after = written(haystack, prompt.after)
        found = re.match(r"\s?The pass key is (\d{5})\. Remember it\. \1 is the pass key\.", after)
        assert found
        assert written(haystack, prompt.answer).strip() == found[1]
        assert after.rstrip().endswith("What is the pass key? The pass key is")
        assert written(haystack, prompt.tokens).count(found[1]) == 3
        hidden = len(haystack.encode(found[0])) + len(
            haystack.encode(after[after.rindex("\n\n") :])
        )
        text = context - len(introduction) - hidden - len(prompt.answer)
        before = len(prompt.before) - len(introduction)
        slack = text / SLACK_SHARE + 3
        assert prompt.depth * text - slack <= before <= prompt.depth * text + 3


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["bytes", "words"]), contexts, depths, st.integers(0, 12), seeds)
def test_one_of_several_keys_is_asked_for(
    tokenizer: str, context: int, at: tuple[float, ...], count: int, seed: int
) -> None:
    haystack, plan = HAYSTACKS[tokenizer], TaskPlan(depths=at, trials=2, distractors=count)
    others = []
    for prompt in task_prompts("multi_key", plan, haystack, context, seed):
        text = written(haystack, prompt.tokens)
        keys = dict(re.findall(MAGIC, text))
        assert len(re.findall(MAGIC, text)) == len(keys) == count + 1
        asked = re.search(r"What is the special magic number for ([a-z-]+)\?", text)
        assert asked
        assert keys.pop(asked[1]) == written(haystack, prompt.answer).strip()
        assert written(haystack, prompt.after).startswith(
            f"\nThe special magic number for {asked[1]} is: "
        )
        others.append(keys)
    assert all(keys == others[0] for keys in others)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["bytes", "words"]), contexts, depths, st.integers(0, 8), seeds)
def test_a_chain_of_variables_is_the_answer(
    tokenizer: str, context: int, at: tuple[float, ...], count: int, seed: int
) -> None:
    haystack, plan = HAYSTACKS[tokenizer], TaskPlan(depths=at, trials=1, distractors=count)
    introduction = len(TASKS["variable_tracking"].introduction)
    for prompt in task_prompts("variable_tracking", plan, haystack, context, seed):
        text = written(haystack, prompt.tokens)[introduction:]
        chain = re.findall(r"\nVAR ([A-Z]{5}) = (?:VAR )?(\w{5})\.", text)
        value, name = chain[0][1], chain[0][0]
        assert f"assigned the value {value} in the text above" in text
        assert [of for _, of in chain] == [value, *(of for of, _ in chain[:-1])]
        answer = written(haystack, prompt.answer)
        assert answer.strip() == ", VAR ".join(variable for variable, _ in chain)
        assert len(chain) == count + 1 == int(re.findall(r"(\d+) variables are", text)[0])
        assert written(haystack, prompt.after).startswith(f"\nVAR {name} = ")


def test_distractors_and_links_are_spread() -> None:
    (keys,) = some_prompts("multi_key", depths=[0.0], trials=1, distractors=4)
    (later,) = some_prompts("multi_key", depths=[0.5], trials=1, distractors=4)
    (chain,) = some_prompts("variable_tracking", depths=[0.0], trials=1, distractors=4)
    for prompt, pattern, places in (
        (keys, MAGIC, [0, 1 / 8, 3 / 8, 5 / 8, 7 / 8]),
        (later, MAGIC, [0, 1 / 4, 3 / 4]),
        (chain, r"\nVAR [A-Z]{5} = (?:VAR )?\w{5}\.", [0, 1 / 5, 2 / 5, 3 / 5, 4 / 5]),
    ):
        text = written(HAYSTACKS["words"], prompt.after)
        found = [one.start() / len(text) for one in re.finditer(pattern, text)]
        assert found == pytest.approx(places, abs=0.08)


@pytest.mark.parametrize("tokenizer", list(HAYSTACKS))
def test_no_word_of_the_text_is_torn(tokenizer: str) -> None:
    haystack = HAYSTACKS[tokenizer]
    words = set(written(haystack, haystack.tokens).split())
    for prompt in some_prompts(tokenizer=tokenizer):
        before = written(haystack, prompt.before)[len(TASKS["passkey"].introduction) :]
        after = written(haystack, prompt.after).split(" is the pass key.")[1]
        text, question, _ = after.partition("\n\nWhat is the pass key?")
        assert question
        assert {*before.split(), *text.split()} <= words
        assert text.rstrip().endswith((".", "!", "?"))


def test_sentences_end_where_they_do() -> None:
    words = Words()
    tokens = words.encode('He left.  "Did she?" No! She stayed. ')
    source = read_corpus("emma", Bytes(), 1).source
    haystack = Haystack.of(Corpus(np.array(tokens), source), words)
    pieces = [words.decode([token]) for token in tokens]
    assert pieces == ["He", " left.", '  "Did', ' she?"', " No!", " She", " stayed.", " "]
    assert haystack.words.all()
    assert np.flatnonzero(haystack.sentences).tolist() == [0, 2, 5, 7]
    assert [haystack.cut(target, 0, slack=2) for target in range(8)] == [0, 0, 2, 2, 2, 5, 5, 7]
    assert haystack.cut(6, 6, slack=2) == haystack.cut(6, 0, slack=0) == 6


def tokens_of(prompts: list[TrialPrompt]) -> list[list[int]]:
    return [prompt.tokens.tolist() for prompt in prompts]


@pytest.mark.parametrize("task", list(TASKS))
def test_a_seed_decides_all_and_trials_differ(task: TaskName) -> None:
    haystack = HAYSTACKS["words"]
    plan = TaskPlan(depths=(0.05, 0.35, 0.65, 0.9), trials=3)
    once, again, other = (
        tokens_of(task_prompts(task, plan, haystack, 2000, seed)) for seed in (7, 7, 8)
    )
    assert once == again
    assert all(one != two for one, two in zip(once, other, strict=True))
    prompts = task_prompts(task, plan, haystack, 2000, 7)
    assert len({tuple(prompt.answer) for prompt in prompts}) == len(prompts)
    texts = {written(haystack, prompt.after)[70:-350] for prompt in prompts}
    assert len(texts) == len(prompts)
    more = task_prompts(task, plan.model_copy(update={"trials": 4}), haystack, 2000, 7)
    assert [prompt.answer.tolist() for prompt in more if prompt.trial < 3] == [
        prompt.answer.tolist() for prompt in prompts
    ]


@pytest.mark.parametrize("task", list(TASKS))
def test_a_context_without_room_tells_what_is_needed(task: TaskName) -> None:
    with pytest.raises(ContextTooShort, match=rf"task {task} takes \d+ tokens .* context of 40\."):
        task_prompts(task, TaskPlan(), HAYSTACKS["words"], 40)
    with pytest.raises(ContextTooShort) as caught:
        task_prompts(task, TaskPlan(), HAYSTACKS["bytes"], 40)
    found = re.search(r"takes (\d+) tokens", str(caught.value))
    assert found
    least = int(found[1])
    assert len(task_prompts(task, TaskPlan(), HAYSTACKS["bytes"], least)) == 8
    with pytest.raises(ContextTooShort):
        task_prompts(task, TaskPlan(), HAYSTACKS["bytes"], least - 1)


def test_a_text_shorter_than_the_context_is_told() -> None:
    said = "'persuasion' has 20000 tokens under tokenizer words, fewer than a context of 20001"
    with pytest.raises(TextTooShort, match=said):
        task_prompts("passkey", TaskPlan(), HAYSTACKS["words"], 20_001)
    assert len(task_prompts("passkey", TaskPlan(), HAYSTACKS["words"], 20_000)) == 8
