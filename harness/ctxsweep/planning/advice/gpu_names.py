"""Whether a GPU, by the name that its driver gives it, is a device of the table.

``NVIDIA L40S`` is no L4, ``NVIDIA H100 PCIe`` no H100 of the SXM kind, ``NVIDIA A100-SXM4-40GB``
not the one with 80 GB. A name with a word that is not known is another product: a laptop's, a
slice of one (MIG), an NVL.
"""

from __future__ import annotations

import re

from ctxsweep.planning.devices import Device

# Makers, product lines and kinds of memory: they come with every product of a kind or with none.
MAKERS = ("nvidia", "amd", "tesla", "geforce", "instinct", "oam")
KINDS = ("sxm", "sxm2", "sxm3", "sxm4", "sxm5", "hbm2", "hbm2e", "hbm3", "hbm3e")
SAID_ANYWAY = frozenset((*MAKERS, *KINDS))
_MEMORY = re.compile(r"(\d+)gb$")


def is_gpu(device: Device, gpu: str) -> bool:
    """Whether this is such a device: all words the same, and the memory where the name tells it."""
    words, held = _words(gpu)
    own, _ = _words(device.name)
    return words == own and held in (None, round(device.memory_bytes / 1e9))


def _words(name: str) -> tuple[frozenset[str], int | None]:
    """The words that tell products apart, and the memory in GB if it is among them."""
    joined = re.sub(r"(\d+) +gb\b", r"\1gb", name.lower())
    words = [word for word in re.split(r"[^a-z0-9.]+", joined) if word]
    held = [int(match[1]) for word in words if (match := _MEMORY.match(word))]
    kept = {word for word in words if word not in SAID_ANYWAY and not _MEMORY.match(word)}
    return frozenset(kept), held[0] if held else None
