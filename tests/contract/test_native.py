"""The project's own models under the contract: every small model of the catalogue."""

from __future__ import annotations

from ctxsweep.backends.base import BACKENDS, InvalidSeries
from ctxsweep.models import catalog
from ctxsweep.records import Series

from .contract import Case, Contract


def runs(model: str) -> bool:
    try:
        BACKENDS["native"].adapter().check(Series(name="x", model=model))
    except InvalidSeries:
        return False
    return True


class TestNative(Contract):
    backend = "native"
    cases = (
        *(Case(name) for name in catalog.names() if name.startswith("tiny-") and runs(name)),
        Case({"like": "tiny-gqa", "attention": {"window": 32, "sinks": 4}}),
        Case("tiny-gqa", {"window": 32, "sinks": 4}),
    )
