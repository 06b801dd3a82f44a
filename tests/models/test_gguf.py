"""GGUF files against transformers' models that they were written from, and broken in every way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import Limits
from ctxsweep.backends.native import NativeBackend
from ctxsweep.models import catalog
from ctxsweep.models.gguf_config import config_from_gguf
from ctxsweep.models.gguf_file import load_gguf
from ctxsweep.models.gguf_index import BadGguf, read_index
from ctxsweep.models.hf_config import BadModelFolder
from ctxsweep.records import Series

CPU = torch.device("cpu")
Feed = Callable[..., Tensor]
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [1.5, 4.0]}
PHI3 = {**SHAPE, "pad_token_id": 0, "original_max_position_embeddings": 128}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SHAPE),
    "llama-bias-tied": ("Llama", {**SHAPE, "attention_bias": True, "tie_word_embeddings": True}),
    "llama3": ("Llama", {**SHAPE, "rope_parameters": LLAMA3}),
    "llama-linear": ("Llama", {**SHAPE, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    "qwen2": ("Qwen2", SHAPE),
    "qwen2-yarn": (
        "Qwen2",
        {
            **SHAPE,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "phi3": ("Phi3", {**PHI3, "sliding_window": 20}),
    "phi3-longrope": (
        "Phi3",
        {**PHI3, "rope_parameters": {**LONGROPE, "partial_rotary_factor": 0.25}},
    ),
}


def small(name: str) -> transformers.PreTrainedModel:
    """A random model of transformers; weights large enough for attention to be uneven."""
    family, fields = MODELS[name]
    fields = json.loads(json.dumps(fields))
    config = getattr(transformers, f"{family}Config")(**fields, attn_implementation="eager")
    torch.manual_seed(7)
    model: transformers.PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def permute(weight: Tensor, heads: int) -> Tensor:
    """As ``LlamaModel.permute`` of llama.cpp's ``convert_hf_to_gguf.py`` turns q and k."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write(
    path: Path,
    model: transformers.PreTrainedModel,
    keys: dict[str, Any] | None = None,
    without: str = "",
    extra: str = "",
    architecture: str | None = None,
    kind: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """The model as llama.cpp's converter writes it; names are the gguf package's own."""
    config, family = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, architecture or family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    _write_rope(writer, model)
    for key, value in (keys or {}).items():
        writer.add_uint32(f"{family}.{key}", value)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, family.upper()), 9)
    for name, tensor in model.state_dict().items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None
        if stored == without or (stored == "output.weight" and config.tie_word_embeddings):
            continue
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            of_q = "q_proj" in name
            heads = config.num_attention_heads if of_q else config.num_key_value_heads
            tensor = permute(tensor, heads)
        data = tensor.numpy()
        if kind is not None and data.ndim == 2:
            writer.add_tensor(stored, gguf.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(stored, data)
    if extra:
        writer.add_tensor(extra, np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_rope(writer: gguf.GGUFWriter, model: transformers.PreTrainedModel) -> None:
    config, rope = model.config, model.config.rope_parameters
    head_dim = config.hidden_size // config.num_attention_heads
    turned = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    writer.add_rope_dimension_count(turned)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":  # as factors that divide the plain frequencies
        plain = rope["rope_theta"] ** (-np.arange(0, turned, 2) / turned)
        factors = plain / model.model.rotary_emb.inv_freq.double().numpy()
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    if rope["rope_type"] == "longrope":
        trained = rope["original_max_position_embeddings"]
        factor = config.max_position_embeddings / trained
        writer.add_rope_scaling_orig_ctx_len(trained)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(factor) / math.log(trained)))
        for which in ("long", "short"):
            factors = np.array(rope[f"{which}_factor"], dtype=np.float32)
            writer.add_tensor(f"rope_factors_{which}.weight", factors)


def tokens(length: int) -> Tensor:
    return torch.randint(97, (2, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", list(MODELS))
def test_logits_equal_those_of_the_model_that_was_written(
    name: str, tmp_path: Path, feed: Feed
) -> None:
    theirs = small(name)
    ours = load_gguf(write(tmp_path / "model.gguf", theirs), torch.float32, CPU)
    for length in (60, 140):  # LongRoPE has other factors from 128 tokens on
        with torch.no_grad():
            wanted = theirs(tokens(length)).logits
        assert wanted.std() > 0.5
        assert (feed(ours, tokens(length)) - wanted).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q4_0", "BF16", "F16"])
def test_any_quantisation_is_read_as_the_numbers_that_it_stands_for(
    kind: str, tmp_path: Path
) -> None:
    theirs = small("qwen2")
    kind_ = gguf.GGMLQuantizationType[kind]
    ours = load_gguf(write(tmp_path / "model.gguf", theirs, kind=kind_), torch.float32, CPU)
    exact = theirs.model.layers[1].mlp.down_proj.weight
    wanted = gguf.dequantize(gguf.quantize(exact.detach().numpy(), kind_), kind_)
    read = ours.layers[1].ffn.down.weight
    assert torch.equal(read, torch.from_numpy(wanted))
    assert 0 < (read - exact).abs().max() <= 0.1


def test_the_index_is_that_of_the_gguf_package(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", small("llama3"), kind=gguf.GGMLQuantizationType.Q8_0)
    theirs, ours = gguf.GGUFReader(path), read_index(path)
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert dict(ours.metadata) == fields
    assert {n: (t.shape, t.kind, t.offset) for n, t in ours.tensors.items()} == {
        t.name: (tuple(map(int, reversed(t.shape))), t.tensor_type, t.data_offset)
        for t in theirs.tensors
    }


def test_a_file_that_ends_early_is_one_message(tmp_path: Path) -> None:
    whole = write(tmp_path / "model.gguf", small("llama3")).read_bytes()
    path = tmp_path / "cut.gguf"
    rng = np.random.default_rng(0)
    for size in (0, 3, 4, 8, 23, *rng.integers(24, len(whole), 60), len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(BadModelFolder) as caught:
            load_gguf(path, torch.float32, CPU)
        assert str(path) in str(caught.value)


def test_damage_in_the_index_is_a_model_or_one_message(tmp_path: Path) -> None:
    whole = write(tmp_path / "model.gguf", small("llama")).read_bytes()
    end = min(t.offset for t in read_index(tmp_path / "model.gguf").tensors.values())
    path, rng, refused = tmp_path / "damaged.gguf", np.random.default_rng(1), 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(end)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            config_from_gguf(path)
        except BadGguf as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"architecture": "bert"}, "general.architecture = 'bert' is not built; one of: llama,"),
        ({"without": "token_embd.weight"}, "'token_embd.weight' is missing"),
        ({"without": "blk.1.attn_k.weight"}, r"'blk.1.attn_k.weight' is missing \(for 'layers.1"),
        ({"extra": "blk.0.attn_q_norm.weight"}, "no place in the model: blk.0.attn_q_norm.weight"),
        ({"keys": {"expert_count": 4}}, "experts are not read from GGUF"),
        ({"keys": {"attention.key_length": 32}}, r"gives \[64, 64\].*asks for \[128, 64\]"),
    ],
)
def test_what_is_not_built_is_named(made: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", small("llama"), **made)
    with pytest.raises(BadModelFolder, match=said) as caught:
        load_gguf(path, torch.float32, CPU)
    assert str(path) in str(caught.value)


def test_a_type_of_tensor_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", small("llama"))
    name = b"blk.0.attn_norm.weight"
    data = bytearray(path.read_bytes())
    kind = data.index(name) + len(name) + 4 + 8  # after one dimension
    data[kind] = 9  # Q8_1, which nothing dequantises
    path.write_bytes(data)
    with pytest.raises(BadGguf, match=r"'blk\.0\.attn_norm\.weight' cannot be read"):
        load_gguf(path, torch.float32, CPU)


def test_a_scenario_takes_the_files_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTXSWEEP_CACHE", str(tmp_path / "cache"))
    theirs = small("llama")
    path = write(tmp_path / "model.gguf", theirs)
    series = Series(name="one", model=str(path), dtype="float32")
    config = catalog.load_config(str(path))
    assert (config.name, config.trained_context) == ("model", 256)
    ours = NativeBackend.load(series, Limits(40, 2, "cpu", threads=1, seed=0))
    ours.prefill(tokens(40).numpy())
    with torch.no_grad():
        wanted = theirs(tokens(40)).logits[:, -1].numpy()
    assert abs(ours.logits() - wanted).max() <= 1e-4
    assert ours.engine()["weights"] == str(path.resolve())
    # Other engines get a folder of the same weights.
    folder = checkpoints.model_folder(series, seed=0)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    with torch.no_grad():
        assert abs(again(tokens(40)).logits[:, -1].numpy() - wanted).max() <= 1e-5
    assert checkpoints.model_folder(series, seed=1) == folder
