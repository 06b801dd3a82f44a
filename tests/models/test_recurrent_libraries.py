"""Mamba-1 and Mamba-2 against transformers with the same weights, read from its own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)

from ctxsweep.models.language_model import LanguageModel
from ctxsweep.models.layers import StateSpec
from ctxsweep.models.weights import load_folder

PROMPT, DECODED, VOCABULARY = 1000, 16, 384
CPU = torch.device("cpu")
SPEC = StateSpec(1, 2048, 1024, 64, torch.float32, torch.float32, CPU)


def _mamba1() -> PreTrainedModel:
    config = MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=96,
        state_size=8,
        num_hidden_layers=3,
        time_step_rank=5,
        conv_kernel=3,
        use_associative_scan=False,
    )
    return MambaForCausalLM(config)


def _mamba2() -> PreTrainedModel:
    config = Mamba2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_heads=8,
        head_dim=32,
        state_size=16,
        n_groups=2,
        num_hidden_layers=3,
        chunk_size=64,
    )
    return Mamba2ForCausalLM(config)


@pytest.fixture(scope="module", params=[_mamba1, _mamba2], ids=["mamba1", "mamba2"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LanguageModel, Tensor, Tensor]:
    """Our model, tokens, and the library's logits; every weight is away from its default."""
    torch.manual_seed(7)
    theirs = request.param().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(
                0.1 * torch.randn_like(parameter) * parameter.abs().mean().clamp(min=0.1)
            )
    folder: Path = tmp_path_factory.mktemp("library")
    theirs.save_pretrained(folder)
    tokens = torch.randint(0, VOCABULARY, (1, PROMPT + DECODED))
    with torch.no_grad():
        logits = theirs(tokens, use_cache=False).logits
    return load_folder(folder, torch.float32, CPU), tokens, logits


@pytest.mark.parametrize("segments", [[PROMPT], [512, 488], [1, 63, 300, 1, 635]])
def test_logits_are_the_librarys(
    pair: tuple[LanguageModel, Tensor, Tensor], segments: list[int]
) -> None:
    """The prompt in any segments, then one token at a time."""
    model, tokens, expected = pair
    state, parts = model.new_state(SPEC), []
    for piece in tokens.split([*segments, *[1] * DECODED], dim=1):
        parts.append(model(piece, state, all_logits=True))
    error = (torch.cat(parts, dim=1) - expected).abs().max().item()
    assert expected.std() > 0.1, "logits without variety would hide any error"
    assert error <= 1e-4
