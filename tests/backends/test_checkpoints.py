"""One checkpoint for all engines: transformers reads what we write, and runs the native model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import InvalidSeries, Limits
from ctxsweep.backends.native import NativeBackend
from ctxsweep.models import catalog
from ctxsweep.models.hf_config import config_from, config_from_folder
from ctxsweep.models.hf_write import hf_config
from ctxsweep.records import Series

TOKENS = torch.randint(4096, (1, 48), generator=torch.Generator().manual_seed(3))
HYBRID = {"like": "tiny-hybrid", "attention": {"head_dim": 64}}
FALCON = {
    "model_type": "falcon_h1",
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_state": 16,
}
WRITTEN = ("tiny-gqa", "tiny-mqa", "tiny-mha", "tiny-swa", "tiny-moe", "tiny-mamba1", "tiny-mamba2")
VARIED = (
    HYBRID,
    {"like": "tiny-gqa", "attention": {"bias": True, "out_bias": False}},  # Qwen2
    {"like": "tiny-swa", "attention": {"bias": True, "out_bias": False}},
    {"like": "tiny-swa", "attention": {"rotary_dim": 16}},  # Phi-3
)
NO_FAMILY = ("tiny-alibi", "tiny-gpt", "tiny-rwkv7", "tiny-retnet")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CTXSWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def series(model: str | dict[str, Any], **settings: Any) -> Series:
    return Series(name="shared", model=model, **settings)


@pytest.mark.parametrize("model", [*WRITTEN, *VARIED], ids=str)
def test_transformers_computes_what_the_native_model_does(model: Any) -> None:
    one = series(model)
    folder = checkpoints.model_folder(one, seed=7)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    ours = NativeBackend.load(one, Limits(48, 1, "cpu", threads=1, seed=7))
    ours.prefill(TOKENS.numpy())
    with torch.no_grad():
        wanted = theirs(TOKENS).logits[:, -1].numpy()
    assert abs(ours.logits() - wanted).max() <= 1e-5 * max(1.0, abs(wanted).max())
    config, again = catalog.load_config(model), config_from_folder(folder)
    same = {"name": config.name, "source": config.source, "max_positions": config.max_positions}
    assert again.model_copy(update=same) == _filled(config)


def _filled(config: Any) -> Any:
    """With the defaults that depend on others written out, as a folder has them."""
    if config.mamba is None or config.mixer != "mamba1":
        return config
    mamba = config.mamba.model_copy(update={"dt_rank": config.dt_rank})
    return config.model_copy(update={"mamba": mamba})


@pytest.mark.parametrize("model", NO_FAMILY)
def test_a_model_without_a_family_says_why(model: str) -> None:
    with pytest.raises(InvalidSeries) as caught:
        checkpoints.check_model(series(model))
    assert caught.value.key == "model" and model in caught.value.message


BIASED: dict[str, Any] = {"ffn": {"bias": True}}


@pytest.mark.parametrize(
    "model",
    [
        {"like": "tiny-swa", **BIASED},
        {"like": "tiny-mamba1", "norm": "layernorm"},
        {"like": "tiny-mamba2", "norm": "layernorm"},
    ],
    ids=str,
)
def test_what_their_architectures_do_not_have_is_not_left_out(model: dict[str, Any]) -> None:
    with pytest.raises(InvalidSeries, match="RMS norms"):
        checkpoints.check_model(series(model))


def test_what_only_native_models_do_not_build_is_left_to_the_engines(tmp_path: Path) -> None:
    """A Llama with another activation is a Llama; it is not built here, and is in transformers."""
    folder = checkpoints.model_folder(series("tiny-gqa"), seed=0)
    fields = json.loads((folder / "config.json").read_text())
    fields["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(fields))
    for model in (str(tmp_path), fields):
        assert checkpoints.check_model(series(model)) is None
        with pytest.raises(InvalidSeries, match="hidden_act = 'gelu' is not built"):
            checkpoints.model_config(series(model))


@pytest.mark.parametrize(
    ("key", "said"), [("position_embedding_type", "None"), ("num_local_experts", "8")]
)
def test_what_a_granite_hybrid_leaves_out_is_as_in_transformers(key: str, said: str) -> None:
    """transformers leaves its own defaults out of the files that it writes."""
    fields = hf_config(catalog.load_config("tiny-hybrid"), "float32")
    del fields[key]
    with pytest.raises(ValueError, match=f"{key} = {said} is not built"):
        config_from(fields, "hybrid")


def test_a_checkpoint_is_written_once_and_found_again(cache: Path) -> None:
    first = checkpoints.model_folder(series("tiny-mqa"), seed=1)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert checkpoints.model_folder(series("tiny-mqa"), seed=1) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    others = {
        checkpoints.model_folder(series("tiny-mqa"), seed=2),
        checkpoints.model_folder(series("tiny-mqa", dtype="bfloat16"), seed=1),
        checkpoints.model_folder(series("tiny-mqa", window=64), seed=1),
    }
    assert len(others | {first}) == 4
    assert {path.name for path in cache.iterdir()} == {path.name for path in others | {first}}


def test_an_interrupted_write_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.kept({"model": "x"}, 0, fail)
    assert list(cache.iterdir()) == []


def test_two_writers_end_with_one_folder(cache: Path) -> None:
    def slow(folder: Path) -> None:
        (folder / "who").write_text("slow")
        checkpoints.kept({"model": "x"}, 0, lambda other: (other / "who").write_text("fast"))

    folder = checkpoints.kept({"model": "x"}, 0, slow)
    assert (folder / "who").read_text() == "fast"
    assert list(cache.iterdir()) == [folder]


def test_an_architecture_of_transformers_is_drawn_by_it() -> None:
    one = series(FALCON)
    assert checkpoints.model_config(one) is None
    folder = checkpoints.model_folder(one, seed=3)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "falcon_h1"
    assert checkpoints.model_folder(one, seed=3) == folder
    assert checkpoints.model_folder(one, seed=4) != folder


@pytest.mark.parametrize(
    ("changed", "key", "said"),
    [
        ({"model_type": "falcon_h2"}, "model.model_type", "falcon_h1"),
        ({"hidden_sizee": 256}, "model.hidden_sizee", "hidden_size"),
        ({"hidden_size": "wide"}, "model", "falcon_h1"),
        ({"num_attention_heads": 0}, "model", "falcon_h1"),
        ({"model_type": "vit"}, "model.model_type", "vit"),
    ],
)
def test_what_transformers_cannot_build(changed: dict[str, Any], key: str, said: str) -> None:
    with pytest.raises(InvalidSeries) as caught:
        checkpoints.model_folder(series({**FALCON, **changed}), seed=0)
    assert caught.value.key == key and said in caught.value.message
    assert len(caught.value.message) < 400


def test_a_model_type_that_is_built_runs_natively_too() -> None:
    fields = {
        "model_type": "llama",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = checkpoints.model_config(series(fields, window=32))
    assert config is not None and config.attention is not None
    assert (config.hidden_size, config.attention.window) == (64, 32)


def test_what_is_drawn_changes_only_with_the_format() -> None:
    """Users keep checkpoints: if this fails, native models draw others; raise ``FORMAT``."""
    digest = hashlib.sha256()
    for model in ("tiny-gqa", "tiny-mamba2"):
        folder = checkpoints.model_folder(series(model, dtype="bfloat16"), seed=0)
        for name, tensor in sorted(load_file(folder / "model.safetensors").items()):
            digest.update(f"{name} {list(tensor.shape)}".encode())
            if name.endswith("_proj.weight"):  # uniform: the same bits on every processor
                digest.update(tensor.view(torch.uint8).numpy().tobytes())
    assert (checkpoints.FORMAT, digest.hexdigest()[:16]) == (2, "94f1c3556a0ddcc5")
