"""A cache that never grows: the first tokens, and a ring of the last (arXiv 2309.17453)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ctxsweep.models.config import Attention
from ctxsweep.models.layers import StateSpec
from ctxsweep_kernels.paged_cache import bytes_per_token
from ctxsweep_kernels.paged_cache.storage import dequantise, has_scales, quantise


class StreamingState:
    """A layer's keys and values: S sinks, then a ring of the last W tokens, in ``kv_dtype``.

    ``stored`` is ``[2, B, Hkv, S + W, D]``, keys then values; ``scales [2, B, Hkv, S + W]``
    float32, for int8 only. Token j lies in slot j while j < S + W, then in S + (j − S) mod W.
    """

    def __init__(self, attention: Attention, spec: StateSpec) -> None:
        assert attention.window is not None and attention.sinks is not None
        self.sinks, self.window = attention.sinks, attention.window
        self.slots = self.sinks + self.window
        shape = (2, spec.batch_size, attention.kv_heads, self.slots)
        scaled = has_scales(spec.kv_dtype)
        self.stored = torch.empty(
            *shape, attention.head_dim, dtype=spec.kv_dtype, device=spec.device
        )
        self.scales = torch.empty(shape, device=spec.device) if scaled else None
        self.length = 0
        token_bytes = bytes_per_token(attention.kv_heads, attention.head_dim, spec.kv_dtype)
        self._slot_bytes = spec.batch_size * token_bytes

    @property
    def held(self) -> int:
        """Tokens that a sequence holds; they fill the first slots."""
        return min(self.length, self.slots)

    @property
    def used_bytes(self) -> int:
        return self.held * self._slot_bytes

    @property
    def reserved_bytes(self) -> int:
        return self.slots * self._slot_bytes

    def snapshot(self) -> object:
        return self.length, [part[:, :, :, : self.held].clone() for part in self._parts()]

    def restore(self, mark: object) -> None:
        assert isinstance(mark, tuple)
        self.length, copies = mark
        for part, copy in zip(self._parts(), copies, strict=True):
            part[:, :, :, : self.held] = copy

    def clear(self) -> None:
        self.length = 0

    def extend(self, kv: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Append ``kv [2, B, Hkv, T, D]``; gives the sinks, and the window of the T new tokens.

        ``[2, B, Hkv, n, D]`` each, in ``dtype``, as they are stored. The window's are in the text's
        order; for a single token, which sees all of them, they lie as in the ring, uncopied.
        """
        first, tokens = self.length, kv.shape[3]
        stored, scales = quantise(kv, self.stored.dtype)
        window: Tensor | None = None
        if tokens > 1:  # copied before the ring is written over
            past = self._read(max(self.sinks, first - self.window), first, dtype)
            new = slice(max(0, self.sinks - first), tokens)
            window = torch.cat([past, _values(stored, scales, new, dtype)], dim=3)
        self.length = first + tokens
        self._write(first, stored, scales)
        if window is None:
            window = self._read(self.sinks, self.held, dtype)
        return self._read(0, min(self.sinks, self.length), dtype), window

    def _read(self, first: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Tokens ``first .. stop - 1``: a view if they are stored in ``dtype`` in one run."""
        runs = [slot for slot, _ in self._runs(first, stop)] or [slice(0, 0)]
        pieces = [_values(self.stored, self.scales, slot, dtype) for slot in runs]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=3)

    def _write(self, first: int, stored: Tensor, scales: Tensor | None) -> None:
        """Put the tokens from ``first`` to the end where they belong; of many, the last W."""
        end = self.length
        for start, stop in (
            (first, min(end, self.sinks)),
            (max(first, self.sinks, end - self.window), end),
        ):
            for slot, token in self._runs(start, stop):
                given = slice(token.start - first, token.stop - first)
                self.stored[:, :, :, slot] = stored[:, :, :, given]
                if self.scales is not None and scales is not None:
                    self.scales[:, :, :, slot] = scales[:, :, :, given]

    def _runs(self, first: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """The slots of tokens ``first .. stop - 1``, run by run, and which tokens those are."""
        while first < stop:
            slot = first
            if first >= self.slots:
                slot = self.sinks + (first - self.sinks) % self.window
            count = min(stop - first, self.slots - slot)
            yield slice(slot, slot + count), slice(first, first + count)
            first += count

    def _parts(self) -> list[Tensor]:
        return [self.stored] if self.scales is None else [self.stored, self.scales]


def _values(stored: Tensor, scales: Tensor | None, part: slice, dtype: torch.dtype) -> Tensor:
    """Part of the tokens ``[2, B, Hkv, n, D]`` as values."""
    some = stored[:, :, :, part]
    if not some.shape[3]:
        return some.to(dtype)
    return dequantise(some, None if scales is None else scales[:, :, :, part], dtype)
