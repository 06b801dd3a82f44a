"""The committed model over bytes: what it is, what its record says, and how it is made."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy

from ctxsweep.models.language_model import LanguageModel
from ctxsweep.models.weights import load_folder

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "harness" / "ctxsweep"
FOLDER = PACKAGE / "models" / "trained" / "tiny-bytes"
TEXTS = PACKAGE / "quality" / "texts"
Feed = Callable[..., Tensor]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    held: dict[str, Any] = json.loads((FOLDER / "training.json").read_text())
    return held


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_folder(FOLDER, torch.float32, torch.device("cpu"))


def read_bytes(name: str) -> Tensor:
    return torch.tensor(list((TEXTS / f"{name}.txt").read_bytes()))


def test_logits_equal_those_of_transformers(model: LanguageModel, feed: Feed) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokens = read_bytes("persuasion")[5000 : 5000 + 2 * 250].view(2, 250)
    with torch.no_grad():
        wanted = theirs(tokens).logits
    assert (feed(model, tokens) - wanted).abs().max() <= 1e-4 * wanted.std()


def test_the_held_out_loss_is_what_the_record_says(
    model: LanguageModel, feed: Feed, record: dict[str, Any]
) -> None:
    settings = record["settings"]
    count, context = settings["held_out_windows"], settings["context"]
    text = read_bytes(settings["held_out"])
    stride = (len(text) - 1) // context // count * context
    windows = torch.stack([text[i * stride :][: context + 1] for i in range(count)])
    logits = feed(model, windows[:, :-1], page_size=64)
    loss = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
    step, _, held_out = record["curve"][-1]
    assert step == settings["steps"]
    assert loss == pytest.approx(held_out, abs=0.005)


def test_the_texts_are_those_that_it_was_trained_with(record: dict[str, Any]) -> None:
    for name, sha256 in record["sha256"].items():
        assert hashlib.sha256((TEXTS / f"{name}.txt").read_bytes()).hexdigest() == sha256, name
    assert [p.stem for p in sorted(TEXTS.glob("*.txt"))] == sorted(record["sha256"])


def test_it_is_small_enough_to_be_committed_and_over_bytes() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size < 8_000_000
    tokenizer = json.loads((FOLDER / "tokenizer_config.json").read_text())
    assert tokenizer == {"ctxsweep_tokenizer": "bytes"}


def test_the_training_learns_and_gives_the_same_file_again(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "train_tiny_bytes.py", "--threads", "1"]
    command += ["--steps", "20", "--batch", "2", "--out"]
    runs = [
        subprocess.Popen([*map(str, command), str(tmp_path / name)], stdout=subprocess.DEVNULL)
        for name in ("one", "two")
    ]
    assert [run.wait() for run in runs] == [0, 0]
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    curve = json.loads((tmp_path / "one" / "training.json").read_text())["curve"]
    assert [point[0] for point in curve] == [0, 20]
    assert curve[1][2] < curve[0][2] - 1.0
    assert (tmp_path / "one" / "training.png").read_bytes().startswith(b"\x89PNG")
