"""How often verdicts are right, through the same code as measured series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctxsweep.analysis.decide import CONSTANT, LINEAR, MATERIAL, QUADRATIC, decide
from ctxsweep.analysis.simulate import (
    CONTEXTS,
    DECIDABLE,
    NOISE,
    SHAPES,
    Row,
    curves,
    distance,
    markdown,
    table,
)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The table of docs/measurement.md: 1000 series a line."""
    found = table()
    print("\n" + markdown(found))
    return found


def test_every_shape_at_every_noise(rows: list[Row]) -> None:
    assert {(r.shape, r.noise) for r in rows} == {(s, n) for s in SHAPES for n in NOISE}


def test_right_where_decidable(rows: list[Row]) -> None:
    judged = [r for r in rows if r.right_of_decidable is not None]
    assert len(judged) >= 12
    for row in judged:
        assert row.right_of_decidable is not None and row.right_of_decidable >= 0.99, row


def test_never_wrong_at_little_noise(rows: list[Row]) -> None:
    """Decidable or not."""
    assert [r for r in rows if r.noise <= 0.03 and r.wrong > 0] == []


def test_hardly_ever_wrong_at_much_noise(rows: list[Row]) -> None:
    assert max(r.wrong for r in rows) <= 0.002


def test_most_series_are_decidable_at_one_percent(rows: list[Row]) -> None:
    for row in rows:
        if row.noise <= 0.01:
            assert row.decidable >= 0.9 and row.right >= 0.99, row


def test_the_documented_table_is_this_one(rows: list[Row]) -> None:
    """To a percentage point: generators may differ between versions of numpy."""
    document = Path(__file__).parents[2] / "docs" / "measurement.md"
    written = [_figures(line) for line in document.read_text(encoding="utf-8").splitlines()]
    printed = [_figures(line) for line in markdown(rows).splitlines()]
    written, printed = [w for w in written if w], [p for p in printed if p]
    assert len(written) == len(printed) == len(rows)
    for there, here in zip(written, printed, strict=True):
        assert there == pytest.approx(here, abs=1.0, nan_ok=True)


def _figures(line: str) -> list[float]:
    columns = [column.strip() for column in line.strip("|").split("|")]
    if columns[0] not in SHAPES.values() or len(columns) != 9:
        return []
    return [float("nan") if c == "–" else float(c.rstrip("%")) for c in columns[1:]]


def test_a_fit_without_intercept_misreads_decode(rows: list[Row]) -> None:
    for row in rows:
        if row.shape == LINEAR:
            assert row.without_intercept_wrong > 0.3


@pytest.mark.parametrize("shape", [LINEAR, QUADRATIC])
def test_drawn_growth_is_material(shape: int) -> None:
    truth = curves(shape, 500, np.random.default_rng(0))
    assert truth[:, -1] == pytest.approx(1.0)
    coefficients = np.polynomial.polynomial.polyfit(CONTEXTS / CONTEXTS[-1], truth.T, 2)
    assert coefficients[shape].min() >= MATERIAL - 1e-9


def test_decidable_does_not_look_at_outcomes() -> None:
    truth = curves(LINEAR, 50, np.random.default_rng(0))
    quiet, loud = distance(LINEAR, truth, 0.01), distance(LINEAR, truth, 0.10)
    assert (loud < quiet).all()
    assert (distance(CONSTANT, np.ones((1, 8)), 0.01) > DECIDABLE).all()


def test_growth_below_the_margin_is_never_called_quadratic() -> None:
    """a + b·n whose growth is under the margin: O(1) is within its claim, O(n) is right."""
    rng = np.random.default_rng(5)
    x = CONTEXTS / CONTEXTS[-1]
    growth = rng.uniform(0.0, MATERIAL, (1000, 1))
    for noise in (0.01, 0.03):
        y = (1 - growth + growth * x) * (1 + noise * rng.standard_normal((1000, 8)))
        code, _ = decide(CONTEXTS, y, np.full_like(y, noise))
        assert not (code == QUADRATIC).any()


def test_errors_stated_four_times_too_small_still_do_not_mislead() -> None:
    rng = np.random.default_rng(6)
    for shape in SHAPES:
        truth = curves(shape, 1000, rng)
        y = truth * (1 + 0.01 * rng.standard_normal(truth.shape))
        code, _ = decide(CONTEXTS, y, np.full_like(y, 0.0025))
        wrong = (code != shape) & (code >= 0)
        assert wrong.mean() <= 0.01
