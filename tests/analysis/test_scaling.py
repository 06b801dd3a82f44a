"""Verdicts on curves of known law."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep.analysis.decide import CONSTANT, LINEAR, QUADRATIC, decide
from ctxsweep.analysis.scaling import Points, verdict
from ctxsweep.analysis.simulate import CONTEXTS, curves
from ctxsweep.analysis.summary import Estimate, Verdict

OCTAVES = tuple(1024 * 2**i for i in range(8))


def points(
    law: Callable[[float], float],
    noise: float = 0.005,
    contexts: tuple[int, ...] = OCTAVES,
    seed: int = 0,
    unit: str = "s",
    censored: str = "",
) -> Points:
    rng = np.random.default_rng(seed)
    values = []
    for n in contexts:
        value = law(n) * (1 + noise * rng.standard_normal())
        half = 1.96 * noise * value
        values.append(Estimate(value=value, low=value - half, high=value + half, n=32))
    return Points("s", 1, "itl_s", unit, contexts, tuple(values), censored)


def exact_points(law: Callable[[int], int], contexts: tuple[int, ...] = OCTAVES) -> Verdict:
    values = tuple(Estimate(value=float(law(n))) for n in contexts)
    return verdict(Points("s", 1, "cache_used_bytes", "bytes", contexts, values), exact=True)


def test_decode_of_full_attention_is_linear_with_its_intercept() -> None:
    found = verdict(points(lambda n: 2.1e-3 + 3.1e-6 * n), exact=False)
    assert found.scaling == "O(n)"
    a, b = found.coefficients["a"], found.coefficients["b"]
    assert a.low is not None and a.high is not None and a.low <= 2.1e-3 <= a.high
    assert b.low is not None and b.high is not None and b.low <= 3.1e-6 <= b.high
    assert found.slope is not None
    assert "ms +" in found.evidence and "µs per token" in found.evidence
    assert "over 16K to 128K" in found.evidence
    assert min(found.bic, key=lambda k: found.bic[k]) == "O(n)"


def test_state_is_constant() -> None:
    found = verdict(points(lambda n: 5e-3), exact=False)
    assert found.scaling == "O(1)"
    assert found.flat_beyond_tokens is None
    assert set(found.coefficients) == {"a"}


def test_prefill_of_attention_is_quadratic() -> None:
    found = verdict(points(lambda n: 0.01 + 2e-5 * n + 1e-9 * n**2), exact=False)
    assert found.scaling == "O(n²)"
    assert found.coefficients["c"].value == pytest.approx(1e-9, rel=0.1)
    assert found.slope is not None and found.slope.value > 1.5


@pytest.mark.parametrize("window", [1500, 4096, 6000, 16384])
def test_sliding_window_is_flat_past_its_window(window: int) -> None:
    found = verdict(points(lambda n: 1e-3 + 1e-6 * min(n, window), 0.01), exact=False)
    assert found.scaling == "O(1)"
    assert found.flat_beyond_tokens == min(n for n in OCTAVES if n >= window)
    assert "flat from" in found.evidence


def test_prefill_of_a_sliding_window_is_linear_at_the_long_end() -> None:
    def law(n: float) -> float:
        head = min(n, 4096)
        return 1e-3 * n + 4e-7 * head**2 + 3.3e-3 * max(0, n - 4096)

    assert verdict(points(law), exact=False).scaling == "O(n)"


def test_a_bend_where_the_cache_of_the_processor_ends_is_not_quadratic() -> None:
    found = verdict(points(lambda n: 1.0 + 1e-3 * n + 1e-3 * max(0, n - 4096)), exact=False)
    assert found.scaling == "O(n)"
    assert "law of 4K and longer" in found.evidence


@pytest.mark.parametrize("bend", [32768, 65536])
def test_a_bend_near_the_end_is_not_called_quadratic(bend: int) -> None:
    found = verdict(points(lambda n: 1.0 + 1e-3 * n + 1e-3 * max(0, n - bend)), exact=False)
    assert found.scaling == "undecided"
    assert f"a line with a bend at {bend // 1024}K" in found.evidence


def test_noise_gives_undecided_not_a_guess() -> None:
    found = verdict(points(lambda n: 1.0, noise=0.15), exact=False)
    assert found.scaling == "undecided"
    assert "undecided:" in found.evidence


def test_too_few_points_are_said() -> None:
    found = verdict(points(lambda n: n, contexts=OCTAVES[:3]), exact=False)
    assert found.scaling == "undecided"
    assert "3 contexts (1K to 4K)" in found.evidence
    empty = verdict(points(lambda n: n, contexts=(), censored="no points: oom"), exact=False)
    assert empty.evidence.endswith("no points: oom") and empty.points == 0


def test_points_without_intervals_are_judged_by_their_scatter() -> None:
    rng = np.random.default_rng(3)
    values = tuple(
        Estimate(value=(1 + 1e-3 * n) * (1 + 0.01 * rng.standard_normal())) for n in OCTAVES
    )
    found = verdict(Points("s", 1, "itl_s", "s", OCTAVES, values), exact=False)
    assert found.scaling == "O(n)"


def test_censored_points_are_in_the_evidence() -> None:
    curve = points(lambda n: n, contexts=OCTAVES[:6], censored="no points beyond 32K: oom")
    assert verdict(curve, exact=False).evidence.endswith("no points beyond 32K: oom")


def test_exact_growth_needs_no_noise() -> None:
    full = exact_points(lambda n: 1024 * n)
    assert full.scaling == "O(n)"
    assert full.coefficients["b"].value == pytest.approx(1024)
    assert full.slope is not None and full.slope.value == pytest.approx(1.0)
    hybrid = exact_points(lambda n: 4_000_000 + 96 * n)
    assert hybrid.scaling == "O(n)"
    assert hybrid.coefficients["b"].value == pytest.approx(96)
    assert exact_points(lambda n: n * n).scaling == "O(n²)"


def test_one_byte_of_growth_is_growth() -> None:
    assert exact_points(lambda n: 4096).scaling == "O(1)"
    assert "growth 0 bytes" in exact_points(lambda n: 4096).evidence
    assert exact_points(lambda n: 4096 + n // 131072).scaling == "undecided"
    assert exact_points(lambda n: 10**9 + n // 1024).scaling == "O(n)"


def test_exact_window_is_flat_beyond_it() -> None:
    found = exact_points(lambda n: 512 * min(n, 4096))
    assert (found.scaling, found.flat_beyond_tokens) == ("O(1)", 4096)


def test_pages_may_round() -> None:
    contexts = (1000, 3000, 9000, 27000, 81000)
    paged = exact_points(lambda n: -(-n // 256) * 256 * 64, contexts)
    assert paged.scaling == "O(n)"
    assert exact_points(lambda n: int(n**0.5)).scaling == "undecided"


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([CONSTANT, LINEAR, QUADRATIC]),
    k=st.floats(1e-9, 1e9),
    seed=st.integers(0, 1000),
    noise=st.sampled_from([0.0, 0.01, 0.03, 0.1]),
)
def test_scale_and_order_leave_the_class(shape: int, k: float, seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    truth = curves(shape, 6, rng)
    y = truth * np.maximum(0.05, 1 + noise * rng.standard_normal(truth.shape))
    rel = np.full_like(y, noise)
    code, start = decide(CONTEXTS, y, rel)
    scaled_code, scaled_start = decide(CONTEXTS, k * y, rel)
    assert (code == scaled_code).all() and (start == scaled_start).all()
    alone = [int(decide(CONTEXTS, row[None], r[None])[0][0]) for row, r in zip(y, rel, strict=True)]
    assert alone == code.tolist()
    stretched, _ = decide(CONTEXTS * 7, y, rel)
    assert (stretched == code).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_values_that_are_not_positive_are_refused(bad: float) -> None:
    y = np.ones((1, 8))
    y[0, 3] = bad
    with pytest.raises(ValueError, match="positive"):
        decide(CONTEXTS, y, np.full((1, 8), 0.01))
