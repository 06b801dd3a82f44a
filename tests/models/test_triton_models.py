"""Whole models with every op in Triton: the logits of the torch ops, prefill and decode.

The oracle is the same model in float64, its attention by the dense reference; the budget is what
the torch ops lose against it in float32 (see `ctxsweep_kernels.testing`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ctxsweep.models import attention, catalog
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.layers import StateSpec
from ctxsweep_kernels.dispatch import noting
from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_prefill.reference import paged_attention_reference
from ctxsweep_kernels.rope_append import rope_append
from ctxsweep_kernels.rope_append.reference import rotate_reference
from ctxsweep_kernels.testing import assert_within, budget

CPU = torch.device("cpu")
BATCH, VOCABULARY, PAGE_SIZE = 2, 128, 16
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 128}
CALLS = [67, 24, *[1] * 16]  # two chunks of a prompt, then 16 decode steps
MODELS: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "tiny-swa": ({"window": 40}, torch.float8_e4m3fn),  # GQA, a window, an fp8 cache
    "tiny-gqa": ({}, torch.int8),
    "tiny-mqa": ({}, torch.float32),
    "tiny-alibi": ({}, torch.float32),
    "tiny-mamba1": ({}, torch.float32),
    "tiny-mamba2": ({}, torch.float32),
    "tiny-rwkv7": ({}, torch.float32),
    "tiny-retnet": ({}, torch.float32),
    "tiny-hybrid": ({}, torch.float32),
}


def made(name: str, device: torch.device) -> LanguageModel:
    config = catalog.load_config(name).model_copy(update=SMALL)
    changes, _ = MODELS[name]
    if changes and config.attention is not None:
        changed = config.attention.model_copy(update=changes)
        config = config.model_copy(update={"attention": changed})
    return build(config, 5, torch.float32, CPU).to(device)


def logits(model: LanguageModel, kv_dtype: torch.dtype) -> Tensor:
    dtype, device = model.head.weight.dtype, model.head.weight.device
    spec = StateSpec(BATCH, sum(CALLS), max(CALLS), PAGE_SIZE, kv_dtype, dtype, device)
    state = model.new_state(spec)
    tokens = torch.randint(VOCABULARY, (BATCH, sum(CALLS)), generator=torch.manual_seed(6))
    with torch.inference_mode():
        calls = tokens.to(device).split(CALLS, dim=1)
        return torch.cat([model(call, state, all_logits=True) for call in calls], dim=1).cpu()


def exact_logits(name: str, kv_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(attention, "rope_append", rotate_and_append_exactly)
        patch.setattr(attention, "paged_decode_attention", attend_exactly)
        patch.setattr(attention, "paged_prefill_attention", attend_exactly)
        model = made(name, CPU).double()
        model.impl = "torch"
        return logits(model, kv_dtype)


def rotate_and_append_exactly(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: PagedKV,
    table: Tensor,
    starts: Tensor,
    inv_freq: Tensor | None,
    attention_factor: float,
    **_: Any,
) -> Tensor:
    q, k = (rotate_reference(x, starts, inv_freq, attention_factor) for x in (q, k))
    rope_append(q.float(), k.float(), v.float(), cache, table, starts, None, impl="torch")
    return q


def attend_exactly(
    q: Tensor, cache: PagedKV, table: Tensor, lengths: Tensor, impl: str, **options: Any
) -> Tensor:
    return paged_attention_reference(q, cache, table, lengths, **options)


@pytest.mark.parametrize("name", MODELS)
def test_whole_models(name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    _, kv_dtype = MODELS[name]
    exact = exact_logits(name, kv_dtype, monkeypatch)
    model, found = made(name, device), {}
    launched: list[Launch] = []
    run = Launch.run
    monkeypatch.setattr(Launch, "run", lambda launch: (launched.append(launch), run(launch)))
    for impl in ("torch", "triton"):
        model.impl = impl
        seen: dict[str, str] = {}
        with noting(seen):
            found[impl] = logits(model, kv_dtype)
        assert seen == dict.fromkeys(model.ops, impl)
        calls = len(CALLS) * model.config.num_layers
        assert (len(launched) >= calls) if impl == "triton" else not launched
    allowed = budget(exact, found["torch"], torch.float32)
    assert_within(found["triton"], exact, allowed)
    assert (exact[:, 1:] - exact[:, :-1]).abs().max() > 100 * allowed  # the context matters
