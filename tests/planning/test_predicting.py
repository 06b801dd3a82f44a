"""Several models, contexts and batches at once: cells, reaches, crossings, remarks."""

from __future__ import annotations

import json

import pytest

from ctxsweep.models.catalog import load_config
from ctxsweep.planning.answers import Predicted
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import device
from ctxsweep.planning.predicting import QUANTITIES, predict_all, predicted_cell
from ctxsweep.planning.remarks import reach_words, remarks, stretched_reach, trained_reach
from ctxsweep.records import RopeScaling

H100 = device("H100")
CONTEXTS = (1024, 8192, 131072)


def predicted(*models: str, deployment: Deployment | None = None, batches=(1,), **on) -> Predicted:
    return predict_all(
        [load_config(name) for name in models],
        deployment or Deployment(),
        on.get("on", H100),
        on.get("contexts", CONTEXTS),
        batches,
    )


def test_there_is_a_cell_for_everything_that_was_asked():
    found = predicted("llama-3-8b", "mamba-2.8b", batches=(1, 8))
    keys = {(cell.model, cell.batch_size, cell.context_tokens) for cell in found.cells}
    assert len(keys) == len(found.cells) == 2 * 2 * 3
    assert [c.context_tokens for c in found.cells_of("mamba-2.8b", 8)] == list(CONTEXTS)
    assert Predicted.model_validate(json.loads(found.model_dump_json())) == found


def test_a_table_of_positions_has_no_cells_beyond_it():
    found = predicted("gpt2", "llama-3-8b")
    assert [cell.context_tokens for cell in found.cells_of("gpt2")] == [1024]
    (reach,) = found.models[0].reaches
    assert (reach.context_tokens, reach.ended_by) == (1024, "positions")


@pytest.mark.parametrize(
    ("model", "on", "ended_by"),
    [
        ("llama-3-8b", "H100", "cache"),
        ("falcon-180b", "H100", "weights"),
        ("mamba-2.8b", "H100", "nothing"),
        ("mistral-7b", "H100", "nothing"),
        ("gpt2", "H100", "positions"),
    ],
)
def test_what_ends_a_context_is_named(model, on, ended_by):
    (reach,) = predicted(model, on=device(on)).models[0].reaches
    assert reach.ended_by == ended_by
    assert (reach.context_tokens is None) == (ended_by == "nothing")


def test_the_reach_of_a_hybrid_that_goes_beyond_the_search_is_not_called_endless():
    found = predicted("jamba-v0.1", deployment=Deployment(tensor_parallel=8))
    (reach,) = found.models[0].reaches
    assert (reach.ended_by, reach.context_tokens) == ("search", 1 << 24)


@pytest.mark.parametrize(
    ("first", "second"),
    [("zamba2-2.7b-like", "mamba-2.8b"), ("llama-2-7b", "llama-3-8b"), ("phi-2", "mistral-7b")],
)
def test_a_crossing_is_where_the_order_changes(first, second):
    contexts = (256, 65536)
    found = predicted(first, second, contexts=contexts)
    crossed = [one for one in found.crossings if one.context_tokens is not None]
    assert crossed
    for one in crossed:
        at = one.context_tokens
        assert at is not None and contexts[0] < at <= contexts[1]

        def value(model: str, context: int, quantity: str = one.quantity) -> float:
            cell = predicted_cell(load_config(model), Deployment(), H100, context)
            return float(getattr(cell, quantity))

        assert value(one.below, at - 1) <= value(one.above, at - 1)
        assert value(one.above, at) < value(one.below, at)
    assert {one.quantity for one in found.crossings} == set(QUANTITIES)


def test_without_a_crossing_the_cheaper_model_is_named():
    found = predicted("llama-3-70b", "llama-3-8b", deployment=Deployment(tensor_parallel=8))
    assert [(one.below, one.context_tokens) for one in found.crossings] == [
        ("llama-3-8b", None)
    ] * 3


def test_crossings_end_where_one_no_longer_fits():
    found = predicted("llama-3-8b", "mamba-2.8b", on=device("RTX-4090"))
    ends = {one.to_tokens for one in found.crossings}
    (end,) = ends
    config = load_config("llama-3-8b")
    fits = [predicted_cell(config, Deployment(), found.device, n).fits for n in (end, end + 1)]
    assert fits == [True, False]
    assert {one.from_tokens for one in found.crossings} == {1024}
    assert not predicted("falcon-180b", "mamba-2.8b").crossings


def test_models_that_need_the_same_are_equal():
    found = predicted("qwen2.5-7b", "qwen2.5-7b-yarn")
    assert [one.equal for one in found.crossings] == [True] * 3
    assert not any(one.equal for one in predicted("llama-3-8b", "mamba-2.8b").crossings)


@pytest.mark.parametrize(
    ("model", "deployment", "on", "said"),
    [
        ("llama-3-8b", Deployment(), "H100", "Trained to 8K tokens: beyond, it needs RoPE scaling"),
        ("mamba-2.8b", Deployment(), "H100", "still understands has to be measured"),
        ("gpt2", Deployment(), "H100", "table of positions ends at 1K"),
        (
            "starcoder",
            Deployment(tensor_parallel=8),
            "H100",
            "each of the 8 devices holds the whole",
        ),
        (
            "llama-3-8b",
            Deployment(tensor_parallel=16),
            "H100",
            "of 16 devices 2 each hold the same",
        ),
        ("llama-3-8b", Deployment(tensor_parallel=2), "H100", "not latency"),
        ("llama-3-8b", Deployment(weight_dtype="int4"), "H100", "int4 move fewer bytes"),
        ("llama-3-8b", Deployment(weight_dtype="fp8"), "A100", "A100 does not multiply in fp8"),
        ("llama-3-8b", Deployment(weight_dtype="int8"), "H100", "activations too (W8A8)"),
        ("llama-3-8b", Deployment(weight_dtype="int8"), "V100", "V100 does not multiply in int8"),
        ("llama-3-8b", Deployment(tensor_parallel=16), "H100", "more than the 8 of a node"),
        ("rwkv7-7.2b", Deployment(), "H100", "States are counted in float32"),
        ("qwen2.5-7b-yarn", Deployment(), "H100", "Trained to 32K tokens, stretched to 128K"),
        ("llama-3-8b", Deployment(), "T4", "T4 does not multiply in bfloat16"),
        ("mamba-2.8b", Deployment(), "H100", "rate of matrix multiplies"),
        ("mixtral-8x7b", Deployment(), "H100", "Of 8 experts"),
    ],
)
def test_remarks_where_they_apply(model, deployment, on, said):
    found = remarks(load_config(model), deployment, device(on), (*CONTEXTS, 262144))
    assert any(said in remark for remark in found), found


def test_a_device_without_any_16_bit_type_is_said_to_count_at_float32s_rate():
    plain = H100.model_copy(update={"flops_per_s": {"float32": 1e12}})
    found = remarks(load_config("llama-3-8b"), Deployment(weight_dtype="int4"), plain, (1024,))
    assert any("counted at float32's rate" in remark for remark in found)
    assert any("multiplied in float32" in remark for remark in found)
    assert not any("at float16" in remark for remark in found)


def test_no_remarks_where_there_is_nothing_to_say():
    assert remarks(load_config("llama-3-8b"), Deployment(), H100, (8192,)) == ()


def test_stretched_models_reach_further():
    yarn = load_config("qwen2.5-7b-yarn")
    assert (trained_reach(yarn), stretched_reach(yarn)) == (131072, 131072)
    assert reach_words(yarn, str) == "trained to 32768, stretched to 131072"
    plain = load_config("llama-3-8b")
    assert (stretched_reach(plain), reach_words(plain, str)) == (None, "trained to 8192")
    assert plain.attention is not None
    dynamic = plain.attention.model_copy(
        update={"rope": RopeScaling(rope_type="dynamic", factor=4.0)}
    )
    anybody = plain.model_copy(update={"attention": dynamic})  # not trained for: anybody can set it
    assert (trained_reach(anybody), stretched_reach(anybody)) == (8192, 32768)
    assert trained_reach(load_config("llama-3-8b")) == 8192
    stretched = load_config("llama-3.1-8b")  # its factor is no ratio of lengths: 8 for 16 times
    assert trained_reach(stretched) == 131072
    assert trained_reach(stretched.model_copy(update={"trained_context": 8192})) is None
