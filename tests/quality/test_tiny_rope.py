"""The order of the rules on a trained model: a wrong ramp or attention factor turns this red.

``tiny-bytes`` was trained on 256 bytes of context; here it reads 2, 4 and 8 times as much of a
novel that it has not seen. On it even linear interpolation is worse than nothing; what holds is its
own: unscaled ≫ NTK-by-parts > YaRN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ctxsweep.analysis.block_bootstrap import Mean, mean_of
from ctxsweep.backends.base import Limits
from ctxsweep.backends.native import NativeBackend
from ctxsweep.models import rope
from ctxsweep.models.rope import Turning
from ctxsweep.quality.corpus import read_corpus
from ctxsweep.quality.tokenizer import tokenizer_of
from ctxsweep.records import RopeScaling, Series

MODEL, TEXT, TARGETS, BATCH = "tiny-bytes", "persuasion", 128, 8
STRETCHES = {512: 640, 1024: 256, 2048: 128}
"""The two rules differ least where the factor is smallest, so more is read there."""
Losses = dict[str, np.ndarray]


def losses(kind: str | None, context: int, stretches: int) -> np.ndarray:
    """Mean loss of the last ``TARGETS`` bytes of every stretch, ``[stretches]``, in nats."""
    scaling = None
    if kind is not None:
        scaling = RopeScaling(rope_type=kind, factor="auto", target_tokens=context)
    fields = {"dtype": "bfloat16", "prefill_chunk": context, "page_size": 64}
    series = Series(name="s", model=MODEL, rope=scaling, **fields)
    backend = NativeBackend.load(series, Limits(context, BATCH, "cpu", threads=1, seed=0))
    text = read_corpus(TEXT, tokenizer_of(MODEL), context + 1).tokens
    ends = np.linspace(context + 1, len(text), stretches).astype(int)
    found = []
    for group in ends.reshape(-1, BATCH):
        tokens = np.stack([text[end - context - 1 : end] for end in group])
        backend.reset()
        backend.prefill(tokens[:, :-1])
        found.append(backend.scores(tokens[:, 1:]).losses[:, -TARGETS:].mean(axis=1))
    backend.close()
    return np.concatenate(found).astype(np.float64)


def paired(worse: np.ndarray, better: np.ndarray) -> Mean:
    """Mean of the paired difference with its 95% interval; neighbours are redrawn together."""
    return mean_of((worse - better)[None])


@pytest.fixture(scope="module")
def measured() -> Callable[[int], Losses]:
    known: dict[int, Losses] = {}

    def of(context: int) -> Losses:
        if context not in known:
            kinds = {"none": None, "ntk_by_parts": "ntk_by_parts", "yarn": "yarn"}
            known[context] = {
                name: losses(kind, context, STRETCHES[context]) for name, kind in kinds.items()
            }
        return known[context]

    return of


@pytest.mark.parametrize("context", STRETCHES)
def test_unscaled_is_far_worse_than_by_parts_and_that_than_yarn(
    context: int, measured: Callable[[int], Losses], record_property: Callable[[str, Any], None]
) -> None:
    found = measured(context)
    none = paired(found["none"], found["ntk_by_parts"]).estimate
    parts = paired(found["ntk_by_parts"], found["yarn"]).estimate
    record_property("none − by parts", str(none))
    record_property("by parts − YaRN", str(parts))
    assert none.low is not None and none.low > 0.05
    assert parts.low is not None and parts.low > 0
    assert none.value > 5 * parts.value


def test_a_ramp_the_wrong_way_round_is_seen(
    monkeypatch: pytest.MonkeyPatch, measured: Callable[[int], Losses]
) -> None:
    by_parts = measured(1024)["ntk_by_parts"]  # before the bug, which it would have too
    right = rope.yarn_ramp
    monkeypatch.setattr(rope, "yarn_ramp", lambda *given: 1 - right(*given))
    wrong = losses("yarn", 1024, STRETCHES[1024])
    interval = paired(by_parts, wrong).estimate
    assert interval.low is not None and interval.low <= 0, "the order would not have been lost"


@pytest.mark.parametrize("planted", [1.0, 0.9, 1.5])
def test_a_missing_or_wrong_attention_factor_is_seen(
    planted: float, monkeypatch: pytest.MonkeyPatch, measured: Callable[[int], Losses]
) -> None:
    """Without the factor YaRN is by parts, and the difference that the first test wants is 0.

    At a context of 1024 the right one is 1.139.
    """
    by_parts = measured(1024)["ntk_by_parts"]
    rule: Any = rope.RULES["yarn"]

    def wrong(*given: Any) -> Turning:
        return Turning(rule.apply(*given).inv_freq, planted)

    rules = {**rope.RULES, "yarn": dataclasses.replace(rule, apply=wrong)}
    monkeypatch.setattr(rope, "RULES", rules)
    found = losses("yarn", 1024, STRETCHES[1024])
    interval = paired(by_parts, found).estimate
    assert interval.low is not None and interval.low <= 0, "the order would not have been lost"
