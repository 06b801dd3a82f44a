"""RWKV-6 against a loop in float64 that follows the paper, one token and one head at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.layers import StateSpec
from ctxsweep.models.weights import stored_tensors
from ctxsweep.models.weights_rwkv import RWKV6

CPU = torch.device("cpu")
TOKENS, VOCABULARY = 200, 300
CONFIG = ModelConfig(
    name="six",
    mixer="rwkv6",
    vocab_size=VOCABULARY,
    hidden_size=64,
    num_layers=3,
    norm="layernorm",
    rwkv6={"head_dim": 16, "mix_rank": 8, "decay_rank": 12},
)


def shifted(x: Tensor, before: Tensor, mix: Tensor) -> Tensor:
    return x + (before - x) * mix.flatten()


def time_mix(w: dict[str, Tensor], x: Tensor, before: Tensor, state: Tensor) -> Tensor:
    """One token of arXiv 2404.05892, section 4.2; ``state [H, N, N]`` is advanced in place."""
    heads, size = w["time_faaaa"].shape
    low = torch.tanh(shifted(x, before, w["time_maa_x"]) @ w["time_maa_w1"]).view(5, -1)
    moved = {
        letter: shifted(x, before, w[f"time_maa_{letter}"].flatten() + low[i] @ w["time_maa_w2"][i])
        for i, letter in enumerate("wkvrg")
    }
    r, k, v, g = (
        w[f"{name}.weight"] @ moved[letter]
        for name, letter in (("receptance", "r"), ("key", "k"), ("value", "v"), ("gate", "g"))
    )
    decay = (
        w["time_decay"].flatten() + torch.tanh(moved["w"] @ w["time_decay_w1"]) @ w["time_decay_w2"]
    )
    out = torch.empty(heads, size, dtype=x.dtype)
    for head, at in enumerate(range(0, heads * size, size)):
        rows = slice(at, at + size)
        outer = torch.outer(k[rows], v[rows])
        out[head] = r[rows] @ (state[head] + w["time_faaaa"][head][:, None] * outer)
        state[head] = torch.exp(-torch.exp(decay[rows]))[:, None] * state[head] + outer
    normed = F.group_norm(out.view(1, -1), heads, w["ln_x.weight"], w["ln_x.bias"], 64e-5)[0]
    return w["output.weight"] @ (normed * F.silu(g))


def channel_mix(w: dict[str, Tensor], x: Tensor, before: Tensor) -> Tensor:
    key = w["key.weight"] @ shifted(x, before, w["time_maa_k"])
    gate = torch.sigmoid(w["receptance.weight"] @ shifted(x, before, w["time_maa_r"]))
    return gate * (w["value.weight"] @ torch.relu(key).square())


def paper(made: LanguageModel) -> Tensor:
    """Logits after each token, ``[T, V]``, in float64, from the weights of the checkpoint."""
    w = {name: tensor.double() for name, tensor in stored_tensors(made, RWKV6).items()}
    hidden, layers, size = 64, 3, 16
    shifts = torch.zeros(layers, 2, hidden).double()
    states = torch.zeros(layers, hidden // size, size, size).double()

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (hidden,), w[f"{name}.weight"], w[f"{name}.bias"])

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in w.items() if name.startswith(prefix)}

    rows = []
    for token in tokens()[0].tolist():
        x = norm("blocks.0.ln0", w["emb.weight"][token])
        for i in range(layers):
            normed = norm(f"blocks.{i}.ln1", x)
            x = x + time_mix(part(f"blocks.{i}.att."), normed, shifts[i, 0], states[i])
            shifts[i, 0] = normed
            normed = norm(f"blocks.{i}.ln2", x)
            x = x + channel_mix(part(f"blocks.{i}.ffn."), normed, shifts[i, 1])
            shifts[i, 1] = normed
        rows.append(w["head.weight"] @ norm("ln_out", x))
    return torch.stack(rows)


def model(dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Every weight away from its initial value, so that none can be left out unseen."""
    made = build(CONFIG, 5, torch.float32, CPU)
    generator = torch.Generator().manual_seed(4)
    for parameter in made.parameters():
        scale = 0.1 * parameter.abs().mean().clamp(min=0.1)
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return made.to(dtype)


def tokens() -> Tensor:
    return torch.randint(0, VOCABULARY, (1, TOKENS), generator=torch.manual_seed(6))


def logits(made: LanguageModel, segments: list[int]) -> Tensor:
    """After each token, ``[T, V]``, the prompt fed in these segments."""
    dtype = made.head.weight.dtype
    state = made.new_state(StateSpec(1, TOKENS, TOKENS, 64, dtype, dtype, CPU))
    calls = tokens().split(segments, dim=1)
    return torch.cat([made(call, state, all_logits=True) for call in calls], dim=1)[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    "segments", [[TOKENS], [128, 64, 8], [1, 77, 1, 121], [1] * TOKENS], ids=len
)
def test_every_split_is_what_the_paper_says(
    dtype: torch.dtype, tolerance: float, segments: list[int]
) -> None:
    made = model(dtype)
    wanted = paper(made)
    assert wanted.std() > 0.3
    assert (logits(made, segments) - wanted).abs().max().item() <= tolerance


@pytest.mark.parametrize("base", [-12.0, 1.0, 4.0, 100.0])
def test_memory_of_any_length_down_to_none(base: float) -> None:
    """exp(-exp(100)) is 0, and a chunk's decays at 4 are far below the smallest float32."""
    made = model()
    for layer in made.layers:
        layer.mixer.decay_base.fill_(base)
    wanted = paper(made)
    for segments in ([TOKENS], [1] * TOKENS):
        assert (logits(made, segments) - wanted).abs().max().item() <= 1e-4


@pytest.mark.parametrize(
    "name",
    [
        "mixer.mix_base",
        "mixer.mix_down.weight",
        "mixer.mix_up",
        "mixer.decay.0.weight",
        "mixer.decay.2.weight",
        "mixer.bonus",
        "ffn.receptance.weight",
        "ffn.mix",
    ],
)
def test_drawn_weights_all_matter(name: str) -> None:
    """In the upper layers, as a seed draws them."""
    made = build(CONFIG, 1, torch.float32, CPU)
    before = logits(made, [TOKENS])
    made.layers[1].get_parameter(name).zero_()
    assert (logits(made, [TOKENS]) - before).abs().max().item() > 1e-3


def test_a_seed_is_a_model() -> None:
    first, again, other = (
        logits(build(CONFIG, seed, torch.float32, CPU), [TOKENS]) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert (first - other).abs().max().item() > 0.1


def test_parts_that_are_there_are_those_that_are_stored() -> None:
    """A checkpoint holds every parameter, each once, in the checkpoint's own names."""
    made = model()
    stored = stored_tensors(made, RWKV6)
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for p in made.parameters())
    assert stored["blocks.2.att.time_maa_w1"].shape == (64, 5 * 8)
    assert stored["blocks.2.att.time_maa_w2"].shape == (5, 8, 64)
    assert stored["blocks.2.att.time_decay"].shape == (1, 1, 64)
    assert stored["blocks.2.ffn.time_maa_r"].shape == (1, 1, 64)
