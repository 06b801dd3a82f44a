"""Families of transformers, each against the library's own model with the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from ctxsweep.models.hf_config import config_from_folder
from ctxsweep.models.hf_write import hf_config
from ctxsweep.models.language_model import LanguageModel
from ctxsweep.models.weights import load_folder, save_weights

CPU = torch.device("cpu")
TOKENS, VOCABULARY = 60, 97
Feed = Callable[..., Tensor]
Pair = tuple[transformers.PreTrainedModel, LanguageModel]

IDS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1}
WIDTHS = {
    **IDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
FALCON = {**IDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
NEW_FALCON = {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}
LEARNED = {**IDS, "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 80}
MPT = {**IDS, "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 70}
BLOOM = {**IDS, "hidden_size": 64, "n_head": 4, "n_layer": 2}
JAMBA = {
    **WIDTHS,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "num_experts": 1,
    "mamba_d_state": 8,
    "pad_token_id": 0,
}
PARTIAL = {"rope_type": "default", "rope_theta": 3e4, "partial_rotary_factor": 0.5}
# name -> class of transformers without its ending, fields of its configuration
ORACLES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma-mqa": ("Gemma", {**WIDTHS, "num_key_value_heads": 1, "head_dim": 32}),
    "gemma-bias": (
        "Gemma",
        {**WIDTHS, "num_key_value_heads": 4, "head_dim": 16, "attention_bias": True},
    ),
    "phi": ("Phi", {**WIDTHS, "partial_rotary_factor": 0.5}),
    "phi-gqa": ("Phi", {**WIDTHS, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "falcon-7b": ("Falcon", FALCON),
    "falcon-7b-bias": ("Falcon", {**FALCON, "bias": True, "ffn_hidden_size": 96}),
    "falcon-heads": ("Falcon", {**FALCON, "multi_query": False}),
    "falcon-in-turn": ("Falcon", {**FALCON, "parallel_attn": False, "tie_word_embeddings": False}),
    "falcon-40b": ("Falcon", NEW_FALCON),
    "falcon-40b-one-norm": ("Falcon", {**NEW_FALCON, "num_ln_in_parallel_attn": 1}),
    "gpt-neox": ("GPTNeoX", WIDTHS),
    "gpt-neox-partial": (
        "GPTNeoX",
        {**WIDTHS, "hidden_act": "gelu_fast", "rope_parameters": PARTIAL},
    ),
    "gpt-neox-in-turn": (
        "GPTNeoX",
        {**WIDTHS, "use_parallel_residual": False, "attention_bias": False},
    ),
    "starcoder": ("GPTBigCode", LEARNED),
    "bigcode-heads": ("GPTBigCode", {**LEARNED, "multi_query": False, "n_inner": 96}),
    "mpt": ("Mpt", MPT),
    "mpt-6-heads": ("Mpt", {**MPT, "d_model": 96, "n_heads": 6}),
    "bloom": ("Bloom", BLOOM),
    "bloom-6-heads": ("Bloom", {**BLOOM, "hidden_size": 96, "n_head": 6}),
    "jamba": ("Jamba", JAMBA),
    "jamba-experts": ("Jamba", {**JAMBA, "num_experts": 5, "num_experts_per_tok": 3}),
    "jamba-tied": ("Jamba", {**JAMBA, "tie_word_embeddings": True, "attn_layer_offset": 2}),
}


def oracle(family: str, fields: dict[str, Any]) -> transformers.PreTrainedModel:
    """A random model of transformers; weights large enough for attention to be uneven."""
    config = getattr(transformers, f"{family}Config")(**fields, attn_implementation="eager")
    torch.manual_seed(7)
    model: transformers.PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="module", params=list(ORACLES))
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, transformers.PreTrainedModel]:
    path: Path = tmp_path_factory.mktemp(request.param)
    theirs = oracle(*ORACLES[request.param])
    theirs.save_pretrained(path)
    return path, theirs


@pytest.fixture(scope="module")
def pair(saved: tuple[Path, transformers.PreTrainedModel]) -> Pair:
    return saved[1], load_folder(saved[0], torch.float32, CPU)


def tokens(batch: int = 3, length: int = TOKENS) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(3))


def close(ours: Tensor, theirs: Tensor, budget: float = 1e-5) -> bool:
    """In float32, of logits about as large as 1."""
    return bool((ours - theirs).abs().max() <= budget * max(1.0, theirs.std().item()))


def test_logits_equal_those_of_transformers(pair: Pair, feed: Feed) -> None:
    """In one call, in parts, and a token at a time after a prompt."""
    theirs, ours = pair
    with torch.no_grad():
        wanted = theirs(tokens()).logits
    assert wanted.std() > 0.3  # there is something to be wrong about
    for splits in (None, [7, 1, 33, 1, 1, 17], [48, *[1] * 12]):
        assert close(feed(ours, tokens(), splits), wanted), splits


def test_what_is_written_back_is_what_transformers_loads(pair: Pair, tmp_path: Path) -> None:
    theirs, ours = pair
    fields = hf_config(ours.config, "float32")
    (tmp_path / "config.json").write_text(json.dumps(fields))
    save_weights(ours, fields["model_type"], tmp_path / "model.safetensors")
    again, loading = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    # StarCoder with all heads is GPT-2, in other words.
    assert type(again) is type(theirs) or fields["model_type"] == "gpt2"
    if again.config.model_type == "mpt":  # its penalties are a table of that length
        again.config.max_seq_len = 70
    with torch.no_grad():
        assert close(again.eval()(tokens()).logits, theirs(tokens()).logits)


def test_the_configuration_goes_out_and_comes_back(pair: Pair, tmp_path: Path) -> None:
    read = pair[1].config
    (tmp_path / "config.json").write_text(json.dumps(hf_config(read, "float32")))
    again = config_from_folder(tmp_path)
    assert again.model_copy(update={"name": read.name, "source": read.source}) == read


def test_the_hubs_names_without_a_prefix_are_read(tmp_path: Path) -> None:
    """BLOOM and GPT-2 lie on the hub without ``transformer.`` before each name."""
    theirs = oracle(*ORACLES["bloom"])
    theirs.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in held.items()}
    assert bare.keys() != held.keys()
    save_file(bare, tmp_path / "model.safetensors")
    ours = load_folder(tmp_path, torch.float32, CPU)
    assert torch.equal(ours.embedding.weight, theirs.transformer.word_embeddings.weight)


def test_the_older_name_of_gpt_neoxs_head_is_read(tmp_path: Path) -> None:
    theirs = oracle(*ORACLES["gpt-neox"])
    theirs.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    name = "lm_head.weight" if "lm_head.weight" in held else "embed_out.weight"
    other = {"lm_head.weight": "embed_out.weight", "embed_out.weight": "lm_head.weight"}[name]
    held[other] = held.pop(name)
    held["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)  # of older versions
    save_file(held, tmp_path / "model.safetensors")
    ours = load_folder(tmp_path, torch.float32, CPU)
    assert torch.equal(ours.head.weight, theirs.lm_head.weight)


@pytest.mark.parametrize("name", ["mpt-6-heads", "bloom-6-heads"])
def test_penalties_reach_as_far_as_the_context(name: str, feed: Feed, tmp_path: Path) -> None:
    """ALiBi far beyond the trained length, in parts whose masks are of every kind."""
    family, fields = ORACLES[name]
    theirs = oracle(family, {**fields, **({"max_seq_len": 1200} if family == "Mpt" else {})})
    theirs.save_pretrained(tmp_path)
    ours = load_folder(tmp_path, torch.float32, CPU)
    context = tokens(1, 1100)
    with torch.no_grad():
        wanted = theirs(context).logits
    # Either library is as far from its own model in float64.
    assert close(feed(ours, context, [512, 1, 500, 86, 1], 16), wanted, budget=1e-4)
