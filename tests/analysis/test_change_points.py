"""Planted changes are found, and flat histories are left alone."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_history import START

from ctxsweep.analysis import change_points as module
from ctxsweep.analysis.change_points import (
    MIN_CHANGE,
    MIN_NIGHTS,
    ChangePoint,
    OtavaMissing,
    change_points,
)
from ctxsweep.analysis.simulate_history import NIGHTS, Row, markdown, noise_of, table

FLAT_METRICS = 100


@pytest.fixture(scope="module", autouse=True)
def otava() -> None:
    try:
        module._otava()
    except OtavaMissing as error:
        pytest.skip(str(error))


def found(values: np.ndarray | list[float], *, exact: bool = False) -> list[ChangePoint]:
    times = [START + timedelta(days=night) for night in range(len(values))]
    commits = [f"{night:x}" for night in range(len(values))]
    return change_points([float(value) for value in values], times, commits, exact=exact)


def test_planted_points_are_found_and_a_flat_history_has_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """60 nights at 2% noise: ±1 night for every planted step, nothing in 100 flat metrics."""
    rng = np.random.default_rng(2025)
    told = []
    for planted in ([(20, 0.10)], [(41, -0.08)], [(15, 0.10), (40, 0.10)], [(25, 0.1), (45, -0.1)]):
        values = noise_of("normal", 0.02, rng)
        for night, change in planted:
            values[night:] *= 1 + change
        points = found(values)
        assert len(points) == len(planted), (planted, points)
        for (night, change), point in zip(planted, points, strict=True):
            assert abs(point.index - night) <= 1
            assert point.relative == pytest.approx(change, abs=0.03)  # 4 standard errors
            assert point.time == START + timedelta(days=point.index)
            assert point.commit == f"{point.index:x}"
        wanted = ", ".join(f"{change:+.0%} at night {night}" for night, change in planted)
        seen = ", ".join(f"{p.relative:+.1%} at night {p.index}" for p in points)
        told.append(f"planted {wanted}: found {seen}")
    flat = [found(noise_of("normal", 0.02, rng)) for _ in range(FLAT_METRICS)]
    told.append(f"{FLAT_METRICS} flat metrics of {NIGHTS} nights: {sum(map(len, flat))} points")
    with capsys.disabled():
        print("\n" + "\n".join(told))
    assert not any(flat)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The table of the docs, from fewer histories."""
    return table(count=50)


def test_the_rates(rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("\n" + markdown(rows))
    for row in rows:
        if row.noise != "wandering":
            assert row.false_per_1000 <= 20, row
            assert row.steps[0.10].found >= (0.9 if row.cv <= 0.03 else 0.7), row
            assert row.drift.found >= (0.85 if row.cv <= 0.03 else 0.65), row
        if row.cv == 0.01:
            assert row.steps[0.05].found >= 0.95, row
    assert sum(row.false_per_1000 for row in rows) / len(rows) <= 10


def test_one_bad_night_is_no_change() -> None:
    rng = np.random.default_rng(1)
    for night in (0, 30, NIGHTS - 1):
        values = noise_of("normal", 0.01, rng)
        values[night] *= 1.5
        assert found(values) == []
    values = noise_of("normal", 0.01, rng)
    values[-MIN_NIGHTS:] *= 1.2
    assert [point.index for point in found(values)] == [NIGHTS - MIN_NIGHTS]


def test_a_change_too_small_to_matter_is_none() -> None:
    values = noise_of("normal", 0.0005, np.random.default_rng(3))
    values[30:] *= 1 + MIN_CHANGE * 0.8
    assert found(values) == []
    values[30:] *= 1 + MIN_CHANGE
    assert [point.index for point in found(values)] == [30]


def test_exact_metrics_change_in_their_first_night() -> None:
    held = [1024.0] * 59
    [point] = found([*held, 1025.0], exact=True)
    assert (point.index, point.before, point.after, point.p_value) == (59, 1024.0, 1025.0, 0.0)
    assert [p.index for p in found([*held[:20], 1100.0, *held[:20]], exact=True)] == [20, 21]
    assert found([1024.0, 1023.9999999999998] * 20, exact=True) == []


@pytest.mark.parametrize(
    ("values", "first_nights"),
    [
        ([100, 101], [1]),
        ([100 * 1.01**night for night in range(6)], [1, 2, 3, 4, 5]),
        ([100, 101, 100, 101, 100, 110], [1, 2, 3, 4, 5]),
        ([0, 0, 5, 5, 0], [2, 4]),
        ([0, 1e-9, 0, -1e-9], []),
        ([2.0**40, 2.0**40 + 2**21], [1]),
        ([2.0**40, 2.0**40 + 2**19], []),
    ],
)
def test_every_step_of_an_exact_metric_is_a_point(
    values: list[float], first_nights: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise OtavaMissing

    monkeypatch.setattr(module, "_otava", missing)
    points = found(values, exact=True)
    assert [point.index for point in points] == first_nights
    for point in points:
        assert (point.before, point.after) == tuple(values[point.index - 1 : point.index + 1])


def test_levels_of_zero_or_other_sign_have_no_relative_change() -> None:
    [point] = found([0.0] * 20 + [5.0] * 20, exact=True)
    assert (point.index, point.relative) == (20, None)
    rng = np.random.default_rng(4)
    signed = np.concatenate([rng.normal(-1, 0.1, 30), rng.normal(1, 0.1, 30)])
    [point] = found(signed)
    assert (point.index, point.relative) == (30, None)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), max_size=25),
    st.booleans(),
)
def test_any_history_gives_points_in_order(values: list[float], exact: bool) -> None:
    indices = [point.index for point in found(values, exact=exact)]
    assert indices == sorted(set(indices))
    least = 1 if exact else MIN_NIGHTS
    assert all(least <= index <= len(values) - least for index in indices)


def test_values_that_are_none_are_refused() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            found([1.0, bad, 2.0])
    with pytest.raises(ValueError, match="a time and a commit"):
        change_points([1.0, 2.0], [START], ["a", "b"])


def test_without_otava_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OTAVA", tmp_path / "absent")
    monkeypatch.setitem(sys.modules, "otava.analysis", None)
    with pytest.raises(OtavaMissing, match="make nightly or make test brings it"):
        found([1.0, 2.0, 3.0, 4.0])


def test_the_path_is_left_as_it_was() -> None:
    before = list(sys.path)
    found([1.0, 2.0, 3.0, 4.0])
    assert sys.path == before
