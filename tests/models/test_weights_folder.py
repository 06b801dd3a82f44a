"""Model folders: what goes out comes back, and what is wrong with one is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ctxsweep.models.catalog import UnknownModel, load_config
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_config import BadModelFolder, config_from_folder
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.weights import load_folder, save_weights

CPU = torch.device("cpu")
LLAMA = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 32, "n_head": 4, "n_layer": 2}
SSM = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
FOLDERS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama-tied": {**LLAMA, "tie_word_embeddings": True},
    "mistral": {**LLAMA, "model_type": "mistral", "sliding_window": 16},
    "mixtral": {
        **LLAMA,
        "model_type": "mixtral",
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
    },
    "qwen2": {**LLAMA, "model_type": "qwen2"},
    "phi3": {**LLAMA, "model_type": "phi3", "partial_rotary_factor": 0.5},
    "gpt2": {**GPT2, "n_positions": 40},
    "mamba": {**SSM, "model_type": "mamba"},
    "mamba2": {**SSM, "model_type": "mamba2", "head_dim": 16, "n_groups": 2},
}


def write_folder(folder: Path, config: dict[str, Any], seed: int = 1) -> LanguageModel:
    (folder / "config.json").write_text(json.dumps(config))
    model = build(config_from_folder(folder), seed, torch.float32, CPU)
    save_weights(model, config["model_type"], folder / "model.safetensors")
    return model


def edit(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors of the folder's file; None removes."""
    path = folder / "model.safetensors"
    held = {**load_file(path), **tensors}
    save_file({name: t for name, t in held.items() if t is not None}, path)


@pytest.mark.parametrize("name", list(FOLDERS))
def test_what_is_saved_is_loaded(name: str, tmp_path: Path) -> None:
    written = write_folder(tmp_path, FOLDERS[name])
    loaded = load_folder(tmp_path, torch.float32, CPU)
    assert loaded.config == written.config
    for key, tensor in written.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_mixtral_under_the_names_of_transformers_5(tmp_path: Path) -> None:
    written = write_folder(tmp_path, FOLDERS["mixtral"])
    experts: dict[str, torch.Tensor | None] = {}
    for i, layer in enumerate(written.layers):
        prefix = f"model.layers.{i}."
        for e in range(3):
            experts |= {
                f"{prefix}block_sparse_moe.experts.{e}.w{w}.weight": None for w in (1, 2, 3)
            }
        experts[prefix + "block_sparse_moe.gate.weight"] = None
        experts[prefix + "mlp.gate.weight"] = layer.ffn.router.weight
        experts[prefix + "mlp.experts.gate_up_proj"] = layer.ffn.up.data
        experts[prefix + "mlp.experts.down_proj"] = layer.ffn.down.data
    edit(tmp_path, **experts)
    loaded = load_folder(tmp_path, torch.float32, CPU)
    for key, tensor in written.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_several_files_and_another_dtype(tmp_path: Path) -> None:
    written = write_folder(tmp_path, LLAMA)
    held = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    for part, names in enumerate((sorted(held)[:7], sorted(held)[7:])):
        save_file({n: held[n] for n in names}, tmp_path / f"model-{part}.safetensors")
    loaded = load_folder(tmp_path, torch.bfloat16, CPU)
    wanted = written.layers[1].mixer.qkv.weight.bfloat16()
    assert torch.equal(loaded.layers[1].mixer.qkv.weight, wanted)


def test_derived_buffers_and_a_repeated_tied_head_are_no_error(tmp_path: Path) -> None:
    write_folder(tmp_path, FOLDERS["llama-tied"])
    edit(
        tmp_path,
        **{
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
            "lm_head.weight": torch.ones(50, 32),
        },
    )
    load_folder(tmp_path, torch.float32, CPU)


K_PROJ = "model.layers.1.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({K_PROJ: None}, rf"'{K_PROJ}' is missing \(for 'layers.1.mixer.qkv.weight'\)"),
        ({K_PROJ: torch.ones(8, 32)}, rf"'{K_PROJ}' has shape \[8, 32\].*asks for \[16, 32\]"),
        ({"model.norm.weight": torch.ones(31)}, r"shape \[31\].*for 'norm.weight'.*\[32\]"),
        ({"model.layers.0.self_attn.q_norm.weight": torch.ones(8)}, r"no place.*q_norm"),
        ({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}, r"no place.*q_proj.bias"),
    ],
)
def test_a_wrong_tensor_is_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor | None], said: str
) -> None:
    write_folder(tmp_path, LLAMA)
    edit(tmp_path, **tensors)
    with pytest.raises(BadModelFolder, match=said) as caught:
        load_folder(tmp_path, torch.float32, CPU)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSON"),
        ("[]", "model_type = None"),
        (json.dumps({"model_type": ["llama"]}), r"model_type = \['llama'\] is not built"),
        (json.dumps({"model_type": "bert"}), "'bert' is not built: it does not generate"),
        (json.dumps({"model_type": "zamba2"}), "low-rank weights of its own"),
        (json.dumps({"model_type": "gemma7"}), "'gemma7' is not built; one of: llama"),
        (json.dumps({"model_type": "llama", "vocab_size": 5}), "'num_attention_heads' is missing"),
        (
            json.dumps({**LLAMA, "num_key_value_heads": 3}),
            "num_key_value_heads = 3; nearest valid num_key_value_heads: 2 or 4",
        ),
        (
            json.dumps({**LLAMA, "num_attention_heads": 5}),
            "num_attention_heads = 5 must divide hidden_size = 32; .*4 or 8",
        ),
        (json.dumps({**LLAMA, "num_attention_heads": 0}), "heads = 0 must be a whole"),
        (json.dumps({**LLAMA, "rope_scaling": "yarn"}), "rope_parameters = 'yarn' must be a map"),
        (
            json.dumps({**SSM, "model_type": "mamba2", "time_step_limit": [0.001, 0.1]}),
            "time_step_limit = .* is not built",
        ),
        (
            json.dumps(
                {**LLAMA, "model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1}
            ),
            r"max_window_layers = 1\) is not built; valid: 0 \(all\) or 2 \(none\)",
        ),
        (json.dumps({**LLAMA, "hidden_act": "relu"}), "hidden_act = 'relu' is not built"),
        (
            json.dumps({**LLAMA, "rope_scaling": {"rope_type": "mrope", "factor": 4}}),
            "rope_type = 'mrope' is not built",
        ),
        (
            json.dumps({**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 4}}),
            "rope_parameters.original_max_position_embeddings: yarn needs it",
        ),
        (json.dumps({**GPT2, "activation_function": "relu", "n_positions": 9}), "'relu'"),
    ],
)
def test_a_wrong_config_is_one_message(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UnknownModel, match=said) as caught:
        load_config(str(tmp_path))
    assert "config.json" in str(caught.value)


JSON = st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=3)
JSON |= st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=3), st.none())


@given(data=st.data())
def test_any_value_of_a_key_is_a_model_or_one_message(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No value of a ``config.json``, however odd, ends in a traceback."""
    raw = dict(FOLDERS[data.draw(st.sampled_from(sorted(FOLDERS)))])
    keys = [*raw, "head_dim", "rope_parameters", "time_step_rank", "time_step_limit", "n_inner"]
    keys += ["use_sliding_window", "max_window_layers", "layer_types", "partial_rotary_factor"]
    keys += ["max_position_embeddings"]
    raw[data.draw(st.sampled_from(keys))] = data.draw(JSON)
    folder = tmp_path_factory.getbasetemp()
    (folder / "config.json").write_text(json.dumps(raw))
    try:
        config = config_from_folder(folder)
    except BadModelFolder as error:
        assert str(folder / "config.json") in str(error)
    else:
        assert config.num_layers >= 1


def test_absent_keys_are_what_transformers_takes_them_for(tmp_path: Path) -> None:
    """Read from the library's own classes, given what our configurations must have."""
    for name, their in (
        ("mistral", transformers.MistralConfig),
        ("mixtral", transformers.MixtralConfig),
        ("llama", transformers.LlamaConfig),
        ("qwen2", transformers.Qwen2Config),
        ("phi3", transformers.Phi3Config),
        ("mamba", transformers.MambaConfig),
        ("mamba2", transformers.Mamba2Config),
    ):
        sizes = {"vocab_size": 64, "hidden_size": 4096, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": 32, "intermediate_size": 48} if "mamba" not in name else {}
        theirs = their(**sizes)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": name, **sizes}))
        ours = config_from_folder(tmp_path)
        assert ours.tied_embeddings == theirs.tie_word_embeddings, name
        if ours.attention is not None and ours.ffn is not None:
            assert ours.norm_eps == theirs.rms_norm_eps, name
            assert ours.attention.kv_heads == theirs.num_key_value_heads, name
            assert ours.attention.window == getattr(theirs, "sliding_window", None), name
            assert ours.attention.rope_theta == theirs.rope_parameters["rope_theta"], name
            assert ours.ffn.experts == getattr(theirs, "num_local_experts", 0), name
        if ours.mamba is not None:
            assert ours.mamba.state_size == theirs.state_size, name
            assert ours.norm_eps == theirs.layer_norm_epsilon, name


def test_a_folder_without_files_says_which_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadModelFolder, match=r"config\.json: no such file"):
        config_from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(BadModelFolder, match=r"no \*\.safetensors file"):
        load_folder(tmp_path, torch.float32, CPU)
    (tmp_path / "model.safetensors").write_bytes(b"not one")
    with pytest.raises(BadModelFolder, match="cannot be read as safetensors"):
        load_folder(tmp_path, torch.float32, CPU)


def test_the_name_is_the_folders(tmp_path: Path) -> None:
    write_folder(tmp_path, LLAMA)
    config = load_config(str(tmp_path))
    assert isinstance(config, ModelConfig)
    assert config.name == tmp_path.name
