"""What the report says of engines that do not compute the same."""

from __future__ import annotations

from ctxsweep.analysis.summary import NumericsCheck, Summary
from ctxsweep.report.verdicts import answer, numerics_cell

GOOD = {"largest_difference": 2e-6, "relative_difference": 1e-6, "allowed": 1e-4, "agrees": True}
BAD = {"largest_difference": 0.5, "relative_difference": 0.3, "allowed": 0.04, "agrees": False}
LOST = {"largest_difference": None, "relative_difference": None, "allowed": 0.04, "agrees": False}


def test_every_reference_is_named_with_those_that_disagree_with_it(summary: Summary) -> None:
    names = [series.name for series in summary.series[:5]]
    assert len(set(names)) == 5
    first, other, second, one, two = names
    numerics = (
        NumericsCheck(series=first, reference=first, **GOOD),
        NumericsCheck(series=other, reference=first, **BAD),
        NumericsCheck(series=second, reference=second, **GOOD),
        NumericsCheck(series=one, reference=second, **BAD),
        NumericsCheck(series=two, reference=second, **LOST),
    )
    text = answer(summary.model_copy(update={"numerics": numerics}))
    assert f" {other} does not compute what {first} does, although" in text
    assert f" {one} and {two} do not compute what {second} does, although" in text


def test_a_reference_that_is_not_finite_is_no_reference_to_praise(summary: Summary) -> None:
    first = summary.series[0].name
    check = NumericsCheck(series=first, reference=first, **LOST)
    cell = numerics_cell(check)
    assert not cell.agrees and cell.figures == "logits are not finite"
    assert "does not compute" not in answer(summary.model_copy(update={"numerics": (check,)}))
