"""The catalogue: every entry loads, is what was published, and the small ones compare."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import Limits
from ctxsweep.backends.native import NativeBackend
from ctxsweep.models import catalog
from ctxsweep.models.accounting import parameters
from ctxsweep.records import Series

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


def test_a_model_that_is_shipped_is_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name alone, wherever the command runs, and before a folder of that name there."""
    monkeypatch.setenv("CTXSWEEP_CACHE", str(tmp_path / "cache"))
    folder = checkpoints.model_folder(Series(name="s", model="tiny-mqa"), seed=0)
    (tmp_path / "elsewhere" / "own").mkdir(parents=True)
    monkeypatch.setattr(catalog, "TRAINED", tmp_path / "trained")
    shutil.copytree(folder, tmp_path / "trained" / "own")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert catalog.path_of("own") == tmp_path / "trained" / "own"
    assert catalog.is_folder("own") and "own" in catalog.all_names()
    one = Series(name="s", model="own")
    assert checkpoints.model_folder(one, seed=3) == tmp_path / "trained" / "own"
    backend = NativeBackend.load(one, Limits(8, 1, "cpu", threads=1, seed=3))
    assert backend.engine()["weights"] == "own"
    with pytest.raises(catalog.UnknownModel, match="did you mean 'own'"):
        catalog.load_config("owm")


@pytest.mark.parametrize("name", ["tiny-gqa", "no such", "", "\0", ".", "a.gguf", {"like": "tiny"}])
def test_what_has_no_weights_has_no_path(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-gqa").mkdir()  # the catalogue's name wins
    assert catalog.path_of(name) == (Path(".") if name == "." else None)
