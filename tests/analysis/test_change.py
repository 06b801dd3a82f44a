"""The rule: levels against pseudo-medians made by hand, its table against scipy, its words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, ttest_rel

from ctxsweep.analysis.change import (
    Between,
    Contrast,
    Level,
    contrast,
    is_suspect,
    judge,
    level_of_estimate,
    level_of_samples,
    paired_contrast,
    significant,
)
from ctxsweep.analysis.interval import Estimate
from ctxsweep.analysis.scatter import ASSUMED, scatter


@given(st.lists(st.floats(1e-6, 1e3), min_size=6, max_size=60))
def test_a_level_is_the_median_of_all_means_of_two(samples: list[float]) -> None:
    logs = np.log(samples)
    means = [(a + b) / 2 for i, a in enumerate(logs) for b in logs[i:]]
    assert level_of_samples(samples).log == pytest.approx(np.median(means), abs=1e-12)


@pytest.mark.parametrize("count", [8, 30, 500])
def test_the_error_of_a_level_is_that_of_its_location(count: int) -> None:
    rng = np.random.default_rng(1)
    draws = np.exp(0.03 * rng.standard_normal((400, count)))
    levels = [level_of_samples(row) for row in draws]
    truth = np.var([level.log for level in levels])
    said = np.mean([level.variance for level in levels])
    # Runs that come by chance widen it a little; it is never too small.
    assert 0.95 * truth < said < 2.2 * truth


def test_a_few_samples_far_off_move_a_level_by_less_than_a_mean() -> None:
    rng = np.random.default_rng(2)
    samples = np.exp(0.02 * rng.standard_normal(40))
    spoiled = samples.copy()
    spoiled[:4] *= 20
    assert abs(level_of_samples(spoiled).log - level_of_samples(samples).log) < 0.01
    assert np.log(spoiled.mean() / samples.mean()) > 1


def test_samples_that_come_in_runs_count_for_fewer() -> None:
    rng = np.random.default_rng(3)
    steps = np.repeat(0.05 * rng.standard_normal(10), 6)
    shuffled = rng.permutation(steps)
    runs, mixed = level_of_samples(np.exp(steps)), level_of_samples(np.exp(shuffled))
    assert runs.variance is not None and mixed.variance is not None
    assert runs.variance > 3 * mixed.variance and runs.freedom < mixed.freedom


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0.001, 0.2))
def test_significance_over_a_table_is_that_of_benjamini_and_hochberg(
    p_values: list[float], rate: float
) -> None:
    adjusted = false_discovery_control(p_values, method="bh")
    clear = np.abs(adjusted - rate) > 1e-12
    found = np.array(significant(p_values, rate))
    assert (found == (adjusted <= rate))[clear].all()


def test_paired_rounds_are_a_paired_t_test() -> None:
    rng = np.random.default_rng(4)
    base, new = rng.normal(0, 1, 8), rng.normal(0.7, 1, 8)
    expected = ttest_rel(new, base, alternative="greater").pvalue
    assert paired_contrast(new - base).p_worse == pytest.approx(expected)


def test_scatter_between_processes_widens_the_interval() -> None:
    base, new = Level(0.0, 1e-6, 30, 31), Level(np.log(1.05), 1e-6, 30, 31)
    sure = contrast([base], [new], None)
    unsure = contrast([base], [new], Between(0.03**2, 5))
    assert judge([sure], [0.03], 0.01) == ["SLOW"]
    assert judge([unsure], [0.03], 0.01) == ["AMBG"]
    assert unsure.freedom == pytest.approx(5, rel=0.01)  # one estimate of it, for both sides
    assert is_suspect(unsure, 0.03, "AMBG") and not is_suspect(unsure, 0.06, "AMBG")


@pytest.mark.parametrize(
    ("change", "error", "outcome"),
    [
        (0.10, 0.01, "SLOW"),
        (-0.10, 0.01, "FAST"),
        (0.02, 0.001, "SAME"),  # sure, and of no consequence
        (0.00, 0.005, "SAME"),
        (0.10, 0.08, "AMBG"),  # of consequence, and not sure
        (0.00, 0.08, "AMBG"),
    ],
)
def test_an_alarm_needs_both_certainty_and_size(change: float, error: float, outcome: str) -> None:
    assert judge([Contrast(change, error, 30)], [0.03], 0.01) == [outcome]


def test_what_the_machine_itself_lost_is_no_regression() -> None:
    found = Contrast(np.log(1.15), 0.005, 30)
    assert judge([found], [0.03], 0.01) == ["SLOW"]
    assert judge([found], [0.03], 0.01, [np.log(1.15)]) == ["AMBG"]
    assert judge([found], [0.03], 0.01, [np.log(1.05)]) == ["SLOW"]
    assert judge([found], [0.03], 0.01, [-np.log(1.05)]) == ["SLOW"]


def test_a_line_without_an_error_is_ambiguous() -> None:
    assert judge([None, Contrast(0.2, 0.01, 30)], [0.03, 0.03], 0.01) == ["AMBG", "SLOW"]
    assert judge([], [], 0.01) == []


@pytest.mark.parametrize("estimate", [Estimate(value=0.0), Estimate(value=1.0, low=0.0, high=2.0)])
def test_a_figure_that_may_be_nothing_has_no_level(estimate: Estimate) -> None:
    assert level_of_estimate(estimate) is None


def levels(count: int, spread: float, seed: int) -> list[Level]:
    rng = np.random.default_rng(seed)
    return [Level(float(value), 1e-8, 30) for value in spread * rng.standard_normal(count)]


def test_scatter_comes_from_the_best_source_there_is() -> None:
    lines = [([a], [b]) for a, b in zip(levels(200, 0.05, 1), levels(200, 0.05, 2), strict=True)]
    repeated = [levels(4, 0.03, seed) for seed in range(60)]
    sentinels = [levels(40, 0.02, 9)]
    assert scatter("itl_s", repeated, sentinels, lines, 6).relative == pytest.approx(0.03, rel=0.2)
    assert (
        scatter("itl_s", repeated, [], lines, 6).freedom == 6
    )  # all cells of a run may move alike
    assert scatter("itl_s", [], sentinels, lines).relative == pytest.approx(0.02, rel=0.3)
    assert scatter("itl_s", [], [], lines).relative == pytest.approx(0.05, rel=0.2)
    assert scatter("itl_s", [], [], lines[:7]).relative == ASSUMED


def test_a_third_of_a_table_that_got_slower_does_not_pass_for_scatter() -> None:
    lines = [([a], [b]) for a, b in zip(levels(60, 0.01, 1), levels(60, 0.01, 2), strict=True)]
    slow = [
        (base, [Level(new[0].log + 0.2, 1e-8, 30)]) if i % 3 == 0 else (base, new)
        for i, (base, new) in enumerate(lines)
    ]
    assert scatter("itl_s", [], [], slow).relative < 2.5 * scatter("itl_s", [], [], lines).relative
