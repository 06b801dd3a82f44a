"""Published models: their counts three ways, and the cache or state that their papers speak of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ctxsweep.models import catalog
from ctxsweep.models.accounting import Storage, cache_bytes, cache_bytes_per_token, parameters
from ctxsweep.models.config import ModelConfig, Published
from ctxsweep.models.hf_config import config_from
from ctxsweep.models.language_model import LanguageModel

KIB, MIB = 1 << 10, 1 << 20
BF16 = Storage("bfloat16", "auto", 16)
HF: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "hf_configs.json").read_text())
PUBLISHED = [name for name in catalog.names() if catalog.load_config(name).published]
ROUNDED = {
    name: catalog.load_config(name).published.rounded_to  # type: ignore[union-attr]
    for name in PUBLISHED
    if catalog.load_config(name).published.rounded_to > 1  # type: ignore[union-attr]
}
OURS = {"mqa-8b-like", "retnet-1.3b-like", "retnet-2.7b-like", "retnet-6.7b-like"}
OURS |= {"zamba2-2.7b-like"}


def count(config: ModelConfig) -> int:
    return sum(parameters(config).values())


def stored(config: ModelConfig, published: Published) -> int:
    """Our count as the source counts: some files hold a tied head beside the embedding."""
    head = config.vocab_size * config.hidden_size if published.counts_tied_head else 0
    return count(config) + head


@pytest.mark.parametrize("name", [n for n in catalog.names() if not n.startswith("tiny-")])
def test_the_built_model_has_the_parameters_of_the_formula(name: str) -> None:
    config = catalog.load_config(name)
    with torch.device("meta"):
        model = LanguageModel(config)
    assert sum(p.numel() for p in model.parameters()) == count(config)


@pytest.mark.parametrize(
    "name", PUBLISHED, ids=lambda n: f"{n}-rounded to {ROUNDED[n]:.0e}" if n in ROUNDED else n
)
def test_the_formula_gives_the_published_count(name: str) -> None:
    """Exactly; where only a rounded figure was published, within half of its last digit too."""
    config = catalog.load_config(name)
    published = config.published
    assert published is not None and published.source
    difference = abs(stored(config, published) - published.parameters)
    assert difference <= published.rounded_to // 2
    assert difference <= 0.005 * published.parameters


def test_what_has_no_published_count_says_that_it_is_like_another() -> None:
    silent = {n for n in catalog.names() if n not in PUBLISHED and not n.startswith("tiny-")}
    assert silent == OURS
    assert all(name.endswith("-like") for name in silent)


def test_most_counts_are_exact() -> None:
    assert len(PUBLISHED) - len(ROUNDED) >= 28


@pytest.mark.parametrize("name", HF)
def test_transformers_builds_as_many_parameters(name: str) -> None:
    """Theirs, from the published ``config.json``, is the oracle: no formula of ours is in it."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    fields = {key: value for key, value in HF[name].items() if key not in ("source", "model_type")}
    theirs = transformers.AutoConfig.for_model(HF[name]["model_type"], **fields)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    assert sum(p.numel() for p in model.parameters()) == count(catalog.load_config(name))


# The papers' training lengths, where config.json names the longest that the model takes.
TRAINED = {"mistral-7b": 8192, "qwen2.5-7b": 32768}


@pytest.mark.parametrize("name", [name for name in HF if name != "jamba-v0.1"])
def test_the_catalogue_says_what_the_published_file_says(name: str) -> None:
    """Shape, norms, activation, positions and biases, by way of the reader of folders."""
    fields = {key: value for key, value in HF[name].items() if key != "source"}
    read, known = config_from(fields, name), catalog.load_config(name)
    labels = {"name", "source", "published", "trained_context"}
    assert known.model_dump(exclude=labels) == read.model_dump(exclude=labels)
    if read.trained_context is not None:
        assert known.trained_context == TRAINED.get(name, read.trained_context)


# Where the figure was published; the others are the formula's on a published shape: 2 for key and
# value · layers · key/value heads · head dim · 2 bytes (PagedAttention, arXiv 2309.06180).
GALLERY = "fact sheets of the LLM Architecture Gallery (S. Raschka)"
SHAPE = "the formula on the published shape"


@pytest.mark.parametrize(
    ("name", "kib", "source"),
    [
        ("gpt2-xl", 300, GALLERY),
        ("llama-3-8b", 128, GALLERY),
        ("jamba-v0.1", 16, "4 GB at 256K, Jamba paper (arXiv 2403.19887), table 1"),
        ("mixtral-8x7b", 128, "32 GB at 256K, Jamba paper (arXiv 2403.19887), table 1"),
        ("llama-2-7b", 512, "128 GB at 256K, Jamba paper (arXiv 2403.19887), table 1"),
        ("llama-3-70b", 320, SHAPE),
        ("llama-3.1-8b", 128, SHAPE),
        ("yi-34b", 240, SHAPE),
        ("mistral-7b", 128, SHAPE),
        ("phi-2", 320, SHAPE),
        ("phi-3-mini-4k", 384, SHAPE),
        ("qwen2.5-7b", 56, SHAPE),
        ("gemma-2b", 18, SHAPE),
        ("gemma-7b", 448, SHAPE),
        ("falcon-7b", 8, SHAPE),
        ("falcon-40b", 120, SHAPE),
        ("starcoder", 20, SHAPE),
        ("mpt-7b", 512, SHAPE),
        ("bloom-176b", 3920, SHAPE),
        ("gpt-neox-20b", 1056, SHAPE),
    ],
)
def test_a_token_adds_what_is_published(name: str, kib: int, source: str) -> None:
    config = catalog.load_config(name)
    assert cache_bytes_per_token(config, BF16, 1024) == kib * KIB, source
    grown = cache_bytes(config, BF16, 1040) - cache_bytes(config, BF16, 1024)
    assert grown == 16 * kib * KIB, source


@pytest.mark.parametrize("context", [4096, 8192, 32768, 131072])
def test_mistrals_cache_stops_at_512_mib(context: int) -> None:
    """Its window of 4096 (arXiv 2310.06825); a page of 16 may lie across its edge."""
    config = catalog.load_config("mistral-7b")
    held = cache_bytes(config, BF16, context)
    assert 512 * MIB <= held <= 514 * MIB
    assert cache_bytes_per_token(config, BF16, context) == 0


@pytest.mark.parametrize("context", [1, 1024, 131072])
def test_mambas_state_is_10_mib_and_its_convolutions_2_5(context: int) -> None:
    """In 16 bits, as reckoned from the shape in arXiv 2312.00752; ours sums in float32: twice."""
    config = catalog.load_config("mamba-2.8b")
    mamba = config.mamba
    assert mamba is not None
    inner = mamba.expand * config.hidden_size
    state = config.num_layers * inner * mamba.state_size
    window = config.num_layers * inner * mamba.conv_kernel
    assert (2 * state, 2 * window) == (10 * MIB, 2.5 * MIB)
    # We keep the inputs before the present one, kernel − 1 of kernel.
    assert cache_bytes(config, BF16, context) == 4 * state + 2 * window * 3 // 4


def test_the_encoder_names_get_one_clear_line() -> None:
    for name in catalog.encoder_names():
        with pytest.raises(catalog.UnknownModel, match="is an encoder") as caught:
            catalog.load_config(name)
        assert "\n" not in str(caught.value)


def test_families_hold_every_name_once() -> None:
    listed = [name for held in catalog.families().values() for name in held]
    assert sorted(listed) == catalog.names()
