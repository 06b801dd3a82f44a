"""The split of what a cell asks for: sums as in the accounting, parts as the models have them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctxsweep.models.accounting import (
    Storage,
    decode_call,
    flops,
    least_bytes,
    prefill_calls,
)
from ctxsweep.models.catalog import load_config, names
from ctxsweep.models.language_model import LanguageModel
from ctxsweep.planning.demand import decode_demand, prefill_demand

STORAGE = Storage("bfloat16", "fp8_e4m3", 16)


@pytest.mark.parametrize("name", names())
def test_parts_add_up_to_the_accounting(name):
    config = load_config(name)
    tokens, chunk, batch = 1500, 512, 3
    calls = prefill_calls(config, tokens, chunk)
    asked = prefill_demand(config, STORAGE, tokens, batch, chunk)
    assert asked.flops == pytest.approx(flops(config, calls, batch), rel=1e-12)
    assert asked.bytes == pytest.approx(least_bytes(config, STORAGE, calls, batch), rel=1e-12)
    assert (asked.calls, asked.tokens, asked.batch_size) == (3, 4500, 3)
    step = decode_demand(config, STORAGE, tokens, batch)
    assert step.flops == pytest.approx(flops(config, decode_call(config, tokens), batch))
    for one in (asked, step):
        assert one.linear_flops > 0 and one.weight_bytes > 0 and one.cache_bytes > 0
        mixers = set(config.layer_mixers())
        assert (one.attention_flops > 0) == ("attention" in mixers)
        assert (one.scan_flops > 0) == bool(mixers - {"attention"})


def dense_twins():
    """Of experts only those chosen are multiplied: test_accounting_exact has them."""
    tiny = [name for name in names() if name.startswith("tiny-")]
    return [name for name in tiny if not getattr(load_config(name).ffn, "experts", 0)]


@pytest.mark.parametrize("name", dense_twins())
def test_linear_flops_are_those_of_the_models_matrices(name):
    config = load_config(name)
    with torch.device("meta"):
        model = LanguageModel(config)
    linears = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    stacked = ("projections", "mix_up")  # matrices that are multiplied together
    linears += [p for key, p in model.named_parameters() if key.endswith(stacked)]
    asked = decode_demand(config, STORAGE, 100)
    assert asked.linear_flops == 2 * sum(weight.numel() for weight in linears)


def test_a_longer_context_asks_more_of_attention_alone():
    config = load_config("tiny-hybrid")
    short, long = (decode_demand(config, STORAGE, n) for n in (1000, 4000))
    assert long.attention_flops == pytest.approx(4 * short.attention_flops, rel=0.01)
    assert long.cache_bytes > short.cache_bytes
    assert (long.linear_flops, long.scan_flops) == (short.linear_flops, short.scan_flops)
    assert long.weight_bytes == short.weight_bytes
