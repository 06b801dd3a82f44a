"""RWKV-7 checkpoints to our weights, and back.

A table says which tensor of the checkpoint is which of ours. ``{layer}`` stands for every layer;
a native tensor that stacks several of the checkpoint's takes each as one ``row``. (Mamba needs
no table: its parameters have the names and shapes that transformers gives them.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

import torch
from torch import Tensor

from ctxsweep.models.config import ModelConfig

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How a tensor's values or shape differ; each function undoes the other."""

    to_native: Callable[[Tensor], Tensor]
    to_checkpoint: Callable[[Tensor], Tensor]


SAME = Layout(lambda t: t, lambda t: t)
TRANSPOSED = Layout(lambda t: t.mT, lambda t: t.mT)
VECTOR = Layout(torch.flatten, lambda t: t.view(1, 1, -1))  # [1, 1, C]
MIX = Layout(lambda t: t.view(1, 1, -1), lambda t: t)  # [1, 1, C] on both sides, in any rank


@dataclass(frozen=True)
class Entry:
    """One tensor of the checkpoint (``theirs``) and its native counterpart (``ours``)."""

    theirs: str
    ours: str
    layout: Layout = SAME
    row: int | None = None
    first_layer: int = 0


def _low_rank(letter: str, native: str, bias: bool = True, first_layer: int = 0) -> list[Entry]:
    theirs, ours = f"blocks.{{layer}}.att.{letter}", f"layers.{{layer}}.mixer.{native}"
    entries = [
        Entry(f"{theirs}1", f"{ours}.0.weight", TRANSPOSED, first_layer=first_layer),
        Entry(f"{theirs}2", f"{ours}.2.weight", TRANSPOSED, first_layer=first_layer),
    ]
    if bias:
        entries.append(Entry(f"{theirs}0", f"{ours}.2.bias", VECTOR, first_layer=first_layer))
    return entries


# RWKV-7's own checkpoints, as the rwkv package reads them
RWKV7 = (
    Entry("emb.weight", "embedding.weight"),
    *(
        Entry(f"{theirs}.{part}", f"{ours}.{part}")
        for theirs, ours in (
            ("blocks.0.ln0", "embedding_norm"),
            ("blocks.{layer}.ln1", "layers.{layer}.mixer_norm"),
            ("blocks.{layer}.ln2", "layers.{layer}.ffn_norm"),
            ("ln_out", "norm"),
        )
        for part in ("weight", "bias")
    ),
    *(
        Entry(f"blocks.{{layer}}.att.x_{letter}", "layers.{layer}.mixer.mix", MIX, row)
        for row, letter in enumerate("rkvwag")
    ),
    *(
        Entry(f"blocks.{{layer}}.att.{name}.weight", "layers.{layer}.mixer.projections", row=row)
        for row, name in enumerate(("receptance", "key", "value"))
    ),
    *_low_rank("w", "decay"),
    *_low_rank("a", "rate"),
    *_low_rank("v", "value", first_layer=1),
    *_low_rank("g", "gate", bias=False),
    *(
        Entry(f"blocks.{{layer}}.att.{theirs}", f"layers.{{layer}}.mixer.{ours}", layout)
        for theirs, ours, layout in (
            ("k_k", "removal_scale", VECTOR),
            ("k_a", "rate_scale", VECTOR),
            ("r_k", "bonus", SAME),
            ("ln_x.weight", "norm_weight", SAME),
            ("ln_x.bias", "norm_bias", SAME),
            ("output.weight", "out_proj.weight", SAME),
        )
    ),
    Entry("blocks.{layer}.ffn.x_k", "layers.{layer}.ffn.mix", VECTOR),
    Entry("blocks.{layer}.ffn.key.weight", "layers.{layer}.ffn.up.weight"),
    Entry("blocks.{layer}.ffn.value.weight", "layers.{layer}.ffn.down.weight"),
    Entry("head.weight", "head.weight"),
)

# Published RWKV-7 checkpoints hold these although layer 0 has no lower layer to mix values with.
UNUSED = frozenset(f"blocks.0.att.v{i}" for i in range(3))


def _entries(config: ModelConfig) -> Iterator[Entry]:
    """The table with the model's layers filled in.

    Raises:
        ValueError: the model is not a pure stack of RWKV-7 layers.
    """
    if set(config.layer_mixers()) != {"rwkv7"}:
        raise ValueError(
            f"model '{config.name}': RWKV-7 checkpoints fit mixer 'rwkv7' without attention_every,"
            f" not mixer '{config.mixer}'"
        )
    for entry in RWKV7:
        if "{layer}" not in entry.theirs:
            yield entry
            continue
        for i in range(entry.first_layer, config.num_layers):
            theirs, ours = (n.replace("{layer}", str(i)) for n in (entry.theirs, entry.ours))
            yield replace(entry, theirs=theirs, ours=ours)


def rwkv7_to_native(checkpoint: Tensors, config: ModelConfig) -> dict[str, Tensor]:
    """A checkpoint's tensors as a ``LanguageModel`` state dict.

    Raises:
        ValueError: a tensor is missing, or one is there that the model has no place for.
    """
    entries = list(_entries(config))
    _check_names(checkpoint, {entry.theirs for entry in entries}, config)
    native: dict[str, Tensor] = {}
    rows: dict[str, list[Tensor]] = {}
    for entry in entries:
        tensor = entry.layout.to_native(checkpoint[entry.theirs])
        if entry.row is None:
            native[entry.ours] = tensor
        else:  # rows of one tensor stand in the table in their order
            rows.setdefault(entry.ours, []).append(tensor)
    return native | {name: torch.stack(tensors) for name, tensors in rows.items()}


def rwkv7_to_checkpoint(native: Tensors, config: ModelConfig) -> dict[str, Tensor]:
    """The inverse of ``rwkv7_to_native``: contiguous tensors under the checkpoint's names."""
    checkpoint = {}
    for entry in _entries(config):
        tensor = native[entry.ours]
        part = tensor if entry.row is None else tensor[entry.row]
        checkpoint[entry.theirs] = entry.layout.to_checkpoint(part).contiguous()
    return checkpoint


def _check_names(checkpoint: Tensors, expected: set[str], config: ModelConfig) -> None:
    missing = sorted(expected - checkpoint.keys())
    extra = sorted(checkpoint.keys() - expected - UNUSED)
    if missing:
        nearest = get_close_matches(missing[0], checkpoint, n=1)
        hint = f"; nearest there: '{nearest[0]}'" if nearest else ""
        raise ValueError(
            f"weights of '{config.name}': tensor '{missing[0]}' is missing"
            f" ({len(missing)} in all){hint}"
        )
    if extra:
        raise ValueError(
            f"weights of '{config.name}': tensor '{extra[0]}' has no place in the model"
            f" ({len(extra)} in all); check num_layers = {config.num_layers}"
        )
