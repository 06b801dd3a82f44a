"""RWKV's checkpoints: what model they hold is told by their index, and by nothing that runs."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ctxsweep.models import catalog
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.language_model import build
from ctxsweep.models.weights import stored_tensors
from ctxsweep.models.weights_rwkv import LAYOUTS

SMALL = {"vocab_size": 300, "hidden_size": 64, "num_layers": 3, "norm": "layernorm"}
SIX = ModelConfig(
    name="six", mixer="rwkv6", rwkv6={"head_dim": 16, "mix_rank": 8, "decay_rank": 12}, **SMALL
)
SEVEN = ModelConfig(
    name="seven",
    mixer="rwkv7",
    rwkv7={"head_dim": 16, "decay_rank": 12, "rate_rank": 10, "value_rank": 6, "gate_rank": 20},
    **SMALL,
)


def drawn(config: ModelConfig) -> dict[str, Tensor]:
    model = build(config, 0, torch.bfloat16, torch.device("cpu"))
    return stored_tensors(model, LAYOUTS[config.mixer])


@pytest.mark.parametrize("config", [SIX, SEVEN], ids=lambda config: config.name)
def test_a_checkpoint_tells_its_own_configuration(config: ModelConfig, tmp_path: Path) -> None:
    tensors = drawn(config)
    path = tmp_path / f"{config.name}.pth"
    torch.save(tensors, path)
    told = catalog.load_config(str(path))
    section = config.mixer
    sizes = {"ffn_size": 224 if config is SIX else 256}
    wanted = config.model_dump() | {section: config.model_dump()[section] | sizes}
    assert told.model_dump() == wanted | {"source": f"RWKV checkpoint {config.name}.pth"}


class Harm:
    """A pickle that runs something when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("harm was done",)


def test_a_file_that_is_no_checkpoint_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pth"

    def refused() -> str:
        with pytest.raises(catalog.UnknownModel) as caught:
            catalog.load_config(str(path))
        assert str(path) in str(caught.value)
        return str(caught.value)

    path.write_text("nothing")
    assert "not a checkpoint of torch" in refused()
    for held, said in ((Harm(), "it holds a builtins.print"), ([1], "holds a list")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", pickle.dumps(held))
        assert said in refused()
    assert "harm" not in capsys.readouterr().out
    six = drawn(SIX)
    torch.save({name: t for name, t in six.items() if "maa" not in name}, path)
    assert "neither RWKV-7 nor RWKV-6" in refused()
    torch.save({name: t for name, t in six.items() if "faaaa" not in name}, path)
    assert "'blocks.0.att.time_faaaa' is missing" in refused()
    torch.save(six | {"emb.weight": torch.ones(3)}, path)
    assert "make no model" in refused()
