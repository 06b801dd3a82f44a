"""Native GQA decode and prefill against transformers with the same weights, at 8K and 32K."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from pairs import PairedTimes, paired
from torch import Tensor

from ctxsweep.models.language_model import LanguageModel, ModelState
from ctxsweep.models.layers import StateSpec
from ctxsweep.models.weights import load_folder

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1 << 17,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
CHUNK = 512
DECODE_STEPS = 16


class Subjects(NamedTuple):
    """The same model twice."""

    ours: LanguageModel
    theirs: torch.nn.Module


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Subjects:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval().requires_grad_(False)
    folder: Path = tmp_path_factory.mktemp("llama")
    theirs.save_pretrained(folder)
    return Subjects(load_folder(folder, torch.float32, CPU).eval().requires_grad_(False), theirs)


def ours_prefill(model: LanguageModel, tokens: Tensor) -> tuple[Tensor, ModelState]:
    length = tokens.shape[1]
    spec = StateSpec(1, length + DECODE_STEPS, CHUNK, 256, torch.float32, torch.float32, CPU)
    state = model.new_state(spec)
    for piece in tokens.split(CHUNK, dim=1):
        logits = model(piece, state)
    return logits, state


def compare(subjects: Subjects, length: int) -> tuple[PairedTimes, PairedTimes]:
    """Prefill of ``length`` tokens, and ``DECODE_STEPS`` steps at that depth."""
    ours, theirs = subjects
    tokens = torch.randint(0, SHAPE["vocab_size"], (1, length), generator=torch.manual_seed(1))
    with torch.inference_mode():
        logits, state = ours_prefill(ours, tokens)
        out = theirs(tokens, use_cache=True, logits_to_keep=1)
        error = (logits - out.logits[:, -1]).abs().max().item()
        assert error <= 1e-3, f"logits differ by {error}"

        def ours_decode() -> None:
            mark = state.snapshot()
            for _ in range(DECODE_STEPS):
                ours(tokens[:, :1], state)
            state.restore(mark)

        def theirs_decode() -> None:
            for _ in range(DECODE_STEPS):
                theirs(tokens[:, :1], past_key_values=out.past_key_values, use_cache=True)
            out.past_key_values.crop(-DECODE_STEPS)

        rounds = 5 if length <= 8192 else 2
        decode = paired(ours_decode, theirs_decode, 9)
        prefill = paired(
            lambda: ours_prefill(ours, tokens),
            lambda: theirs(tokens, use_cache=True, logits_to_keep=1),
            rounds,
            warmup=0,
        )
    return prefill, decode


@pytest.mark.parametrize("length", [8192, 32768])
def test_gqa_against_transformers(
    subjects: Subjects,
    length: int,
    benchmark: Callable[..., None],
    add_ratio: Callable[..., None],
) -> None:
    prefill, decode = benchmark.pedantic(compare, (subjects, length), rounds=1)
    for phase, times in (("prefill", prefill), ("decode", decode)):
        low, high = times.spread
        add_ratio(
            f"transformers / native, GQA {phase} at {length}",
            times.ratio,
            1.0,
            detail=f"{times.first_s:.3g} s against {times.second_s:.3g} s, "
            f"{low:.2f} to {high:.2f} over the rounds",
        )
