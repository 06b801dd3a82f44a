"""RWKV-7 against the rwkv package, which reads a checkpoint that we wrote.

The package decides on its version when it is first imported, so it runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctxsweep.models.config import ModelConfig, Rwkv7
from ctxsweep.models.hf_config import BadModelFolder
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.layers import StateSpec
from ctxsweep.models.weights import stored_tensors
from ctxsweep.models.weights_rwkv import RWKV7, load_rwkv

PROMPT, DECODED = 1000, 16
CPU = torch.device("cpu")
CONFIG = ModelConfig(
    name="tiny-rwkv7",
    mixer="rwkv7",
    vocab_size=320,
    hidden_size=128,
    num_layers=3,
    norm="layernorm",
    rwkv7=Rwkv7(head_dim=32, decay_rank=16, rate_rank=12, value_rank=8, gate_rank=20, ffn_size=448),
)
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


def _random_model() -> LanguageModel:
    """Every weight away from its initial value, so that none can be left out unseen."""
    model = build(CONFIG, 3, torch.float32, CPU)
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        scale = 0.1 * parameter.abs().mean().clamp(min=0.1)
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def library(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Tensor, Tensor, list[Tensor]]:
    """The checkpoint's file, tokens, and the package's logits and last state."""
    folder: Path = tmp_path_factory.mktemp("rwkv")
    torch.save(stored_tensors(_random_model(), RWKV7), folder / "model.pth")
    tokens = torch.randint(0, CONFIG.vocab_size, (PROMPT + DECODED,))
    torch.save(tokens, folder / "tokens.pt")
    arguments = [folder / "model", folder / "tokens.pt", str(PROMPT), folder / "out.pt"]
    subprocess.run(
        [sys.executable, "-c", LIBRARY, *arguments],
        env=os.environ | {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"},
        check=True,
        capture_output=True,
    )
    logits, state = torch.load(folder / "out.pt")
    return folder / "model.pth", tokens, logits, state


@pytest.mark.parametrize("segments", [[PROMPT], [512, 488], [1, 31, 333, 1, 634]])
def test_logits_and_state_are_the_librarys(
    library: tuple[Path, Tensor, Tensor, list[Tensor]], segments: list[int]
) -> None:
    """The prompt in any segments, then one token at a time."""
    checkpoint, tokens, expected, expected_state = library
    model = load_rwkv(checkpoint, CONFIG, torch.float32, CPU)
    state = model.new_state(StateSpec(1, 2048, 1024, 64, torch.float32, torch.float32, CPU))
    parts = [
        model(piece, state, all_logits=True)
        for piece in tokens[None].split([*segments, *[1] * DECODED], dim=1)
    ]
    assert expected.std() > 0.1, "logits without variety would hide any error"
    assert (torch.cat(parts, dim=1)[0] - expected).abs().max().item() <= 1e-4
    for layer, (time_mix, channel_mix) in enumerate(state.layers):
        ours = (
            time_mix.tensors["shift"][0, 0],
            time_mix.tensors["wkv"][0],
            channel_mix.tensors["shift"][0, 0],
        )
        theirs = expected_state[3 * layer : 3 * layer + 3]
        assert max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)) <= 1e-4


def _saved(tmp_path: Path, rename: dict[str, str], extra: dict[str, Tensor]) -> Path:
    tensors = stored_tensors(_random_model(), RWKV7)
    named = {rename.get(name, name): tensor for name, tensor in tensors.items()}
    torch.save(named | extra, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_checkpoint_and_back_is_the_same_model(tmp_path: Path) -> None:
    """Also with the tensors of published checkpoints that nothing reads."""
    path = _saved(tmp_path, {}, {"blocks.0.att.v0": torch.ones(1)})
    again, model = load_rwkv(path, CONFIG, torch.float32, CPU), _random_model()
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(again.parameters(), model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("rename", "extra", "said"),
    [
        ({"blocks.1.att.w1": "blocks.1.att.w_1"}, {}, r"'blocks\.1\.att\.w1' is missing"),
        ({}, {"blocks.3.ln1.weight": torch.ones(1)}, r"blocks\.3\.ln1\.weight"),
        ({}, {"blocks.2.att.g1": torch.ones(128, 7)}, r"'blocks\.2\.att\.g1' has shape \[128, 7\]"),
    ],
)
def test_a_tensor_out_of_place_is_named(
    tmp_path: Path, rename: dict[str, str], extra: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(BadModelFolder, match=said):
        load_rwkv(_saved(tmp_path, rename, extra), CONFIG, torch.float32, CPU)


def test_another_architecture_is_refused() -> None:
    section = {"heads": 4, "kv_heads": 4, "head_dim": 32}
    hybrid = ModelConfig.model_validate(
        CONFIG.model_dump(exclude_none=True) | {"attention_every": 3, "attention": section}
    )
    with pytest.raises(BadModelFolder, match="no name in this family's layout"):
        stored_tensors(build(hybrid, 0, torch.float32, CPU), RWKV7)
