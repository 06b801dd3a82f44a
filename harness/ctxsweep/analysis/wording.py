"""Quantities and contexts as people write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ctxsweep.analysis.interval import Estimate

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


def nats(estimate: Estimate | None, unit: str = "") -> str:
    """``+0.008 (−0.010 to +0.026)``, with ``unit`` after the value."""
    return "–" if estimate is None else _with_interval(estimate, signed, unit)


def plus_minus(estimate: Estimate | None) -> str:
    """``+0.008 ±0.018``: the wider side of the interval."""
    if estimate is None:
        return "–"
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return signed(estimate.value)
    half = max(estimate.value - estimate.low, estimate.high - estimate.value)
    return f"{signed(estimate.value)} ±{half:.3f}"


def times(ratio: Estimate | None, interval: bool = True) -> str:
    """``1.02× (1.01 to 1.03)``; from 10 on three digits: ``167×``."""
    if ratio is None:
        return "–"
    return _with_interval(ratio if interval else Estimate(value=ratio.value), _ratio, "×")


def _ratio(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{decimals}f}"


def _with_interval(estimate: Estimate, text: Callable[[float], str], unit: str) -> str:
    value, low, high = text(estimate.value) + unit, estimate.low, estimate.high
    if low is None or high is None or low == high:
        return value
    return f"{value} ({text(low)} to {text(high)})"


def listed(names: Sequence[str], word: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``; or with another ``word``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def one_of(names: Sequence[str], most: int = 4) -> str:
    """``a, b or c``; past ``most`` of them ``a, b, c, d or 2 others``."""
    more = len(names) - most
    if more <= 0:
        return listed(names, "or")
    return listed([*names[:most], f"{more} other{'s' if more > 1 else ''}"], "or")
