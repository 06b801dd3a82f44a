"""The interval of a mean of neighbours: how often it covers the truth, and that it is paired."""

from __future__ import annotations

import numpy as np
import pytest
from quality_run import correlated

from ctxsweep.analysis.block_bootstrap import block_length, block_sums, mean_of


def coverage(count: int, stretches: int, share: float, least: int, tokens: int = 16) -> float:
    """How often the interval holds 0, for token noise that neighbours share, in means of 16."""
    hits, runs = 0, 400
    for run in range(runs):
        rng = np.random.default_rng([run, count, stretches])
        rows = [correlated(rng, count * tokens, share) for _ in range(stretches)]
        values = np.stack(rows).reshape(stretches, count, tokens).mean(axis=2)
        low, high = interval(values, least)
        hits += low <= 0 <= high
    return hits / runs


def interval(values: np.ndarray, least: int) -> tuple[float, float]:
    estimate = mean_of(values, least).estimate
    assert estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


@pytest.mark.parametrize(
    ("count", "stretches", "share"),
    [
        *((128, 1, 0.5), (128, 1, 0.95), (64, 2, 0.9), (32, 1, 0.9), (128, 4, 0.95)),
        # Many short stretches: each is a block.
        *((8, 32, 0.5), (8, 32, 0.95), (4, 32, 0.5), (4, 32, 0.95), (16, 8, 0.95)),
    ],
)
def test_interval_covers_the_truth(count: int, stretches: int, share: float) -> None:
    assert 0.91 <= coverage(count, stretches, share, least=4) <= 0.985


def test_it_is_the_order_that_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    rows = [correlated(rng, 128, 0.8) for _ in range(300)]

    def covered(values: list[np.ndarray]) -> float:
        found = [interval(row[None], 4) for row in values]
        return float(np.mean([low <= 0 <= high for low, high in found]))

    assert covered(rows) > 0.8
    assert covered([rng.permutation(row) for row in rows]) < 0.6


def test_standard_error_of_independent_values_is_the_textbook_one() -> None:
    values = np.random.default_rng(3).standard_normal((1, 512))
    error = mean_of(values).standard_error
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(512), rel=0.25)


def test_same_values_same_interval_and_no_spread_no_width() -> None:
    values = np.random.default_rng(0).standard_normal((2, 40))
    assert mean_of(values, 4) == mean_of(values, 4)
    flat = mean_of(np.full((1, 30), 0.25), 4)
    assert (flat.estimate.low, flat.estimate.high, flat.standard_error) == (0.25, 0.25, 0.0)


def test_too_few_values_have_no_interval() -> None:
    assert mean_of(np.array([[1.0, 2.0, 3.0]])).estimate.low is None


def test_blocks_do_not_reach_from_one_stretch_into_another() -> None:
    values = np.array([[0.0, 1.0, 2.0], [10.0, 20.0, 40.0]])
    assert block_sums(values, 2).tolist() == [1, 3, 2, 30, 60, 50]
    assert block_sums(values, 3).tolist() == [3, 3, 3, 70, 70, 70]
    assert block_sums(values, 1).tolist() == values.ravel().tolist()


@pytest.mark.parametrize("shape", [(4, 1), (8, 2), (5, 3), (1, 4), (64, 1)])
def test_short_stretches_have_an_interval(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(1).standard_normal(shape)
    assert 1 <= block_length(values, 4) <= shape[1]
    low, high = interval(values, 4)
    assert low < values.mean() < high


def test_blocks_grow_with_what_neighbours_share() -> None:
    rng = np.random.default_rng(0)
    lengths = [
        np.median([block_length(correlated(rng, 512, share)[None], 1) for _ in range(40)])
        for share in (0.0, 0.5, 0.8)
    ]
    assert lengths == sorted(lengths) and lengths[0] <= 4 and lengths[2] >= 12
    assert block_length(rng.standard_normal((1, 128)), 4) >= 4
    assert block_length(rng.standard_normal((1, 4)), 4) == 1, "eight blocks, or blocks of one"
