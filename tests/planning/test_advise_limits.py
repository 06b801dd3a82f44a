"""Hard limits: a full training must fit, precisions are the device's, what exclusions rest on."""

from __future__ import annotations

from typing import Any

from ctxsweep.planning.advice.advise import Made, advise
from ctxsweep.planning.advice.candidates import of_model
from ctxsweep.planning.advice.decision import Decision
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.needs import make_needs
from ctxsweep.planning.devices import device as device_of

MADE = Made("2026-01-01T00:00:00Z", "0.1.0", "abc", "ctxsweep advise")


def decide(models: tuple[str, ...], **fields: Any) -> Decision:
    needs = make_needs({**fields, "models": models})
    grounds = Grounds(device=device_of(needs.device), engines=lambda c, n: ("native",))
    return advise(tuple(map(of_model, models)), needs, grounds, MADE)


def test_a_full_training_must_fit_and_is_in_16_bits() -> None:
    needs = {"context": "4k", "device": "H100", "training": "finetune"}
    decision = decide(("llama-2-7b", "phi-3-mini-128k"), **needs)
    assert decision.take == "phi-3-mini-128k"
    row, out = decision.ranking[0], decision.excluded[0]
    assert row.precision == "bfloat16"
    assert row.figures.memory_bytes.value > 16 * row.parameters
    assert out.need == "memory" and out.rests_on == "convention" and "LoRA" in out.reason
    wider = decide(("llama-2-7b",), **needs, tp=2)
    assert wider.take == "llama-2-7b"
    assert wider.ranking[0].figures.memory_bytes.value > 8 * wider.ranking[0].parameters


def test_precisions_are_those_of_the_device() -> None:
    def taken(device: str, **more: Any) -> str:
        return decide(("falcon-7b",), context="8k", device=device, **more).ranking[0].precision

    assert taken("T4", memory="12GB") == "int8"
    assert taken("T4", memory="16GB") == "float16"
    assert taken("A100") == "bfloat16"
    tight = {"memory": "11GB", "batch": 48, "quality": "medium"}
    found = {
        name: decide(("falcon-7b",), context="8k", device=name, **tight) for name in ("L4", "A10")
    }
    assert "fp8_e4m3 cache" in found["L4"].ranking[0].precision
    assert all("fp8" not in row.precision for row in found["A10"].ranking)


def test_what_an_exclusion_rests_on_is_said() -> None:
    models = ("llama-2-7b", "gpt2", "llama-3-8b")
    near = decide(models, context="4k", device="H100", memory="16GB", weight_dtype="bfloat16")
    grounds = {one.name: (one.need, one.rests_on, one.proof) for one in near.excluded}
    assert grounds["gpt2"] == ("context", "arithmetic", True)
    assert grounds["llama-2-7b"] == ("memory", "convention", False)
    far = decide(models, context="4k", device="H100", memory="8GB", weight_dtype="bfloat16")
    assert {one.name: one.proof for one in far.excluded}["llama-2-7b"]
    fast = decide(
        ("llama-3-8b",), context="8k", device="H100", prefill="100ms", weight_dtype="int4"
    )
    assert fast.excluded[0].rests_on == "bound" and not fast.excluded[0].proof
    slow = decide(("llama-3-8b",), context="8k", device="H100", prefill="10ms", weight_dtype="int4")
    assert slow.excluded[0].proof
