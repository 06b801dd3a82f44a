"""Models whose settings an engine does not have are refused there, never run as something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctxsweep.backends.base import BACKENDS, InvalidSeries, Limits, Unsupported
from ctxsweep.models import catalog
from ctxsweep.models.hf_write import NoFamily, hf_config
from ctxsweep.records import Series

# what only native models are, by the word that a refusal names it with
OWN: list[tuple[dict[str, Any], str]] = [
    ({"like": "tiny-gqa", "embedding_scale": 16.0}, "embedding"),
    ({"like": "tiny-gqa", "embedding_norm": True}, "embedding"),
    ({"like": "tiny-gqa", "head_bias": True}, "head"),
    ({"like": "tiny-gqa", "residual": "parallel"}, "parallel"),
    ({"like": "tiny-gqa", "attention": {"position": "none"}}, "position"),
    ({"like": "tiny-gqa", "ffn": {"kind": "geglu"}}, "geglu"),
    ({"like": "tiny-moe", "ffn": {"experts_every": 2}}, "experts"),
    ({"like": "tiny-hybrid", "ffn": {"layers": "attention"}}, "ffn"),
    ({"like": "tiny-hybrid", "num_layers": 4, "attention_shared": True}, "share"),
    ({"like": "tiny-mamba1", "mamba": {"inner_norms": True}}, "inner_norms"),
]


@pytest.mark.parametrize("engine", ["transformers", "vllm", "llama_cpp"])
@pytest.mark.parametrize(("model", "word"), OWN, ids=lambda value: str(value)[:60])
def test_a_setting_that_an_engine_has_not_is_refused(
    engine: str, model: dict[str, Any], word: str
) -> None:
    one = Series(name="x", backend=engine, model=model, prefill_chunk="whole")
    with pytest.raises(InvalidSeries, match=word) as caught:
        BACKENDS[engine].adapter().check(one)
    assert caught.value.key == "model"


# models that transformers has a family for, and llama.cpp's writer has none
FOLDERS = {
    "gemma": {"like": "tiny-mqa", "embedding_scale": 16.0, "ffn": {"kind": "geglu"}},
    "jamba": {
        "like": "tiny-hybrid",
        "mixer": "mamba1",
        "mamba": {"inner_norms": True},
        "attention": {"position": "none"},
    },
    "falcon": {
        "like": "tiny-mqa",
        "norm": "layernorm",
        "residual": "parallel_shared_norm",
        "attention": {"heads": 8},
        "ffn": {"kind": "gelu_exact"},
    },
}


@pytest.mark.parametrize("family", FOLDERS)
@pytest.mark.parametrize("written_out", [True, False])
def test_llama_cpp_refuses_a_family_that_it_would_run_as_a_llama(
    family: str, written_out: bool, tmp_path: Path
) -> None:
    model: Any = FOLDERS[family]
    fields = hf_config(catalog.load_config(model), "float32")
    assert fields["model_type"] == family
    if not written_out:
        (tmp_path / "config.json").write_text(json.dumps(fields))
        model = str(tmp_path)
    with pytest.raises(InvalidSeries, match="GGUF"):
        BACKENDS["llama_cpp"].adapter().check(Series(name="x", backend="llama_cpp", model=model))


def test_a_mamba_1_hybrid_is_unsupported_by_vllm_on_a_cpu() -> None:
    adapter = BACKENDS["vllm"].adapter()
    if adapter.availability() is not None:
        pytest.skip("needs vllm")
    one = Series(name="x", backend="vllm", model={**FOLDERS["jamba"], "hidden_size": 128})
    with pytest.raises(Unsupported, match="Mamba-1"):
        adapter.load(one, Limits(64, 1, "cpu", threads=1, seed=0))


SQUARE = {"like": "tiny-mqa", "norm": "layernorm", "attention": {"heads": 8}}
FALCON = {**SQUARE, "residual": "parallel_shared_norm"}
BLOOM = {
    **SQUARE,
    "embedding_norm": True,
    "attention": {"heads": 8, "kv_heads": 8, "position": "alibi", "bias": True},
    "ffn": {"kind": "gelu", "size": 1024, "bias": True},
}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (BLOOM, "GELU with erf"),
        ({**FALCON, "ffn": {"kind": "gelu", "size": 1024}}, "nearest valid: gelu_exact"),
        ({**FALCON, "ffn": {"kind": "gelu_exact", "size": 512}}, "nearest valid: 1024"),
        ({**FOLDERS["gemma"], "attention": {"bias": True}}, "leaves the attention's biases out"),
    ],
)
@pytest.mark.parametrize("written_out", [True, False])
def test_what_vllm_would_compute_otherwise_is_refused(
    model: dict[str, Any], said: str, written_out: bool, tmp_path: Path
) -> None:
    asked: Any = model
    if not written_out:
        fields = hf_config(catalog.load_config(model), "float32")
        (tmp_path / "config.json").write_text(json.dumps(fields))
        asked = str(tmp_path)
    with pytest.raises(InvalidSeries, match=said):
        BACKENDS["vllm"].adapter().check(
            Series(name="x", backend="vllm", model=asked, page_size=32)
        )


def test_own_settings_are_of_no_family() -> None:
    for model, _ in OWN:
        with pytest.raises(NoFamily):
            hf_config(catalog.load_config(model), "float32")
