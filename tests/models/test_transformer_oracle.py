"""Native transformers against transformers' own with the same weights, and against themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.layers import StateSpec
from ctxsweep.models.weights import load_folder

CPU = torch.device("cpu")
TOKENS = 70
Feed = Callable[..., Tensor]

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
PHI3 = {**SHAPE, "pad_token_id": 0}


def longrope(trained: int) -> dict[str, Any]:
    """A Phi-3 whose positions turn by its short factors up to ``trained`` tokens."""
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]}
    return {
        **PHI3,
        "original_max_position_embeddings": trained,
        "rope_parameters": {"rope_type": "longrope", **factors},
    }


ORACLES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**SHAPE, "rope_theta": 5e5}),
    "llama-bias-tied": (
        "Llama",
        {**SHAPE, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama-wide-heads": ("Llama", {**SHAPE, "head_dim": 32}),
    "mistral-window": ("Mistral", {**SHAPE, "sliding_window": 20}),
    "qwen2": ("Qwen2", {**SHAPE, "rope_theta": 1e6}),
    "qwen2-window-tied": (
        "Qwen2",
        {
            **SHAPE,
            "use_sliding_window": True,
            "sliding_window": 20,
            "max_window_layers": 0,
            "tie_word_embeddings": True,
        },
    ),
    "phi3": ("Phi3", {**PHI3, "sliding_window": 20}),
    "phi3-partial": (
        "Phi3",
        {**PHI3, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ),
    "phi3-longrope": ("Phi3", longrope(trained=128)),
    "mixtral": ("Mixtral", {**SHAPE, "num_local_experts": 5, "num_experts_per_tok": 2}),
    "gpt2": (
        "GPT2",
        {
            "vocab_size": 97,
            "n_embd": 64,
            "n_head": 4,
            "n_layer": 3,
            "n_positions": 128,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
    ),
}


def oracle(family: str, fields: dict[str, Any]) -> transformers.PreTrainedModel:
    """A random model of transformers; weights large enough for attention to be uneven."""
    suffix = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    config = getattr(transformers, f"{family}Config")(**fields, attn_implementation="eager")
    torch.manual_seed(7)
    model: transformers.PreTrainedModel = getattr(transformers, family + suffix)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module", params=list(ORACLES))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[transformers.PreTrainedModel, LanguageModel]:
    theirs = oracle(*ORACLES[request.param])
    folder: Path = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, load_folder(folder, torch.float32, CPU)


def tokens(batch: int = 4, length: int = TOKENS) -> Tensor:
    return torch.randint(97, (batch, length), generator=torch.Generator().manual_seed(3))


def test_logits_equal_those_of_transformers(
    pair: tuple[transformers.PreTrainedModel, LanguageModel], feed: Feed
) -> None:
    theirs, ours = pair
    with torch.no_grad():
        wanted = theirs(tokens()).logits
    assert wanted.std() > 0.5  # there is something to be wrong about
    assert (feed(ours, tokens()) - wanted).abs().max() <= 1e-4


def test_long_factors_beyond_the_trained_length(tmp_path: Path, feed: Feed) -> None:
    """In one call: which factors turn follows from the length, so that no split gives the same."""
    theirs = oracle("Phi3", longrope(trained=64))
    theirs.save_pretrained(tmp_path)
    ours = load_folder(tmp_path, torch.float32, CPU)
    for length in (64, TOKENS):
        with torch.no_grad():
            wanted = theirs(tokens(length=length)).logits
        assert (feed(ours, tokens(length=length)) - wanted).abs().max() <= 1e-4


@pytest.mark.parametrize("splits", [1, 7, 8, 33, [5, 1, 1, 40, 1, 22]])
def test_any_split_gives_the_same_logits(
    pair: tuple[transformers.PreTrainedModel, LanguageModel], feed: Feed, splits: Any
) -> None:
    ours = pair[1]
    whole = feed(ours, tokens(2))
    for page_size in (1, 8, 64):
        split = feed(ours, tokens(2), splits, page_size)
        assert (split - whole).abs().max() <= 2e-5


def test_a_row_of_a_batch_is_a_batch_of_one(
    pair: tuple[transformers.PreTrainedModel, LanguageModel], feed: Feed
) -> None:
    ours = pair[1]
    batch = feed(ours, tokens(4), 16)
    rows = [feed(ours, row[None], 16) for row in tokens(4)]
    assert (batch - torch.cat(rows)).abs().max() <= 2e-5


def small(**attention: Any) -> LanguageModel:
    config = ModelConfig(
        name="small",
        mixer="attention",
        vocab_size=97,
        hidden_size=64,
        num_layers=2,
        max_positions=128,
        attention={"heads": 4, "kv_heads": 2, "head_dim": 16, **attention},
        ffn={"size": 96},
    )
    return build(config, 0, torch.float32, CPU)


@pytest.mark.parametrize("heads", [4, 6])
def test_alibi_equals_a_dense_softmax_with_the_linear_penalty(heads: int, feed: Feed) -> None:
    model = small(position="alibi", heads=heads, kv_heads=heads)
    mixer = model.layers[0].mixer
    seen: list[Tensor] = []
    with mixer.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        outputs: list[Tensor] = []
        with mixer.register_forward_hook(lambda _, __, out: outputs.append(out)):
            feed(model, tokens(1))
    x, weight = seen[0].double(), mixer.qkv.weight.double()
    q, k, v = (x @ weight.T).view(TOKENS, 3, heads, 16).permute(1, 2, 0, 3)
    # arXiv 2108.12409: 2^(-8/n), ...; for 6 heads those of 4, then the odd ones of 8
    powers = {4: [2, 4, 6, 8], 6: [2, 4, 6, 8, 1, 3]}[heads]
    slopes = torch.tensor([2.0**-p for p in powers], dtype=torch.float64)
    distance = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)
    scores = q @ k.mT / 4 - slopes[:, None, None] * distance
    scores = scores.masked_fill(distance < 0, float("-inf"))
    wanted = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1) @ mixer.out.weight.double().T
    assert (outputs[0][0] - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("kv_dtype", "element_bytes", "budget"),
    [
        (torch.bfloat16, 2, 0.01),
        (torch.float16, 2, 0.0015),
        (torch.float8_e4m3fn, 1, 0.1),
        (torch.float8_e5m2, 1, 0.2),
        (torch.int8, 1, 0.025),
    ],
)
def test_narrow_caches_stay_near_float32_in_exactly_their_bytes(
    kv_dtype: torch.dtype, element_bytes: int, budget: float, feed: Feed
) -> None:
    """Budgets are of the logits' standard deviation, several times the format's rounding."""
    model = small()
    exact = feed(model, tokens(2))
    narrow = feed(model, tokens(2), kv_dtype=kv_dtype)
    error = (narrow - exact).abs().max() / exact.std()
    assert 0 < error <= budget
    # Append first, attend second: a split changes no more than which way a rare tie rounds.
    split = feed(model, tokens(2), 1, kv_dtype=kv_dtype)
    assert (split - narrow).abs().max() / exact.std() <= budget / 5
    assert (split - narrow).abs().median() <= 1e-6
    state = model.new_state(
        StateSpec(3, 64, 64, 16, kv_dtype=kv_dtype, dtype=torch.float32, device=CPU)
    )
    state.begin(33)
    scale_bytes = 4 if kv_dtype == torch.int8 else 0
    pages, layers, kv_heads = 3, 2, 2
    token_bytes = 2 * kv_heads * (16 * element_bytes + scale_bytes)
    assert state.used_bytes == 3 * layers * pages * 16 * token_bytes
    storages = [layer[0].cache for layer in state.layers]
    held = sum(c.pages.nbytes + (c.scales.nbytes if c.scales is not None else 0) for c in storages)
    assert state.reserved_bytes == held


@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("window", [None, 20])
def test_a_snapshot_gives_back_the_same_continuation(
    window: int | None, kv_dtype: torch.dtype
) -> None:
    model, prompt = small(window=window), tokens(2)
    spec = StateSpec(2, 200, TOKENS, 8, kv_dtype=kv_dtype, dtype=torch.float32, device=CPU)
    with torch.inference_mode():
        state = model.new_state(spec)
        model(prompt, state)
        mark, used = state.snapshot(), state.used_bytes
        runs = []
        for _ in range(3):
            runs.append(model(prompt[:, :45], state))
            for _ in range(60):
                model(prompt[:, :1], state)
            state.restore(mark)
            assert (state.length, state.used_bytes) == (TOKENS, used)
        assert torch.equal(runs[0], runs[1])
        assert torch.equal(runs[0], runs[2])
        state.clear()
        assert (state.length, state.used_bytes) == (0, 0)
        fresh = model(prompt, model.new_state(spec))
        assert torch.equal(model(prompt, state), fresh)


def test_a_windows_memory_is_flat_past_it() -> None:
    model, page, window = small(window=32), 8, 32
    spec = StateSpec(1, 4096, 16, page, torch.float32, torch.float32, CPU)
    state, used = model.new_state(spec), []
    with torch.inference_mode():
        for _ in range(40):
            model(tokens(1, 16), state)
            used.append(state.used_bytes)
    page_bytes = 2 * 2 * page * 2 * 16 * 4
    assert set(used[2:]) == {page_bytes * window // page}
    assert state.reserved_bytes == page_bytes * ((window + 16) // page + 1)
