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
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.layers import StateSpec
from ctxsweep.models.weights_recurrent import rwkv7_to_checkpoint, rwkv7_to_native

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
) -> tuple[dict[str, Tensor], Tensor, Tensor, list[Tensor]]:
    """The checkpoint, tokens, and the package's logits and last state."""
    folder: Path = tmp_path_factory.mktemp("rwkv")
    checkpoint = rwkv7_to_checkpoint(_random_model().state_dict(), CONFIG)
    tokens = torch.randint(0, CONFIG.vocab_size, (PROMPT + DECODED,))
    torch.save(checkpoint, folder / "model.pth")
    torch.save(tokens, folder / "tokens.pt")
    arguments = [folder / "model", folder / "tokens.pt", str(PROMPT), folder / "out.pt"]
    subprocess.run(
        [sys.executable, "-c", LIBRARY, *arguments],
        env=os.environ | {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"},
        check=True,
        capture_output=True,
    )
    logits, state = torch.load(folder / "out.pt")
    return checkpoint, tokens, logits, state


@pytest.mark.parametrize("segments", [[PROMPT], [512, 488], [1, 31, 333, 1, 634]])
def test_logits_and_state_are_the_librarys(
    library: tuple[dict[str, Tensor], Tensor, Tensor, list[Tensor]], segments: list[int]
) -> None:
    """The prompt in any segments, then one token at a time."""
    checkpoint, tokens, expected, expected_state = library
    model = build(CONFIG, 99, torch.float32, CPU)
    model.load_state_dict(rwkv7_to_native(checkpoint, CONFIG))
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


def test_checkpoint_and_back_is_the_same_model() -> None:
    native = _random_model().state_dict()
    again = rwkv7_to_native(rwkv7_to_checkpoint(native, CONFIG), CONFIG)
    assert again.keys() == native.keys()
    assert all(torch.equal(again[name], native[name]) for name in native)


def test_a_missing_tensor_is_named() -> None:
    checkpoint = rwkv7_to_checkpoint(_random_model().state_dict(), CONFIG)
    checkpoint["blocks.1.att.w_1"] = checkpoint.pop("blocks.1.att.w1")
    with pytest.raises(ValueError, match=r"'blocks\.1\.att\.w1' is missing.*'blocks\.1\.att\.w_1'"):
        rwkv7_to_native(checkpoint, CONFIG)


def test_a_tensor_without_a_place_is_named() -> None:
    checkpoint = rwkv7_to_checkpoint(_random_model().state_dict(), CONFIG)
    unused = {"blocks.0.att.v0": torch.ones(1)}
    assert rwkv7_to_native(checkpoint | unused, CONFIG)
    with pytest.raises(ValueError, match=r"'blocks\.3\.ln1\.weight' has no place"):
        rwkv7_to_native(checkpoint | {"blocks.3.ln1.weight": torch.ones(1)}, CONFIG)


def test_another_architecture_is_refused() -> None:
    hybrid = CONFIG.model_copy(update={"attention_every": 3})
    with pytest.raises(ValueError, match="without attention_every"):
        rwkv7_to_checkpoint({}, hybrid)
