"""How figures with their intervals and lists of names are written."""

from __future__ import annotations

import pytest

from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.wording import listed, nats, one_of, plus_minus, times

FULL = Estimate(value=0.008, low=-0.01, high=0.02, n=9)


def test_a_difference_with_its_interval() -> None:
    assert nats(FULL) == "+0.008 (−0.010 to +0.020)"
    assert nats(FULL, " nats") == "+0.008 nats (−0.010 to +0.020)"
    assert plus_minus(FULL) == "+0.008 ±0.018"
    for alone in (Estimate(value=0.5), Estimate(value=0.5, low=0.5, high=0.5)):
        assert nats(alone) == plus_minus(alone) == "+0.500"
    assert nats(None) == plus_minus(None) == times(None) == "–"


@pytest.mark.parametrize(
    ("value", "text"), [(1.024, "1.02×"), (12.34, "12.3×"), (167.2, "167×"), (1234.0, "1,234×")]
)
def test_a_ratio_has_three_digits(value: float, text: str) -> None:
    assert times(Estimate(value=value)) == text


def test_a_ratio_with_and_without_its_interval() -> None:
    ratio = Estimate(value=1.1, low=1.0, high=1.2)
    assert times(ratio) == "1.10× (1.00 to 1.20)" and times(ratio, interval=False) == "1.10×"


def test_names_in_a_row() -> None:
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    found = [one_of(list(names)) for names in ("a", "ab", "abcd", "abcde", "abcdef")]
    assert found == [
        "a",
        "a or b",
        "a, b, c or d",
        "a, b, c, d or 1 other",
        "a, b, c, d or 2 others",
    ]
