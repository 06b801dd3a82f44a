"""Text and ticks: what a person reads."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep.analysis.metrics import METRICS
from ctxsweep.report.units import (
    BYTES,
    PLAIN,
    SECONDS,
    SHARE,
    TOKENS,
    Unit,
    linear_ticks,
    log_ticks,
    spread,
    unit_of,
)


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        (BYTES, 0, "0 B"),
        (BYTES, 1536, "1.5 KiB"),
        (BYTES, 2**30 - 1, "1 GiB"),
        (SECONDS, 2.149e-3, "2.15 ms"),
        (SECONDS, 3.1e-7, "310 ns"),
        (SECONDS, 61.0, "61 s"),
        (TOKENS, 131072, "128K"),
        (TOKENS, 1000, "1,000"),
        (SHARE, 0.456, "45.6%"),
        (PLAIN, 12345, "12,345"),
    ],
)
def test_texts(unit: Unit, value: float, text: str) -> None:
    assert unit.text(value) == text


@given(st.floats(1e-9, 1e15))
def test_text_reads_back(value: float) -> None:
    """The number and the suffix together give the value, to three digits."""
    text = BYTES.text(value)
    number, suffix = text.split(" ")
    size = dict((name.strip(), step) for step, name in BYTES.steps)[suffix]
    assert float(number.replace(",", "")) * size == pytest.approx(value, rel=6e-3)


def test_every_metric_has_a_unit() -> None:
    units = {"s": "seconds", "bytes": "bytes", "tokens/s": "tokens/s", "J": "joules", "": "share"}
    for name, metric in METRICS.items():
        assert unit_of(name).name == units[metric.unit], name


@given(st.floats(1e-6, 1e9), st.floats(1.2, 1e9), st.sampled_from([2, 10]))
def test_log_ticks_lie_within(low: float, ratio: float, base: int) -> None:
    ticks = log_ticks(low, low * ratio, base, most=8)
    assert len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    assert all(low <= tick <= low * ratio for tick in ticks)
    if ratio > 10 * base:
        assert len(ticks) >= 2


@given(st.floats(1e-6, 1e12), st.sampled_from([2, 10]))
def test_linear_ticks_start_at_zero(high: float, base: int) -> None:
    ticks = linear_ticks(high, base)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 8
    assert ticks[-1] <= high * 1.001


@given(st.lists(st.floats(0, 300), min_size=1, max_size=15))
def test_spread_keeps_the_gap_the_order_and_the_bounds(values: list[float]) -> None:
    placed = spread(values, 14, 0, 300)
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    in_order = [placed[i] for i in order]
    assert all(b - a >= 14 - 1e-9 for a, b in pairwise(in_order))
    assert min(placed) >= -1e-9
    assert max(placed) <= 300 + 1e-9


def test_spread_leaves_what_does_not_overlap() -> None:
    assert spread([10, 100, 250], 14, 0, 300) == [10, 100, 250]
    assert spread([100, 100], 14, 0, 300) == [93, 107]
    assert not math.isnan(sum(spread([0, 0, 0], 14, 0, 300)))
