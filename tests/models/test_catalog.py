"""The catalogue: every entry loads, is what was published, and the small ones compare."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ctxsweep.models import catalog
from ctxsweep.models.accounting import parameters

# Parameters as published with the weights (model cards, safetensors indices).
PUBLISHED = {
    "llama-3.1-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mamba-2.8b": 2_768_345_600,
    "mamba2-2.7b": 2_702_599_680,
    "rwkv7-2.9b": 2_947_735_040,
}
TINY = [name for name in catalog.names() if name.startswith("tiny-")]


def body(name: str) -> int:
    """Parameters that are neither embedding nor head; of experts, those a token goes through."""
    config = catalog.load_config(name)
    parts = parameters(config)
    ffn = config.ffn
    share = ffn.experts_per_token / ffn.experts if ffn and ffn.experts else 1
    return parts["mixer"] + round(parts["ffn"] * share) + parts["norm"]


@pytest.mark.parametrize("name", catalog.names())
def test_every_entry_loads_and_says_where_it_is_from(name: str) -> None:
    config = catalog.load_config(name)
    assert config.name == name
    assert config.source
    assert "://" not in config.source


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_published_shapes_have_the_published_number_of_parameters(name: str, count: int) -> None:
    assert sum(parameters(catalog.load_config(name)).values()) == count


@pytest.mark.parametrize("name", TINY)
def test_small_models_share_a_shape_and_compare_in_size(name: str) -> None:
    config = catalog.load_config(name)
    assert (config.vocab_size, config.hidden_size, config.num_layers) == (4096, 256, 2)
    assert abs(body(name) / body("tiny-gqa") - 1) <= 0.15


def test_all_architectures_are_there() -> None:
    assert len(TINY) == 13
    mixers = {kind for name in TINY for kind in catalog.load_config(name).layer_mixers()}
    assert mixers == {"attention", "mamba1", "mamba2", "rwkv6", "rwkv7", "retention"}


@pytest.mark.parametrize(
    ("asked", "near"), [("tiny-gqq", "tiny-gqa"), ("mistral7b", "mistral-7b"), ("llama", "llama-3")]
)
def test_an_unknown_name_gets_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(catalog.UnknownModel, match=f"did you mean '{near}"):
        catalog.load_config(asked)


def test_nothing_heavy_is_imported_for_a_look_into_the_catalogue() -> None:
    code = (
        "import sys; from ctxsweep.models import accounting, catalog;"
        "from ctxsweep.backends.native import NativeBackend;"
        "from ctxsweep.records import Series;"
        "NativeBackend.estimate(Series(name='s', model='tiny-gqa'), 1024, 1);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
