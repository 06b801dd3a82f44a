"""Model folders as transformers writes them: ``config.json`` and ``*.safetensors``, in and out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_config import BadModelFolder, config_from_folder, model_type
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.weight_layouts import Layout, Stored
from ctxsweep.models.weight_layouts_fused import layouts_of

# Buffers that older versions stored beside the weights; they follow from the configuration.
_DERIVED = re.compile(r"(rotary_emb\.inv_freq|\.(attn|attention)\.(masked_)?bias)$")


def load_folder(
    folder: Path, dtype: torch.dtype, device: torch.device, config: ModelConfig | None = None
) -> LanguageModel:
    """The model of a folder; ``config`` replaces the folder's own where settings are overridden.

    Raises:
        BadModelFolder: a file or tensor is missing, has another shape or is not of the model.
    """
    config = config or config_from_folder(folder)
    files = StoredTensors(folder)
    model = build(config, 0, dtype, device)
    read_into(model, files, layouts_of(model_type(folder), config))
    return model


def save_weights(model: LanguageModel, family: str, path: Path) -> None:
    """Write the weights as transformers names them for ``family`` (a ``model_type``)."""
    save_file(
        stored_tensors(model, layouts_of(family, model.config)[0]), path, metadata={"format": "pt"}
    )


class TensorSource(Protocol):
    """Named tensors of a model on disk."""

    def __contains__(self, name: str) -> bool: ...

    def read(self, name: str, ours: str) -> Tensor:
        """One tensor; ``ours`` is what it is needed for. Raises ``BadModelFolder``."""

    def check_all_used(self) -> None:
        """Raise ``BadModelFolder`` if a tensor was not read."""


def read_into(model: LanguageModel, files: TensorSource, layouts: tuple[Layout, ...]) -> None:
    """Replace the weights by those of ``files``, named by whichever of ``layouts`` fits best.

    Raises:
        BadModelFolder: a tensor is missing, has another shape or is not of the model.
    """
    sources = _sources(model, files, layouts)
    for name, tensor in model.state_dict().items():
        if name in sources:
            tensor.copy_(_read(name, sources[name], tensor.shape, files, model.config))
    files.check_all_used()


def stored_tensors(model: LanguageModel, layout: Layout) -> dict[str, Tensor]:
    """The weights under the names and in the shapes of ``layout``."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in _own_tensors(model):
        source = _fill(layout, name)
        per_expert = tensor if "{e}" in source.names[0] else tensor[None]
        for expert, ours in enumerate(per_expert):
            sizes = _part_sizes(name, source, ours.shape, model.config)
            for stored_name, part in zip(source.names, ours.split(sizes), strict=True):
                value = source.form.write(part).to(tensor.dtype).contiguous().clone()
                tensors[stored_name.format(e=expert)] = value
    return tensors


class StoredTensors:
    """The tensors of all safetensors files of a folder, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of: dict[str, Path] = {}
        self._used: set[str] = set()
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise BadModelFolder(
                f"{folder}: no *.safetensors file; a model folder holds at least one"
            )
        for path in paths:
            try:
                with safe_open(path, framework="pt") as file:
                    self._file_of.update(dict.fromkeys(file.keys(), path))
            except (SafetensorError, OSError) as error:
                raise BadModelFolder(f"{path}: cannot be read as safetensors: {error}") from error

    def __str__(self) -> str:
        return str(self.folder)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def read(self, name: str, ours: str) -> Tensor:
        """One tensor; ``ours`` is what it is needed for."""
        if name not in self._file_of:
            raise BadModelFolder(f"{self.folder}: tensor '{name}' is missing (for '{ours}')")
        self._used.add(name)
        with safe_open(self._file_of[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def check_all_used(self) -> None:
        """A tensor that nothing reads is a part of the model that is not built."""
        left = [n for n in self._file_of if n not in self._used and not _DERIVED.search(n)]
        # Some files repeat a tied embedding as the head.
        left = [n for n in left if n != "lm_head.weight"]
        if left:
            raise BadModelFolder(
                f"{self.folder}: {len(left)} tensors have no place in the model that config.json "
                f"describes: {', '.join(sorted(left)[:3])}"
            )


def _own_tensors(model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, a tied head left out."""
    for name, tensor in model.state_dict().items():
        if not (name == "head.weight" and model.config.tied_embeddings):
            yield name, tensor


def _fill(layout: Layout, name: str) -> Stored:
    """The layout's line for a tensor, the layer's number filled in (``{e}`` stays)."""
    template = re.sub(r"^layers\.\d+\.", "layers.{i}.", name)
    if template not in layout:
        raise BadModelFolder(f"tensor '{name}' has no name in this family's layout")
    number = re.match(r"layers\.(\d+)\.", name)
    line = layout[template]
    layer = number.group(1) if number else ""
    return Stored(tuple(n.replace("{i}", layer) for n in line.names), line.form)


def _sources(
    model: LanguageModel, files: TensorSource, layouts: tuple[Layout, ...]
) -> dict[str, Stored]:
    """Every tensor's line, from the layout that the files match best."""
    tables = [{name: _fill(layout, name) for name, _ in _own_tensors(model)} for layout in layouts]
    return max(
        tables, key=lambda t: sum(n.format(e=0) in files for line in t.values() for n in line.names)
    )


def _part_sizes(name: str, source: Stored, shape: torch.Size, config: ModelConfig) -> list[int]:
    """Rows that each stored tensor gives."""
    count = len(source.names)
    if ".qkv." in name and count == 3 and config.attention is not None:
        a = config.attention
        return [n * a.head_dim for n in (a.heads, a.kv_heads, a.kv_heads)]
    return [shape[0] // count] * count


def _read(
    name: str, source: Stored, shape: torch.Size, files: TensorSource, config: ModelConfig
) -> Tensor:
    stacked = "{e}" in source.names[0]
    inner = shape[1:] if stacked else shape
    sizes = _part_sizes(name, source, inner, config)
    rows = []
    for expert in range(shape[0] if stacked else 1):
        parts = []
        for template, size in zip(source.names, sizes, strict=True):
            stored_name = template.format(e=expert)
            raw = files.read(stored_name, name)
            part, wanted = source.form.read(raw), (size, *inner[1:])
            if part.shape != wanted:
                raise BadModelFolder(
                    f"{files}: tensor '{stored_name}' has shape {list(raw.shape)}, which "
                    f"gives {list(part.shape)} for '{name}'; the model asks for {list(wanted)}"
                )
            parts.append(part)
        rows.append(torch.cat(parts) if len(parts) > 1 else parts[0])
    return torch.stack(rows) if stacked else rows[0]
