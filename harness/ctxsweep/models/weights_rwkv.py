"""RWKV's own checkpoints (``.pth``), as the rwkv package reads them, in and out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_config import BadModelFolder
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.weight_layouts import TRANSPOSED, Form, Layout, Stored, stored
from ctxsweep.models.weights import read_into, stored_tensors

VECTOR = Form(torch.flatten, lambda t: t.view(1, 1, -1))  # [1, 1, C]
MIX = Form(lambda t: t.view(1, 1, 1, -1), lambda t: t.view(1, 1, -1))  # [1, 1, C], one of several
STACKED = Form(lambda t: t[None], lambda t: t[0])  # a matrix, one of several

_ATT, _FFN = "blocks.{i}.att.", "blocks.{i}.ffn."
_LOW_RANK = {"w": "decay", "a": "rate", "v": "value", "g": "gate"}  # theirs: letter and 1, 2, 0

_BOTH: Layout = {
    "embedding.weight": stored("emb.weight"),
    "head.weight": stored("head.weight"),
    **{
        f"{ours}.{part}": stored(f"{theirs}.{part}")
        for ours, theirs in (
            ("embedding_norm", "blocks.0.ln0"),
            ("layers.{i}.mixer_norm", "blocks.{i}.ln1"),
            ("layers.{i}.ffn_norm", "blocks.{i}.ln2"),
            ("norm", "ln_out"),
        )
        for part in ("weight", "bias")
    },
    "layers.{i}.mixer.norm_weight": stored(f"{_ATT}ln_x.weight"),
    "layers.{i}.mixer.norm_bias": stored(f"{_ATT}ln_x.bias"),
    "layers.{i}.mixer.out_proj.weight": stored(f"{_ATT}output.weight"),
    "layers.{i}.ffn.up.weight": stored(f"{_FFN}key.weight"),
    "layers.{i}.ffn.down.weight": stored(f"{_FFN}value.weight"),
}


def _projections(*names: str) -> Stored:
    return stored(*(f"{_ATT}{name}.weight" for name in names), form=STACKED)


RWKV6: Layout = {
    **_BOTH,
    "layers.{i}.mixer.mix_base": stored(f"{_ATT}time_maa_x", form=VECTOR),
    "layers.{i}.mixer.mix": stored(*(f"{_ATT}time_maa_{letter}" for letter in "wkvrg"), form=MIX),
    "layers.{i}.mixer.mix_down.weight": stored(f"{_ATT}time_maa_w1", form=TRANSPOSED),
    "layers.{i}.mixer.mix_up": stored(f"{_ATT}time_maa_w2"),
    "layers.{i}.mixer.decay.0.weight": stored(f"{_ATT}time_decay_w1", form=TRANSPOSED),
    "layers.{i}.mixer.decay.2.weight": stored(f"{_ATT}time_decay_w2", form=TRANSPOSED),
    "layers.{i}.mixer.decay_base": stored(f"{_ATT}time_decay", form=VECTOR),
    "layers.{i}.mixer.projections": _projections("key", "value", "receptance", "gate"),
    "layers.{i}.mixer.bonus": stored(f"{_ATT}time_faaaa"),
    "layers.{i}.ffn.mix": stored(*(f"{_FFN}time_maa_{letter}" for letter in "kr"), form=MIX),
    "layers.{i}.ffn.receptance.weight": stored(f"{_FFN}receptance.weight"),
}

RWKV7: Layout = {
    **_BOTH,
    "layers.{i}.mixer.mix": stored(*(f"{_ATT}x_{letter}" for letter in "rkvwag"), form=MIX),
    "layers.{i}.mixer.projections": _projections("receptance", "key", "value"),
    **{
        f"layers.{{i}}.mixer.{ours}.{part}": stored(f"{_ATT}{letter}{number}", form=form)
        for letter, ours in _LOW_RANK.items()
        for part, number, form in (
            ("0.weight", 1, TRANSPOSED),
            ("2.weight", 2, TRANSPOSED),
            ("2.bias", 0, VECTOR),
        )
    },
    "layers.{i}.mixer.removal_scale": stored(f"{_ATT}k_k", form=VECTOR),
    "layers.{i}.mixer.rate_scale": stored(f"{_ATT}k_a", form=VECTOR),
    "layers.{i}.mixer.bonus": stored(f"{_ATT}r_k"),
    "layers.{i}.ffn.mix": stored(f"{_FFN}x_k", form=VECTOR),
}

# by the configuration's mixer
LAYOUTS: Mapping[str, Layout] = MappingProxyType({"rwkv6": RWKV6, "rwkv7": RWKV7})

# Published RWKV-7 checkpoints hold these although layer 0 has no lower layer to mix values with.
UNUSED = frozenset(f"blocks.0.att.v{i}" for i in range(3))


class PthTensors:
    """The tensors of a ``.pth`` file, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tensors: dict[str, Tensor] = torch.load(
            path, map_location="cpu", mmap=True, weights_only=True
        )
        self._left = self._tensors.keys() - UNUSED

    def __str__(self) -> str:
        return str(self._path)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, name: str, ours: str) -> Tensor:
        """One tensor; ``ours`` is what it is needed for."""
        if name not in self._tensors:
            raise BadModelFolder(f"{self}: tensor '{name}' is missing (for '{ours}')")
        self._left.discard(name)
        return self._tensors[name]

    def check_all_used(self) -> None:
        """A tensor that nothing reads is a part of the model that is not built."""
        if self._left:
            raise BadModelFolder(
                f"{self}: {len(self._left)} tensors have no place in the model: "
                f"{', '.join(sorted(self._left)[:3])}"
            )


def load_rwkv(
    path: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> LanguageModel:
    """The native model of a checkpoint, ``config`` being what its index tells.

    Raises:
        BadModelFolder: a tensor is missing, has another shape or is not of the model.
    """
    model = build(config, 0, dtype, device)
    read_into(model, PthTensors(path), (LAYOUTS[config.mixer],))
    return model


def write_random(path: Path, config: ModelConfig, seed: int, dtype: torch.dtype) -> None:
    """A checkpoint of a pure stack of RWKV layers, with the weights that the native model draws."""
    model = build(config, seed, dtype, torch.device("cpu"))
    torch.save(stored_tensors(model, LAYOUTS[config.mixer]), path)
