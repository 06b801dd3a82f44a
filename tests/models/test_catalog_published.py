"""Published models: their counts three ways, and the cache or state that their papers speak of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ctxsweep.models import accounting_recurrent as recurrent
from ctxsweep.models import catalog
from ctxsweep.models.accounting import Storage, cache_bytes, cache_bytes_per_token, parameters
from ctxsweep.models.config import ModelConfig, Published
from ctxsweep.models.hf_config import config_from
from ctxsweep.models.language_model import LanguageModel

KIB, MIB = 1 << 10, 1 << 20
BF16 = Storage("bfloat16", "auto", 16)
# Hand-trimmed values of the published files, as "what" says there.
HF: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "hf_configs.json").read_text())[
    "models"
]
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
    assert published.agrees(stored(config, published))
    assert abs(stored(config, published) - published.parameters) <= 0.005 * published.parameters


@pytest.mark.parametrize(
    ("fields", "agree", "differ"),
    [
        ({}, [120], [119, 121]),
        ({"rounded_to": 10}, [115, 125], [114, 126]),
        ({"rounded_to": 10, "truncated": True}, [120, 129], [119, 130]),
    ],
)
def test_a_count_agrees_as_far_as_the_digits_go(
    fields: dict[str, Any], agree: list[int], differ: list[int]
) -> None:
    published = Published(parameters=120, source="planted", **fields)
    assert all(published.agrees(count) for count in agree)
    assert not any(published.agrees(count) for count in differ)


def test_what_has_no_published_count_says_that_it_is_like_another() -> None:
    silent = {n for n in catalog.names() if n not in PUBLISHED and not n.startswith("tiny-")}
    assert silent == OURS
    assert all(name.endswith("-like") for name in silent)


def test_most_counts_are_exact() -> None:
    assert len(PUBLISHED) - len(ROUNDED) >= 30


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
# Files that say nothing of the training's length; the papers do.
SILENT = {"bloom-176b", "mamba2-2.7b"}
SILENT |= {f"mamba-{size}" for size in ("130m", "370m", "790m", "1.4b", "2.8b")}
# Models of the catalogue that cannot be compared with a file of transformers, and why not.
NO_FILE = {
    "phi-3-mini-128k": "its factors are those of another file, to two decimals",
    "rwkv6": "no architecture of transformers",
    "rwkv7": "no architecture of transformers",
}


def test_what_is_not_compared_with_a_file_is_named() -> None:
    absent = {name for name in PUBLISHED if name not in HF}
    assert {next(key for key in NO_FILE if name.startswith(key)) for name in absent} == set(NO_FILE)
    assert set(HF) <= set(PUBLISHED)


@pytest.mark.parametrize("name", HF)
def test_the_catalogue_says_what_the_published_file_says(name: str) -> None:
    """Shape, norms, activation, positions and biases, by way of the reader of folders."""
    fields = {key: value for key, value in HF[name].items() if key != "source"}
    read, known = config_from(fields, name), catalog.load_config(name)
    labels = {"name", "source", "published", "trained_context"}
    assert known.model_dump(exclude=labels) == read.model_dump(exclude=labels)
    assert (read.trained_context is None) == (name in SILENT)
    if name not in SILENT:
        assert known.trained_context == TRAINED.get(name, read.trained_context)


GALLERY = "fact sheets of the LLM Architecture Gallery (S. Raschka)"


def adds(name: str, kib: int) -> bool:
    """Whether a token adds so much to the cache, by the formula and by what is held."""
    config = catalog.load_config(name)
    grown = cache_bytes(config, BF16, 1040) - cache_bytes(config, BF16, 1024)
    return cache_bytes_per_token(config, BF16, 1024) == kib * KIB and grown == 16 * kib * KIB


@pytest.mark.parametrize(
    ("name", "kib", "source"),
    [
        ("gpt2-xl", 300, GALLERY),
        ("llama-3-8b", 128, GALLERY),
        ("jamba-v0.1", 16, "4 GB at 256K, Jamba paper (arXiv 2403.19887), table 1"),
        ("mixtral-8x7b", 128, "32 GB at 256K, Jamba paper (arXiv 2403.19887), table 1"),
        ("llama-2-7b", 512, "128 GB at 256K, Jamba paper (arXiv 2403.19887), table 1"),
    ],
)
def test_a_token_adds_what_is_published(name: str, kib: int, source: str) -> None:
    assert adds(name, kib), source


@pytest.mark.parametrize(
    ("name", "kib"),
    [
        ("llama-3-70b", 320),
        ("llama-3.1-8b", 128),
        ("yi-34b", 240),
        ("mistral-7b", 128),
        ("phi-2", 320),
        ("phi-3-mini-4k", 384),
        ("qwen2.5-7b", 56),
        ("gemma-2b", 18),
        ("gemma-7b", 448),
        ("falcon-7b", 8),
        ("falcon-40b", 120),
        ("starcoder", 20),
        ("mpt-7b", 512),
        ("bloom-176b", 3920),
        ("gpt-neox-20b", 1056),
    ],
)
def test_a_token_adds_what_the_published_shape_gives(name: str, kib: int) -> None:
    """2 for key and value · layers · key/value heads · head dim · 2 bytes (arXiv 2309.06180)."""
    assert adds(name, kib)


@pytest.mark.parametrize("context", [4096, 8192, 32768, 131072])
def test_mistrals_cache_stops_at_512_mib(context: int) -> None:
    """Its window of 4096 (arXiv 2310.06825); a page of 16 may lie across its edge."""
    config = catalog.load_config("mistral-7b")
    held = cache_bytes(config, BF16, context)
    assert 512 * MIB <= held <= 514 * MIB
    assert cache_bytes_per_token(config, BF16, context) == 0


def mamba_values(config: ModelConfig) -> tuple[int, int]:
    """Values of one sequence in all layers: inputs of the convolutions kept, and of the state."""
    kept, state = recurrent.RECURRENT["mamba1"].state_values(config)
    return config.num_layers * kept, config.num_layers * state


@pytest.mark.parametrize("context", [1, 1024, 131072])
def test_mambas_state_is_10_mib_and_its_convolutions_2_5(context: int) -> None:
    """In 16 bits, as reckoned from the shape in arXiv 2312.00752, at every context.

    Ours sums the state in float32: twice as many bytes. And the published 2.5 MiB are windows of a
    whole kernel, the present input among its 4; kept between tokens are the 3 before it. A kernel
    of 5 keeps those 4.
    """
    config = catalog.load_config("mamba-2.8b")
    kept, state = mamba_values(config)
    assert 2 * state == 10 * MIB
    assert cache_bytes(config, BF16, context) == 4 * state + 2 * kept
    assert config.mamba is not None
    wider = config.mamba.model_copy(update={"conv_kernel": 5})
    window, same = mamba_values(config.model_copy(update={"mamba": wider}))
    assert (2 * window, same) == (2.5 * MIB, state)
    assert 2 * kept == 2.5 * MIB * 3 / 4


def test_the_encoder_names_get_one_clear_line() -> None:
    for name in catalog.encoder_names():
        with pytest.raises(catalog.UnknownModel, match="is an encoder") as caught:
            catalog.load_config(name)
        assert "\n" not in str(caught.value)


def test_families_hold_every_name_once() -> None:
    listed = [name for held in catalog.families().values() for name in held]
    assert sorted(listed) == catalog.names()
