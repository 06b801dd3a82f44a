"""Intervals of medians, quantiles and sums: by hand, and by how often they cover the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep.analysis.estimate import (
    inflation,
    median_estimate,
    outliers,
    quantile_estimate,
    reciprocal,
    scaled,
    total_with_block_bootstrap,
)
from ctxsweep.analysis.summary import Estimate


def test_one_sample_has_no_interval() -> None:
    assert median_estimate([3.0]) == Estimate(value=3.0, low=None, high=None, n=1)


def test_median_interval_of_nine_samples_by_hand() -> None:
    # Binomial(9, 1/2): P(X < 2) = 10/512 = 1.95%, so ranks 2 and 8 cover 96.1%.
    estimate = median_estimate([5.0, 9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0])
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (5.0, 2.0, 8.0, 9)


def test_few_samples_give_their_range() -> None:
    estimate = median_estimate([2.0, 1.0, 3.0])
    assert (estimate.low, estimate.high) == (1.0, 3.0)


@pytest.mark.parametrize("count", [9, 30, 100])
def test_median_interval_covers(count: int) -> None:
    rng = np.random.default_rng(count)
    truth = np.log(2)
    hits = 0
    for _ in range(800):
        e = median_estimate(rng.exponential(size=count))
        assert e.low is not None and e.high is not None
        hits += e.low <= truth <= e.high
    assert hits / 800 >= 0.93


def test_correlated_samples_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    hits = plain_hits = 0
    for _ in range(300):
        x = np.zeros(200)
        for i in range(1, 200):
            x[i] = 0.8 * x[i - 1] + rng.standard_normal()
        e = median_estimate(x)
        plain = np.sort(x)[[85, 113]]
        assert e.low is not None and e.high is not None
        hits += e.low <= 0 <= e.high
        plain_hits += plain[0] <= 0 <= plain[1]
    assert plain_hits / 300 < 0.6
    assert hits / 300 > 0.85


def test_independent_samples_are_hardly_inflated() -> None:
    factors = [inflation(np.random.default_rng(i).standard_normal(200)) for i in range(100)]
    assert np.median(factors) < 1.15


def test_p99_sits_among_the_slowest() -> None:
    samples = np.arange(1.0, 201.0)
    estimate = quantile_estimate(samples, 0.99)
    assert estimate.value == pytest.approx(np.quantile(samples, 0.99))
    assert estimate.low is not None and estimate.low < estimate.value
    assert estimate.high == 200.0


def test_sum_of_a_climb_covers_the_noise_free_sum() -> None:
    position = np.arange(0, 65536, 512.0)
    truth = 0.01 + 1e-7 * position
    hits = 0
    for seed in range(300):
        noise = np.random.default_rng(seed).standard_normal(len(position))
        e = total_with_block_bootstrap(position, truth * (1 + 0.05 * noise))
        assert e.low is not None and e.high is not None
        hits += e.low <= truth.sum() <= e.high
    assert hits / 300 >= 0.88


def test_sum_keeps_outliers() -> None:
    value = np.full(50, 0.01)
    value[20] = 1.0
    estimate = total_with_block_bootstrap(np.arange(50.0), value)
    assert estimate.value == pytest.approx(1.49)
    assert estimate.high is not None and estimate.high > 2.0


def test_outliers_are_flagged_by_mad() -> None:
    values = np.array([1.0, 1.01, 0.99, 1.02, 0.98, 3.0])
    assert outliers(values).tolist() == [False] * 5 + [True]


def test_clock_steps_are_no_outliers() -> None:
    assert not outliers(np.array([1.0] * 20 + [1.04])).any()


def test_reciprocal_swaps_the_ends() -> None:
    e = reciprocal(Estimate(value=2.0, low=1.0, high=4.0, n=3), 8.0)
    assert (e.value, e.low, e.high, e.n) == (4.0, 2.0, 8.0, 3)


@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=40), st.floats(1e-3, 1e3))
def test_median_lies_in_its_interval_and_scales(samples: list[float], k: float) -> None:
    a, b = median_estimate(samples), median_estimate([k * s for s in samples])
    assert a.low is not None and a.high is not None
    assert a.low <= a.value <= a.high
    assert b.value == pytest.approx(scaled(a, k).value)
