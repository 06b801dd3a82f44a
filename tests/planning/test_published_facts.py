"""What others published of memory and times, reproduced; floors that follow from their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ctxsweep.models.accounting import Storage, cache_bytes
from ctxsweep.models.accounting_parameters import parameters
from ctxsweep.models.catalog import load_config, names
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import device
from ctxsweep.planning.footprint import weights_bytes
from ctxsweep.planning.roofline import decode_bound, predict

FACTS = yaml.safe_load(
    (Path(__file__).parents[1] / "fixtures" / "published_gpu_facts.yaml").read_text("utf-8")
)
UNITS = {"KiB": 2**10, "GiB": 2**30, "GB": 1e9}


def config_of(name: str) -> ModelConfig:
    if name in FACTS["shapes"]:
        assert name not in names(), f"{name} is in the catalogue now: remove it from the fixture"
        return ModelConfig(name=name, **FACTS["shapes"][name])
    return load_config(name)


def facts(kind: str) -> list[Any]:
    return [pytest.param(one, id=f"{kind}-{i}") for i, one in enumerate(FACTS[kind])]


def near(value: float, fact: dict[str, Any], printed: str = "value") -> None:
    assert abs(value - fact[printed]) <= fact["digit"] / 2 + 1e-9, (value, fact)


def test_every_fact_has_a_source():
    held = [one for kind, ones in FACTS.items() if kind != "shapes" for one in ones]
    assert len(held) > 20
    assert all(one["source"] for one in [*held, *FACTS["shapes"].values()])


@pytest.mark.parametrize("fact", facts("decode_floors"))
def test_decode_floors(fact):
    config, on = config_of(fact["model"]), device(fact["device"])
    deployment = Deployment(kv_dtype=fact["kv_dtype"])
    bound = decode_bound(config, deployment, on, fact["context"])
    assert bound.limited_by == "memory bandwidth"
    near(bound.seconds * 1e3, fact, "printed_ms")
    # The floor reads the whole embedding table too, of which a step reads one row.
    table = 2 * (parameters(config)["embedding"] - config.hidden_size)
    near((bound.seconds + table / on.read_bytes_per_s) * 1e3, fact, "ms")


@pytest.mark.parametrize("fact", facts("cache_bytes"))
def test_cache_bytes(fact):
    config = config_of(fact["model"])
    storage = Storage("float16", fact["kv_dtype"], 1)
    states = cache_bytes(config, storage, 0)  # the figure is of keys and values alone
    held = cache_bytes(config, storage, fact["context"]) - states
    near(held / UNITS[fact["unit"]], fact)


@pytest.mark.parametrize("fact", facts("windows"))
def test_windows(fact):
    config = config_of(fact["model"])
    assert config.attention is not None
    whole = config.model_copy(
        update={"attention": config.attention.model_copy(update={"window": None})}
    )
    storage = Storage("float16", "auto", 16)
    sizes = [cache_bytes(one, storage, fact["context"]) for one in (whole, config)]
    assert sizes[0] / sizes[1] == pytest.approx(fact["times_smaller"])


@pytest.mark.parametrize("fact", facts("weights"))
def test_weights(fact):
    held = weights_bytes(config_of(fact["model"]), Deployment(weight_dtype=fact["dtype"]))
    near(held / UNITS[fact["unit"]], fact)


@pytest.mark.parametrize("fact", facts("measured"))
def test_no_bound_is_slower_than_what_was_reached(fact):
    deployment = Deployment(weight_dtype=fact["weight_dtype"], tensor_parallel=fact["tp"])
    found = predict(config_of(fact["model"]), deployment, device(fact["device"]), 105)
    assert found.fits
    assert fact["tokens_per_s"] < found.tokens_per_s < 6 * fact["tokens_per_s"]
    if "gb_per_s" in fact:
        moved = fact["gb_per_s"] * 1e9 / fact["tokens_per_s"]
        ours = found.decode.parts["memory bandwidth"] * device(fact["device"]).read_bytes_per_s
        assert ours == pytest.approx(moved, rel=0.01)


@pytest.mark.parametrize("fact", facts("does_not_fit"))
def test_what_ran_out_of_memory_does_not_fit(fact):
    deployment = Deployment(weight_dtype=fact["weight_dtype"], tensor_parallel=fact["tp"])
    found = predict(config_of(fact["model"]), deployment, device(fact["device"]), 105)
    assert not found.fits
