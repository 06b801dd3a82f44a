"""How a layer's parts stand to each other: parallel, shared, alternating; any split is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.feed_forward import MixtureOfExperts
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.layers import StateSpec, Step

CPU = torch.device("cpu")
Feed = Callable[..., Tensor]
ATTENTION = {"heads": 4, "kv_heads": 2, "head_dim": 8}
FORMS: dict[str, dict[str, Any]] = {
    "parallel": {"residual": "parallel", "norm": "layernorm", "norm_bias": False},
    "shared norm": {"residual": "parallel_shared_norm", "norm": "layernorm", "head_bias": True},
    "gemma": {
        "ffn": {"kind": "geglu", "size": 48},
        "embedding_scale": 32**0.5,
        "tied_embeddings": True,
    },
    "bloom": {
        "embedding_norm": True,
        "norm": "layernorm",
        "attention": {**ATTENTION, "position": "alibi", "bias": True},
        "ffn": {"kind": "gelu_exact", "size": 48, "bias": True},
    },
    "jamba": {
        "mixer": "mamba1",
        "num_layers": 8,
        "attention_every": 4,
        "attention_offset": 2,
        "attention": {**ATTENTION, "position": "none"},
        "mamba": {"inner_norms": True},
        "ffn": {"size": 48, "experts": 4, "experts_every": 2},
    },
    "zamba": {
        "mixer": "mamba2",
        "num_layers": 8,
        "attention_every": 4,
        "attention_shared": True,
        "mamba": {"head_dim": 16},
        "ffn": {"size": 48, "layers": "attention"},
    },
}


def config(**fields: Any) -> ModelConfig:
    base = {
        "name": "form",
        "mixer": "attention",
        "vocab_size": 97,
        "hidden_size": 32,
        "num_layers": 3,
        "attention": ATTENTION,
        "ffn": {"kind": "gelu", "size": 48},
    }
    return ModelConfig(**{**base, **fields})


def built(**fields: Any) -> LanguageModel:
    """Seeded weights, large enough for the parts to matter."""
    model = build(config(**fields), 3, torch.float32, CPU)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.mark.parametrize("form", FORMS)
def test_any_split_gives_the_same_logits(form: str, feed: Feed) -> None:
    model = built(**FORMS[form])
    tokens = torch.randint(97, (2, 40))
    whole = feed(model, tokens)
    assert whole.std() > 0.1
    for splits in (1, 7, [5, 1, 1, 30, 3]):
        assert (feed(model, tokens, splits) - whole).abs().max() <= 2e-5


@pytest.mark.parametrize(
    ("residual", "of_input"),
    [("sequential", False), ("parallel", True), ("parallel_shared_norm", True)],
)
def test_parallel_parts_read_the_layers_input(residual: str, of_input: bool) -> None:
    model = built(residual=residual, num_layers=1)
    layer, x = model.layers[0], torch.randn(1, 6, 32)
    layer.mixer.forward = lambda x, state, step: 2 * x.cumsum(1)
    y = layer(x, (None,), Step(start=0))
    mixed = 2 * layer.mixer_norm(x).cumsum(1)
    read = x if of_input else x + mixed
    norm = layer.ffn_norm or layer.mixer_norm
    torch.testing.assert_close(y, x + mixed + layer.ffn(norm(read)))
    assert (layer.ffn_norm is None) == (residual == "parallel_shared_norm")


def test_experts_are_in_every_kth_layer_alone() -> None:
    layers = built(**FORMS["jamba"]).layers
    assert [isinstance(layer.ffn, MixtureOfExperts) for layer in layers] == [False, True] * 4


def test_layers_that_share_weights_have_states_of_their_own() -> None:
    model = built(**FORMS["zamba"])
    assert model.layers[3] is model.layers[7]
    assert [layer.ffn is not None for layer in model.layers] == [False, False, False, True] * 2
    state = model.new_state(StateSpec(1, 64, 64, 16, torch.float32, torch.float32, CPU))
    with torch.inference_mode():
        model(torch.randint(97, (1, 20)), state)
    first, second = (state.layers[i][0].cache.pages for i in (3, 7))
    assert first.data_ptr() != second.data_ptr()
    assert not torch.equal(first, second)


def test_the_embedding_is_scaled_before_the_first_layer() -> None:
    model, tokens, seen = built(embedding_scale=3.0, num_layers=1), torch.randint(97, (1, 5)), []
    model.layers[0].forward = lambda x, states, step: seen.append(x) or x
    spec = StateSpec(1, 8, 8, 8, torch.float32, torch.float32, CPU)
    model.hidden(tokens, model.new_state(spec))
    torch.testing.assert_close(seen[0], 3 * model.embedding(tokens))
