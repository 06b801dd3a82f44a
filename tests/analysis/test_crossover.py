"""Crossings of curves whose crossing is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ctxsweep.analysis.crossover import all_crossovers, crossover
from ctxsweep.analysis.scaling import Points
from ctxsweep.analysis.summary import Estimate

OCTAVES = tuple(1024 * 2**i for i in range(8))
Law = Callable[[float], float]


def curve(name: str, law: Law, noise: float = 0.01, seed: int = 0, batch_size: int = 1) -> Points:
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    values = []
    for n in OCTAVES:
        value = law(n) * (1 + noise * rng.standard_normal())
        half = 1.96 * noise * value
        values.append(Estimate(value=value, low=value - half, high=value + half, n=30))
    return Points(name, batch_size, "itl_s", "s", OCTAVES, tuple(values))


def test_power_laws_cross_where_algebra_says() -> None:
    attention, state = curve("mha", lambda n: 1e-6 * n, 0), curve("mamba", lambda n: 0.02, 0)
    found = crossover(attention, state)
    assert found is not None and found.context_tokens is not None
    assert found.context_tokens.value == pytest.approx(20_000, rel=1e-3)
    assert (found.cheaper_below, found.cheaper_above) == ("mha", "mamba")
    assert "mha is cheaper below" in found.evidence


def test_order_of_the_pair_does_not_matter() -> None:
    a, b = curve("mha", lambda n: 1e-3 + 1e-6 * n), curve("mamba", lambda n: 0.02)
    ab, ba = crossover(a, b), crossover(b, a)
    assert ab is not None and ba is not None
    assert (ab.cheaper_below, ab.cheaper_above) == (ba.cheaper_below, ba.cheaper_above)
    assert ab.context_tokens is not None and ba.context_tokens is not None
    assert ab.context_tokens.value == pytest.approx(ba.context_tokens.value)


@pytest.mark.parametrize("noise", [0.01, 0.03])
@pytest.mark.parametrize("truth", [3_000.0, 20_000.0, 50_000.0])
def test_the_interval_covers_the_crossing(noise: float, truth: float) -> None:
    hits = found_any = 0
    for seed in range(150):
        a = curve("mha", lambda n: 1e-3 + 1e-6 * n, noise, seed)
        b = curve("mamba", lambda n: 1e-3 + 1e-6 * truth, noise, seed)
        found = crossover(a, b)
        if found is None or found.context_tokens is None:
            continue
        e = found.context_tokens
        assert e.low is not None and e.high is not None
        found_any += 1
        hits += e.low <= truth <= e.high
    assert found_any >= 120
    assert hits / found_any >= 0.9


def test_no_crossing_in_range_is_an_answer() -> None:
    found = crossover(curve("a", lambda n: 1e-3 + 1e-7 * n), curve("b", lambda n: 2e-3 + 2e-7 * n))
    assert found is not None and found.context_tokens is None
    assert found.cheaper_below == found.cheaper_above == "a"
    assert "no crossing in range: a is cheaper by" in found.evidence


def test_equal_curves_do_not_cross_by_chance() -> None:
    crossings = 0
    for seed in range(200):
        found = crossover(
            curve("a", lambda n: 1e-6 * n, 0.03, seed), curve("b", lambda n: 1e-6 * n, 0.03, seed)
        )
        assert found is not None
        crossings += found.context_tokens is not None
    assert crossings <= 2


def test_not_to_be_told_apart() -> None:
    same = curve("a", lambda n: 1e-6 * n, 0.0)
    found = crossover(same, Points("b", *list(vars(same).values())[1:]))
    assert found is not None and found.context_tokens is None
    assert found.cheaper_below is None
    assert "not to be told apart" in found.evidence


def test_of_two_crossings_the_last_is_given() -> None:
    found = crossover(
        curve("bowl", lambda n: (np.log2(n) - 13.5) ** 2 + 1, 0.0),
        curve("flat", lambda n: 3.0, 0.0),
    )
    assert found is not None and found.context_tokens is not None
    assert found.context_tokens.value == pytest.approx(2 ** (13.5 + 2**0.5), rel=0.02)
    assert "the last of 2 crossings" in found.evidence


def test_bytes_cross_without_interval() -> None:
    def held(name: str, law: Callable[[int], int]) -> Points:
        values = tuple(Estimate(value=float(law(n))) for n in OCTAVES)
        return Points(name, 1, "held_bytes", "bytes", OCTAVES, values)

    found = crossover(
        held("mha", lambda n: 10_000_000 + 1024 * n),
        held("mamba", lambda n: 40_000_000),
        exact=True,
    )
    assert found is not None and found.context_tokens is not None
    assert found.context_tokens.low is None
    assert found.context_tokens.value == pytest.approx(30_000_000 / 1024, rel=0.01)


def test_only_common_contexts_count() -> None:
    a = curve("a", lambda n: 1e-6 * n)
    short = Points("b", 1, "itl_s", "s", a.contexts[:1], a.values[:1])
    assert crossover(a, short) is None


def test_pairs_of_the_same_metric_and_batch() -> None:
    curves = [curve("a", lambda n: n), curve("b", lambda n: 5000.0), curve("c", lambda n: 9000.0)]
    curves.append(curve("d", lambda n: 1.0, batch_size=4))
    pairs = {(c.first, c.second) for c in all_crossovers(curves, lambda metric: False)}
    assert pairs == {("a", "b"), ("a", "c"), ("b", "c")}
