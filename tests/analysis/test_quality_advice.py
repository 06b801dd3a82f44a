"""The recommendation: what it takes, and that it claims no more than the intervals."""

from __future__ import annotations

import pytest
from quality_run import ASKED, VARIANTS, Variant, build_run

from ctxsweep.analysis.quality_summary import Advice
from ctxsweep.analysis.summarise import summarise

NONE = VARIANTS[0]


def advice_at(context: int, *variants: Variant, seed: int = 0, **asked: object) -> Advice:
    records = build_run((NONE, *variants), seed=seed)
    summary = summarise(
        scenario="rope",
        question="",
        run_id="r",
        started_at="",
        records=records,
        order=[v.name for v in (NONE, *variants)],
        quality=ASKED | asked,
    )
    assert summary.quality is not None
    return next(a for a in summary.quality.advice if a.context_tokens == context)


def test_lowest_loss_wins_where_it_is_shown() -> None:
    found = advice_at(16384, Variant("a", "ntk", added=0.06), Variant("b", "yarn", cost=1.1))
    assert (found.series, found.factor, found.equal) == ("b", 2.0, ())
    assert found.sentence.startswith("At 16K take b (factor 2): ")
    assert " against none at 8K; passkey 8 of 8; prefill 1.10× (1.0" in found.sentence
    assert "Also within 0.1 nats: a (+0.06" in found.sentence
    assert found.sentence.endswith("from 10K on).") and "Beyond 0.1 nats: none (+" in found.sentence


def test_equals_are_named_and_the_least_harm_wins() -> None:
    harmful = Variant("harmful", "llama3", added=-0.002, harm=0.15)
    found = advice_at(16384, harmful, Variant("plain", "yarn"), Variant("twin", "ntk_by_parts"))
    assert found.series in ("plain", "twin")
    assert len(found.equal) == 1 and "harmful" not in found.equal
    assert f"No difference to {found.equal[0]} was shown." in found.sentence
    assert "harmful (" in found.sentence and ", but +0.1" in found.sentence
    assert "at 2K)" in found.sentence


def test_harm_counts_only_among_equals() -> None:
    worse = Variant("worse", "ntk", added=0.06)
    found = advice_at(12288, worse, Variant("better", "yarn", harm=0.05))
    assert found.series == "better"
    assert "+0.0" in found.sentence and "at 2K" in found.sentence


def test_none_within_is_said() -> None:
    found = advice_at(16384, Variant("linear", "linear", added=0.6))
    assert found.series is None
    assert found.sentence.startswith(
        "At 16K every series is beyond 0.1 nats of none at 8K. linear has the lowest loss: +0.60"
    )
    close = advice_at(16384, Variant("close", "ntk", added=0.1))
    assert close.series is None
    assert "no series is shown to be within 0.1 nats" in close.sentence
    assert "close has the lowest loss: +0." in close.sentence
    assert "close" not in close.sentence.split("Beyond")[1]
    both = advice_at(16384, Variant("close", "ntk", added=0.1), Variant("good", "yarn"))
    assert both.series == "good" and "Not decided: close +0." in both.sentence


def test_a_winner_that_fails_a_task_is_shown_beside_the_control() -> None:
    found = advice_at(16384, Variant("blind", "yarn", found=0.5))
    assert "passkey 4 of 8 (none at 8K: 8 of 8)" in found.sentence


def test_where_it_breaks_is_said_of_the_winner_too() -> None:
    hidden = Variant("hidden", "yarn", breaks_at=13_000)
    loose = advice_at(16384, hidden, max_loss=4.0)
    assert loose.series == "hidden" and "; above" not in loose.sentence
    # The mean over its targets is within 1.7 nats, the last positions are not.
    found = advice_at(16384, hidden, max_loss=1.7, target_tokens=8192)
    assert found.series == "hidden" and "; above 1.7 nats from 14.5K on" in found.sentence


def test_reference_at_its_own_context() -> None:
    found = advice_at(8192, Variant("a", "yarn"))
    assert found.series == "none" and found.equal == ("a",)
    assert "it is the reference" in found.sentence


@pytest.mark.parametrize("seed", range(6))
def test_what_is_equal_is_never_told_apart_wrongly_by_much(seed: int) -> None:
    """Two settings of the same truth: by chance one wins, and 95% of the time both are named."""
    found = advice_at(12288, Variant("a", "yarn"), Variant("b", "ntk_by_parts"), seed=seed)
    assert found.series in ("a", "b")
    others = {"a", "b"} - {found.series}
    assert set(found.equal) == others or f"Also within 0.1 nats: {others.pop()}" in found.sentence
