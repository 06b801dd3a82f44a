"""RWKV's own checkpoints (``.pth``), as the rwkv package reads them: RWKV-7 in and out, RWKV-6
drawn."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ctxsweep.models.accounting_recurrent import rwkv6_ffn_size
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_config import BadModelFolder
from ctxsweep.models.language_model import LanguageModel, build
from ctxsweep.models.weight_layouts import TRANSPOSED, Form, Layout, stored
from ctxsweep.models.weights import read_into, stored_tensors

VECTOR = Form(torch.flatten, lambda t: t.view(1, 1, -1))  # [1, 1, C]
MIX = Form(lambda t: t.view(1, 1, 1, -1), lambda t: t.view(1, 1, -1))  # [1, 1, C], one of several
STACKED = Form(lambda t: t[None], lambda t: t[0])  # a matrix, one of several

_ATT, _FFN = "blocks.{i}.att.", "blocks.{i}.ffn."
_LOW_RANK = {"w": "decay", "a": "rate", "v": "value", "g": "gate"}  # theirs: letter and 1, 2, 0

RWKV7: Layout = {
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
    "layers.{i}.mixer.mix": stored(*(f"{_ATT}x_{letter}" for letter in "rkvwag"), form=MIX),
    "layers.{i}.mixer.projections": stored(
        *(f"{_ATT}{name}.weight" for name in ("receptance", "key", "value")), form=STACKED
    ),
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
    "layers.{i}.mixer.norm_weight": stored(f"{_ATT}ln_x.weight"),
    "layers.{i}.mixer.norm_bias": stored(f"{_ATT}ln_x.bias"),
    "layers.{i}.mixer.out_proj.weight": stored(f"{_ATT}output.weight"),
    "layers.{i}.ffn.mix": stored(f"{_FFN}x_k", form=VECTOR),
    "layers.{i}.ffn.up.weight": stored(f"{_FFN}key.weight"),
    "layers.{i}.ffn.down.weight": stored(f"{_FFN}value.weight"),
}

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


def load_rwkv7(
    path: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> LanguageModel:
    """The native model of an RWKV-7 checkpoint.

    Raises:
        BadModelFolder: a tensor is missing, has another shape or is not of the model.
    """
    model = build(config, 0, dtype, device)
    read_into(model, PthTensors(path), (RWKV7,))
    return model


def write_random(path: Path, config: ModelConfig, seed: int, dtype: torch.dtype) -> None:
    """A checkpoint of a pure stack of RWKV layers; RWKV-7's weights are the native model's."""
    if config.mixer == "rwkv6":
        tensors = {name: tensor.to(dtype) for name, tensor in draw_rwkv6(config, seed).items()}
    else:
        tensors = stored_tensors(build(config, seed, dtype, torch.device("cpu")), RWKV7)
    torch.save(tensors, path)


def draw_rwkv6(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Random weights of an RWKV-6 model (arXiv 2404.05892), float32.

    Matrices are uniform within ±inputs^-½, the low-rank parts too, so that token shift and decay
    do depend on the data; decays spread over the channels as in the native RWKV-7.
    """
    section, hidden, vocabulary = config.rwkv6, config.hidden_size, config.vocab_size
    assert section is not None
    draw = _Draw(seed)
    tensors = {"emb.weight": draw.normal(vocabulary, hidden), **_norm("blocks.0.ln0", hidden)}
    for layer in range(config.num_layers):
        block = f"blocks.{layer}."
        tensors |= _norm(f"{block}ln1", hidden) | _norm(f"{block}ln2", hidden)
        att = f"{block}att."
        tensors |= {f"{att}time_maa_{letter}": draw.mix(hidden) for letter in "xwkvrg"}
        tensors |= {
            f"{att}time_maa_w1": draw.linear(5 * section.mix_rank, hidden).T.contiguous(),
            f"{att}time_maa_w2": draw.linear(5, hidden, section.mix_rank).mT.contiguous(),
            f"{att}time_decay": torch.linspace(-6, -1, hidden).view(1, 1, -1),
            f"{att}time_decay_w1": draw.linear(section.decay_rank, hidden).T.contiguous(),
            f"{att}time_decay_w2": draw.linear(hidden, section.decay_rank).T.contiguous(),
            f"{att}time_faaaa": 0.3 * draw.normal(hidden // section.head_dim, section.head_dim),
        }
        for name in ("receptance", "key", "value", "gate", "output"):
            tensors[f"{att}{name}.weight"] = draw.linear(hidden, hidden)
        tensors |= _norm(f"{att}ln_x", hidden)
        tensors |= _channel_mix(draw, f"{block}ffn.", hidden, rwkv6_ffn_size(config))
    return tensors | _norm("ln_out", hidden) | {"head.weight": draw.linear(vocabulary, hidden)}


class _Draw:
    """Random tensors from a generator of their own."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def mix(self, hidden: int) -> Tensor:
        return torch.rand((1, 1, hidden), generator=self._generator)

    def linear(self, *shape: int) -> Tensor:
        """``[..., outputs, inputs]``."""
        bound = 1 / math.sqrt(shape[-1])
        return torch.empty(shape).uniform_(-bound, bound, generator=self._generator)


def _norm(name: str, hidden: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.ones(hidden), f"{name}.bias": torch.zeros(hidden)}


def _channel_mix(draw: _Draw, ffn: str, hidden: int, size: int) -> dict[str, Tensor]:
    return {
        f"{ffn}time_maa_k": draw.mix(hidden),
        f"{ffn}time_maa_r": draw.mix(hidden),
        f"{ffn}key.weight": draw.linear(size, hidden),
        f"{ffn}receptance.weight": draw.linear(hidden, hidden),
        f"{ffn}value.weight": draw.linear(hidden, size),
    }
