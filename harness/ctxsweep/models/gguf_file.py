"""The weights of a GGUF file in the native model, whatever they are quantised to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.gguf_config import ROPE_TENSORS, config_from_gguf
from ctxsweep.models.gguf_index import BadGguf, StoredAt, read_index
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.weight_layouts import Layout, stored
from ctxsweep.models.weights import read_into

_BLOCK = "blk.{i}."
_COMMON: Layout = {
    "embedding.weight": stored("token_embd.weight"),
    "norm.weight": stored("output_norm.weight"),
    "head.weight": stored("output.weight"),
    "layers.{i}.mixer_norm.weight": stored(_BLOCK + "attn_norm.weight"),
    "layers.{i}.ffn_norm.weight": stored(_BLOCK + "ffn_norm.weight"),
    **{
        f"layers.{{i}}.{ours}.{part}": stored(*(f"{_BLOCK}{name}.{part}" for name in theirs))
        for ours, theirs in (
            ("mixer.qkv", ("attn_q", "attn_k", "attn_v")),
            ("mixer.out", ("attn_output",)),
            ("ffn.gate_up", ("ffn_gate", "ffn_up")),
            ("ffn.down", ("ffn_down",)),
        )
        for part in ("weight", "bias")
    },
}
_FUSED: Layout = {
    **_COMMON,
    "layers.{i}.mixer.qkv.weight": stored(_BLOCK + "attn_qkv.weight"),
    "layers.{i}.ffn.gate_up.weight": stored(_BLOCK + "ffn_up.weight"),
}
LAYOUTS = {"llama": (_COMMON,), "qwen2": (_COMMON,), "phi3": (_FUSED,)}


class GgufTensors:
    """The tensors of a file, mapped into memory, each dequantised to float32 when it is read.

    llama.cpp's order of the rows of q and k (RoPE's pairs side by side, in a llama) is undone.
    """

    def __init__(self, path: Path) -> None:
        self._index = read_index(path)
        self.family = self._index.metadata["general.architecture"]
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self._left = set(self._index.tensors) - ROPE_TENSORS

    def __str__(self) -> str:
        return str(self._index.path)

    def __contains__(self, name: str) -> bool:
        return name in self._index.tensors

    def read(self, name: str, ours: str) -> Tensor:
        """One tensor in float32; ``ours`` is what it is needed for. Raises ``BadGguf``."""
        where = self._index.tensors.get(name)
        if where is None:
            raise BadGguf(f"{self}: tensor '{name}' is missing (for '{ours}')")
        self._left.discard(name)
        tensor = torch.from_numpy(self._dequantised(name, where))
        metadata, part = self._index.metadata, name.split(".")[-2]
        if self.family == "llama" and part in ("attn_q", "attn_k"):
            heads = metadata["llama.attention.head_count"]
            if part == "attn_k":
                heads = metadata.get("llama.attention.head_count_kv", heads)
            return _halves_apart(tensor, heads)
        return tensor

    def _dequantised(self, name: str, where: StoredAt) -> np.ndarray:
        import gguf

        try:
            kind = gguf.GGMLQuantizationType(where.kind)
            shape = gguf.quant_shape_to_byte_shape(where.shape, kind)
            size = int(np.prod(shape))
            raw = self._bytes[where.offset : where.offset + size].reshape(shape)
            return np.array(gguf.dequantize(raw, kind), dtype=np.float32)
        except (NotImplementedError, ValueError) as error:
            raise BadGguf(f"{self}: tensor '{name}' cannot be read: {error}") from error

    def check_all_used(self) -> None:
        """A tensor that nothing reads is a part of the model that is not built."""
        if self._left:
            raise BadGguf(
                f"{self}: {len(self._left)} tensors have no place in the model: "
                f"{', '.join(sorted(self._left)[:3])}"
            )


def load_gguf(
    path: Path, dtype: torch.dtype, device: torch.device, config: ModelConfig | None = None
) -> LanguageModel:
    """The model of a file; ``config`` replaces the file's own where settings are overridden.

    Raises:
        BadGguf: a tensor is missing, of an unknown type or not of the model.
        BadModelFolder: a tensor has another shape.
    """
    model = build(config or config_from_gguf(path), 0, dtype, device)
    files = GgufTensors(path)
    read_into(model, files, LAYOUTS[files.family])
    return model


def _halves_apart(rows: Tensor, heads: int) -> Tensor:
    """Rows of each head: from pairs of dimensions side by side to first halves, then second."""
    pairs = rows.view(heads, -1, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)
