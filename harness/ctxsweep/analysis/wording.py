"""Quantities and contexts as people write them."""

from __future__ import annotations

import math

_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
_BINARY = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))


def context_label(tokens: float) -> str:
    """``131072`` → ``128K``, ``1000`` → ``1000``, ``1536`` → ``1.5K``."""
    thousands = tokens / 1024
    if thousands >= 1 and (thousands * 4).is_integer():
        return f"{thousands:g}K"
    return f"{tokens:.0f}"


def quantity(value: float, unit: str) -> str:
    """Three digits with a prefix: ``2.1 ms``, ``0.31 µs``, ``512 MiB``; plain for other units."""
    if value == 0:
        return f"0 {unit}".strip()
    size = abs(value)
    if unit == "bytes":
        for factor, name in _BINARY:
            if size >= factor:
                return f"{value / factor:.3g} {name}"
        return f"{value:.0f} bytes" if float(value).is_integer() else f"{value:.3g} bytes"
    if unit not in ("s", "J", "W", "FLOP/s", "bytes/s"):
        return f"{value:.3g} {unit}".strip()
    for factor, prefix in _SI:
        if size >= factor * (1 - 1e-9):
            return f"{_three(value / factor)} {prefix}{unit}"
    return f"{_three(value / 1e-9)} n{unit}"


def _three(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 3)}f}" if abs(value) < 1000 else f"{value:.0f}"


def signed(value: float) -> str:
    """A difference of losses: ``+0.008``, ``−0.010``, ``+2.65``; ``0`` if it is exactly that."""
    if value == 0:
        return "0"
    text = f"{abs(value):.{3 if abs(value) < 0.9995 else 2}f}"
    sign = "" if float(text) == 0 else "+" if value > 0 else "−"
    return sign + text


def listed(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
