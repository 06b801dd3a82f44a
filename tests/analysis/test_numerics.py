"""Engines on the same weights: who is compared with whom, and what counts as the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ctxsweep.analysis.numerics import ALLOWED, numerics_checks
from ctxsweep.analysis.summary import NumericsCheck
from ctxsweep.records import Cell, Probe, Record, Series, Status

LOGITS = np.random.default_rng(1).normal(size=64)
WEIGHTS = "random, seed 0, drawn on cpu"


def record(name: str, off: float = 0.0, weights: str | None = WEIGHTS, **settings: Any) -> Record:
    """A series whose logits are ``off`` by that share of their spread."""
    noise = np.random.default_rng(2).normal(size=64)
    logits = LOGITS + off * noise / np.sqrt(np.mean(noise**2))
    series = Series(name=name, **{"model": "tiny-gqa", **settings})
    cell = Cell(
        scenario="x", series=series, context_tokens=64, generate_tokens=8, procedure="ladder"
    )
    probe = Probe(tokens=256, vocabulary=4096, logits=tuple(logits), spread=1.0)
    return Record(cell=cell, status=Status.OK, probe=probe, engine={"weights": weights})


def checks(*records: Record) -> dict[str, NumericsCheck]:
    return {check.series: check for check in numerics_checks(records)}


def test_the_widest_dtype_is_the_reference_whatever_came_first() -> None:
    found = checks(
        record("narrow", 0.004, dtype="bfloat16"),
        record("eighth", 0.002, kv_dtype="fp8_e4m3"),
        record("wide", 1e-6),
    )
    assert {check.reference for check in found.values()} == {"wide"}
    assert found["wide"].relative_difference == 0
    assert all(check.agrees for check in found.values())


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, "float32"),
        ({"dtype": "float16"}, "float16"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"kv_dtype": "int8"}, "int8"),
        ({"kv_dtype": "fp8_e4m3"}, "fp8_e4m3"),
        ({"kv_dtype": "fp8_e5m2"}, "fp8_e5m2"),
    ],
)
def test_a_dtype_allows_its_own_and_no_more(settings: dict[str, str], kind: str) -> None:
    for share, agrees in ((0.9, True), (1.1, False)):
        found = checks(record("first"), record("other", share * ALLOWED[kind], **settings))
        assert found["other"].relative_difference == pytest.approx(share * ALLOWED[kind])
        assert found["other"].agrees is agrees
        assert found["first"].agrees


def test_the_rounding_of_a_narrow_reference_is_allowed_for_too() -> None:
    both = {"dtype": "bfloat16"}
    found = checks(record("first", **both), record("other", 1.5 * ALLOWED["bfloat16"], **both))
    assert found["other"].agrees
    assert found["other"].allowed == 2 * ALLOWED["bfloat16"]


@pytest.mark.parametrize(
    "other",
    [
        record("other", 1.0, model="tiny-mqa"),
        record("other", 1.0, weights="random, seed 0, drawn on cuda"),
        record("other", 1.0, window=64),
        record("other", 1.0, sinks=4),
        record("other", 1.0, rope={"rope_type": "linear", "factor": 2.0}),
    ],
    ids=["model", "weights", "window", "sinks", "rope"],
)
def test_what_is_not_the_same_model_is_not_compared(other: Record) -> None:
    assert checks(record("first"), other) == {}


def test_logits_that_are_not_finite_never_agree() -> None:
    bad = record("other")
    assert bad.probe is not None
    probe = bad.probe.model_copy(update={"logits": (None, *bad.probe.logits[1:])})
    found = checks(record("first"), bad.model_copy(update={"probe": probe}))["other"]
    assert not found.agrees and found.largest_difference is None
    assert math.isfinite(found.allowed)


def shown(of: Record, **probe: Any) -> Record:
    assert of.probe is not None
    return of.model_copy(update={"probe": of.probe.model_copy(update=probe)})


def test_what_is_not_finite_is_no_reference() -> None:
    bad = shown(record("first"), logits=(None,) * 64)
    found = checks(bad, record("narrow", 0.004, dtype="bfloat16"), record("second"))
    assert {check.reference for check in found.values()} == {"second"}
    assert [name for name, check in found.items() if not check.agrees] == ["first"]


def test_nothing_agrees_with_logits_that_are_all_the_same() -> None:
    found = checks(shown(record("first"), logits=(0.0,) * 64, spread=0.0), record("other"))
    assert found["first"].agrees and not found["other"].agrees
    relative = found["other"].relative_difference
    assert relative is not None and math.isfinite(relative)


def test_the_rounding_of_a_narrow_cache_of_the_reference_is_allowed_for_too() -> None:
    first = record("first", kv_dtype="fp8_e5m2")
    other = record("other", 1.5 * ALLOWED["fp8_e5m2"], kv_dtype="fp8_e5m2")
    assert checks(first, other)["other"].agrees


def test_engines_that_do_not_tell_their_weights_are_not_compared() -> None:
    assert checks(record("first", weights=None), record("other", 1.0, weights=None)) == {}


def test_failed_records_and_engines_without_logits_are_left_out() -> None:
    silent = record("silent").model_copy(update={"probe": None})
    assert checks(record("first"), silent) == {}
