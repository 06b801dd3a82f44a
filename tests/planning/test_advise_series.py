"""What runs bring into a decision: names of series, precisions that were measured, known times."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from ctxsweep.analysis.summary import Summary
from ctxsweep.planning.advice.advise import Made, advise
from ctxsweep.planning.advice.candidates import (
    UnknownCandidate,
    named,
    of_model,
    series_by_name,
)
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.needs import make_needs
from ctxsweep.planning.advice.precision import ladder
from ctxsweep.planning.devices import device
from ctxsweep.records import Series

BASELINE = Path(__file__).parents[2] / "results/baselines/2-core-amd-epyc/long_ctx/summary.json"


@cache
def run() -> Summary:
    return Summary.model_validate_json(BASELINE.read_text(encoding="utf-8"))


def series(model: str) -> Series:
    return Series(name="one", backend="native", model=model)


def test_series_of_one_name_are_told_apart_and_equal_ones_are_one() -> None:
    mha, gqa = series("tiny-mha"), series("tiny-gqa")
    assert series_by_name([("a", [mha]), ("b", [mha])]) == {"one": mha}
    both = series_by_name([("a", [mha]), ("b", [gqa])])
    assert both == {"a:one": mha, "b:one": gqa}
    assert [c.name for c in named(["b:one"], both)] == ["b:one"]
    with pytest.raises(UnknownCandidate, match="say a:one or b:one"):
        named(["one"], both)


def test_high_quality_takes_no_narrow_cache_though_it_was_measured() -> None:
    narrow = series("tiny-gqa").model_copy(update={"dtype": "bfloat16", "kv_dtype": "fp8_e4m3"})
    runs = (run().model_copy(update={"series": (narrow,)}),)
    grounds = Grounds(device=device("H100"), engines=lambda c, n: ("a",), runs=runs)
    rungs = {
        q: ladder(of_model("tiny-gqa"), make_needs({"quality": q}), grounds)
        for q in ("high", "any")
    }
    assert rungs["high"] == [("bfloat16", "auto"), ("int8", "auto")]
    assert rungs["any"][:2] == [("bfloat16", "auto"), ("bfloat16", "fp8_e4m3")]


def test_a_tie_goes_to_what_was_measured() -> None:
    """A twin of a measured model, run by more engines, but known by its bounds alone."""
    names = ("tiny-gqa", "tiny-moe")
    fields = {"context": "32k", "quality": "any", "weight-dtype": "float32", "weights": "quality=1"}
    needs = make_needs({**fields, "models": ",".join(names)})
    only = run().model_copy(update={"series": tuple(s for s in run().series if s.name == "gqa")})

    def decide(*runs: Summary):  # type: ignore[no-untyped-def]
        grounds = Grounds(
            device=device("H100"),
            engines=lambda c, n: ("a", "b") if c.name == "tiny-moe" else ("a",),
            runs=runs,
        )
        return advise(tuple(map(of_model, names)), needs, grounds, Made("now", "0", None, "x"))

    assert decide().tie and decide().take == "tiny-moe"
    known = decide(only)
    assert known.tie and known.take == "tiny-gqa"
    assert known.tie_breaker.startswith("evidence:")
