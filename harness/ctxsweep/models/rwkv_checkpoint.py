"""What model an RWKV checkpoint (``.pth``) holds, told by its tensors' names and shapes.

Reads the index alone, without torch and without running anything that a pickle may hold.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ctxsweep.models.config import ModelConfig

Shapes = Mapping[str, tuple[int, ...]]


class BadCheckpoint(ValueError):
    """The file is no checkpoint of torch, or not of RWKV-6 or RWKV-7."""


def config_from_pth(path: Path) -> ModelConfig:
    """The configuration of a checkpoint. Raises ``BadCheckpoint``."""
    shapes = read_shapes(path)
    read = next((read for name, read in _VERSIONS.items() if name in shapes), None)
    if read is None:
        raise BadCheckpoint(
            f"{path}: neither RWKV-7 nor RWKV-6 (it has none of {', '.join(_VERSIONS)})"
        )
    try:
        layers = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
        vocabulary, hidden = shapes["emb.weight"]
        return ModelConfig(
            name=path.stem,
            source=f"RWKV checkpoint {path.name}",
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_layers=layers,
            norm="layernorm",
            **read(shapes),
        )
    except KeyError as error:
        raise BadCheckpoint(f"{path}: tensor {error} is missing") from error
    except (ValidationError, ValueError, IndexError) as error:
        raise BadCheckpoint(f"{path}: its tensors make no model: {error}") from error


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a file that ``torch.save`` wrote. Raises ``BadCheckpoint``."""
    try:
        with zipfile.ZipFile(path) as archive:
            index = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(index) as file:
                held = _ShapeUnpickler(file).load()
    except (OSError, zipfile.BadZipFile, StopIteration, pickle.UnpicklingError) as error:
        raise BadCheckpoint(f"{path}: not a checkpoint of torch: {error}") from error
    except (EOFError, AttributeError, IndexError, TypeError, ValueError) as error:
        # what a damaged pickle can end in, see the documentation of pickle.UnpicklingError
        raise BadCheckpoint(f"{path}: not a checkpoint of torch: {error}") from error
    if not isinstance(held, Mapping):
        raise BadCheckpoint(f"{path}: holds a {type(held).__name__}, not tensors by name")
    return {name: shape for name, shape in held.items() if isinstance(shape, tuple)}


class _ShapeUnpickler(pickle.Unpickler):
    """Gives shapes for tensors, and refuses whatever else a pickle may call."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, *rest: tuple(shape)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda shape, *rest: shape
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name.endswith("Storage"):
            return name
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")

    def persistent_load(self, pid: Any) -> None:
        """Storages stay in the file."""


def _rwkv7(shapes: Shapes) -> dict[str, Any]:
    att, ffn = "blocks.0.att.", "blocks.0.ffn."
    values = shapes.get("blocks.1.att.v1") or shapes.get(f"{att}v1")
    section = {
        "head_dim": shapes[f"{att}r_k"][1],
        "decay_rank": shapes[f"{att}w1"][1],
        "rate_rank": shapes[f"{att}a1"][1],
        "gate_rank": shapes[f"{att}g1"][1],
        "ffn_size": shapes[f"{ffn}key.weight"][0],
        **({"value_rank": values[1]} if values else {}),
    }
    return {"mixer": "rwkv7", "rwkv7": section}


def _rwkv6(shapes: Shapes) -> dict[str, Any]:
    att, ffn = "blocks.0.att.", "blocks.0.ffn."
    section = {
        "head_dim": shapes[f"{att}time_faaaa"][1],
        "mix_rank": shapes[f"{att}time_maa_w2"][1],
        "decay_rank": shapes[f"{att}time_decay_w1"][1],
        "ffn_size": shapes[f"{ffn}key.weight"][0],
    }
    return {"mixer": "rwkv6", "rwkv6": section}


# a tensor that only this version has -> how its shapes are read
_VERSIONS: Mapping[str, Callable[[Shapes], dict[str, Any]]] = {
    "blocks.0.att.r_k": _rwkv7,
    "blocks.0.att.time_maa_x": _rwkv6,
}
