"""The table of engines: each says what it is, refuses what cannot be, and is under the contract."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from ctxsweep.backends.base import BACKENDS, InvalidSeries
from ctxsweep.records import Series

from .contract import Contract

every_engine = pytest.mark.parametrize("name", BACKENDS)
LOADED_HERE = [name for name, one in BACKENDS.items() if not one.adapter().capabilities.remote]


@every_engine
def test_it_says_what_it_is_or_why_not(name: str) -> None:
    entry = BACKENDS[name]
    assert entry.summary
    missing = entry.adapter().availability()
    assert missing is None or (missing.reason and missing.remedy)


@every_engine
def test_a_model_that_nobody_knows_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(InvalidSeries) as caught:
        BACKENDS[name].adapter().check(Series(name="x", backend=name, model="tiny-gqq"))
    assert caught.value.key == "model"
    assert "tiny-gqa" in caught.value.message


@every_engine
def test_a_folder_that_does_not_say_what_it_is_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 64}')
    with pytest.raises(InvalidSeries, match="model_type = None") as caught:
        BACKENDS[name].adapter().check(Series(name="x", backend=name, model=str(tmp_path)))
    assert caught.value.key == "model"


@every_engine
def test_an_option_that_it_does_not_have_is_refused(name: str) -> None:
    series = Series(name="x", backend=name, model="tiny-gqa", options={"no_such_option": 1})
    with pytest.raises(InvalidSeries) as caught:
        BACKENDS[name].adapter().check(series)
    assert caught.value.key.startswith("options")


@every_engine
def test_attention_sinks_are_natives_alone(name: str) -> None:
    series = Series(name="x", backend=name, model="tiny-gqa", window=64, sinks=4)
    if name == "native":
        BACKENDS[name].adapter().check(series)
        return
    with pytest.raises(InvalidSeries, match="take backend native") as caught:
        BACKENDS[name].adapter().check(series)
    assert caught.value.key == "sinks"


@pytest.mark.parametrize("name", LOADED_HERE)
def test_it_is_under_the_contract(name: str) -> None:
    found = [
        value
        for path in sorted(Path(__file__).parent.glob("test_*.py"))
        for value in vars(import_module(f"{__package__}.{path.stem}")).values()
        if isinstance(value, type) and issubclass(value, Contract) and value is not Contract
    ]
    cases = [case for one in found if one.backend == name for case in one.cases]
    assert cases, f"no Contract in tests/contract has backend = '{name}' and a case"
