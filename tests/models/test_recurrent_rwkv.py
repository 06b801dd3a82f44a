"""RWKV-6 and RWKV-7 against the rwkv package, which reads a checkpoint that we wrote.

The package decides on its version when it is first imported, so it runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ctxsweep.models.config import ModelConfig, Rwkv6, Rwkv7
from ctxsweep.models.hf_config import BadModelFolder
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.layers import StateSpec
from ctxsweep.models.weights import stored_tensors
from ctxsweep.models.weights_rwkv import LAYOUTS, load_rwkv

PROMPT, DECODED = 1000, 16
CPU = torch.device("cpu")
SIZES = {"vocab_size": 320, "hidden_size": 128, "num_layers": 3, "norm": "layernorm"}
SIX = ModelConfig(
    name="tiny-rwkv6",
    mixer="rwkv6",
    rwkv6=Rwkv6(head_dim=32, mix_rank=8, decay_rank=12, ffn_size=416),
    **SIZES,
)
SEVEN = ModelConfig(
    name="tiny-rwkv7",
    mixer="rwkv7",
    rwkv7=Rwkv7(head_dim=32, decay_rank=16, rate_rank=12, value_rank=8, gate_rank=20, ffn_size=448),
    **SIZES,
)
both = pytest.mark.parametrize("config", [SIX, SEVEN], ids=lambda config: config.mixer)
LIBRARY = """
import sys, torch
torch.set_num_threads(1)
from rwkv.model import RWKV
checkpoint, tokens, prompt, out = sys.argv[1:]
tokens, prompt = torch.load(tokens), int(prompt)
model = RWKV(model=checkpoint, strategy="cpu fp32")
logits, state = model.forward(tokens[:prompt].tolist(), None, full_output=True)
rows = list(logits)
for token in tokens[prompt:].tolist():
    row, state = model.forward([token], state)
    rows.append(row)
torch.save((torch.stack(rows), state), out)
"""


class Library(NamedTuple):
    """A checkpoint's file, and what the package makes of it and of tokens."""

    config: ModelConfig
    checkpoint: Path
    tokens: Tensor
    logits: Tensor
    state: list[Tensor]


def _random_model(config: ModelConfig) -> LanguageModel:
    """Every weight away from its initial value, so that none can be left out unseen."""
    model = build(config, 3, torch.float32, CPU)
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        scale = 0.1 * parameter.abs().mean().clamp(min=0.1)
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module", params=[SIX, SEVEN], ids=lambda config: config.mixer)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    config: ModelConfig = request.param
    folder: Path = tmp_path_factory.mktemp(config.mixer)
    weights = stored_tensors(_random_model(config), LAYOUTS[config.mixer])
    torch.save(weights, folder / "model.pth")
    tokens = torch.randint(0, config.vocab_size, (PROMPT + DECODED,))
    torch.save(tokens, folder / "tokens.pt")
    arguments = [folder / "model", folder / "tokens.pt", str(PROMPT), folder / "out.pt"]
    version = {"RWKV_V7_ON": str(int(config is SEVEN))}
    subprocess.run(
        [sys.executable, "-c", LIBRARY, *arguments],
        env=os.environ | {"RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"} | version,
        check=True,
        capture_output=True,
    )
    logits, state = torch.load(folder / "out.pt")
    return Library(config, folder / "model.pth", tokens, logits, state)


@pytest.mark.parametrize("segments", [[PROMPT], [512, 488], [1, 31, 333, 1, 634]])
def test_logits_and_state_are_the_librarys(library: Library, segments: list[int]) -> None:
    """The prompt in any segments, then one token at a time."""
    model = load_rwkv(library.checkpoint, library.config, torch.float32, CPU)
    state = model.new_state(StateSpec(1, 2048, 1024, 64, torch.float32, torch.float32, CPU))
    parts = [
        model(piece, state, all_logits=True)
        for piece in library.tokens[None].split([*segments, *[1] * DECODED], dim=1)
    ]
    assert library.logits.std() > 0.1, "logits without variety would hide any error"
    assert (torch.cat(parts, dim=1)[0] - library.logits).abs().max().item() <= 1e-4
    for layer, (time_mix, channel_mix) in enumerate(state.layers):
        ours = (
            time_mix.tensors["shift"][0, 0],
            time_mix.tensors["wkv"][0],
            channel_mix.tensors["shift"][0, 0],
        )
        theirs = library.state[3 * layer : 3 * layer + 3]
        assert max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)) <= 1e-4


def _saved(
    config: ModelConfig, tmp_path: Path, rename: dict[str, str], extra: dict[str, Tensor]
) -> Path:
    tensors = stored_tensors(_random_model(config), LAYOUTS[config.mixer])
    named = {rename.get(name, name): tensor for name, tensor in tensors.items()}
    torch.save(named | extra, tmp_path / "model.pth")
    return tmp_path / "model.pth"


@both
def test_checkpoint_and_back_is_the_same_model(config: ModelConfig, tmp_path: Path) -> None:
    """Also with the tensors of published checkpoints that nothing reads."""
    unused = {"blocks.0.att.v0": torch.ones(1)} if config is SEVEN else {}
    path = _saved(config, tmp_path, {}, unused)
    again, model = load_rwkv(path, config, torch.float32, CPU), _random_model(config)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(again.parameters(), model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("config", "rename", "extra", "said"),
    [
        (SEVEN, {"blocks.1.att.w1": "blocks.1.att.w_1"}, {}, r"'blocks\.1\.att\.w1' is missing"),
        (SEVEN, {}, {"blocks.3.ln1.weight": torch.ones(1)}, r"blocks\.3\.ln1\.weight"),
        (
            SEVEN,
            {},
            {"blocks.2.att.g1": torch.ones(128, 7)},
            r"'blocks\.2\.att\.g1' has shape \[128, 7\]",
        ),
        (SIX, {"blocks.1.ffn.receptance.weight": "x"}, {}, r"ffn\.receptance\.weight' is missing"),
        (
            SIX,
            {},
            {"blocks.0.att.time_maa_w1": torch.ones(128, 8)},
            r"time_maa_w1' has shape \[128, 8\], which gives \[8, 128\]",
        ),
    ],
)
def test_a_tensor_out_of_place_is_named(
    config: ModelConfig,
    tmp_path: Path,
    rename: dict[str, str],
    extra: dict[str, Tensor],
    said: str,
) -> None:
    with pytest.raises(BadModelFolder, match=said):
        load_rwkv(_saved(config, tmp_path, rename, extra), config, torch.float32, CPU)


@both
def test_another_architecture_is_refused(config: ModelConfig) -> None:
    section = {"heads": 4, "kv_heads": 4, "head_dim": 32}
    hybrid = ModelConfig.model_validate(
        config.model_dump(exclude_none=True) | {"attention_every": 3, "attention": section}
    )
    with pytest.raises(BadModelFolder, match="no name in this family's layout"):
        stored_tensors(build(hybrid, 0, torch.float32, CPU), LAYOUTS[config.mixer])
