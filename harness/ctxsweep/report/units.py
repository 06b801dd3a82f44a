"""Figures for people: one table of units serves text, chart axes and tooltips alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A quantity with its steps: ``(size of the step, suffix)``, smallest first.

    ``base`` says where round figures lie: 2 for bytes and tokens, 10 for all else.
    """

    name: str
    steps: tuple[tuple[float, str], ...]
    base: int = 10

    def text(self, value: float) -> str:
        """``value`` with three significant digits in the largest step that it reaches."""
        size, suffix = self._step(abs(value))
        return f"{_digits(value / size)}{suffix}"

    def label_expr(self) -> str:
        """The same as a Vega expression over ``datum.value``, for the labels of an axis."""
        size, suffix = self.steps[0]
        expr = f"format(datum.value/{size!r},',.3~r')+'{suffix}'"
        for size, suffix in self.steps[1:]:
            label = f"format(datum.value/{size!r},',.3~r')+'{suffix}'"
            expr = f"abs(datum.value)>={size!r}?{label}:({expr})"
        return f"datum.value==0?'0':({expr})"

    def _step(self, value: float) -> tuple[float, str]:
        # 0.9995 so that 1023.99 KiB is read as 1 MiB, not as "1,024 KiB".
        reached = [step for step in self.steps if value >= step[0] * 0.9995]
        return reached[-1] if reached else self.steps[0]


def _digits(value: float) -> str:
    """Three significant digits, thousands apart, no exponent."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


BYTES = Unit(
    "bytes",
    ((1.0, " B"), (2.0**10, " KiB"), (2.0**20, " MiB"), (2.0**30, " GiB"), (2.0**40, " TiB")),
    base=2,
)
SECONDS = Unit("seconds", ((1e-9, " ns"), (1e-6, " µs"), (1e-3, " ms"), (1.0, " s")))
TOKENS = Unit("tokens", ((1.0, ""), (1024.0, "K"), (2.0**20, "M")), base=2)
TOKENS_PER_S = Unit("tokens/s", ((1.0, " tok/s"),))
JOULES = Unit("joules", ((1e-6, " µJ"), (1e-3, " mJ"), (1.0, " J"), (1e3, " kJ")))
WATTS = Unit("watts", ((1.0, " W"),))
FLOPS = Unit("FLOP/s", ((1.0, " FLOP/s"), (1e9, " GFLOP/s"), (1e12, " TFLOP/s")))
BYTES_PER_S = Unit("bytes/s", ((1.0, " B/s"), (1e6, " MB/s"), (1e9, " GB/s"), (1e12, " TB/s")))
SHARE = Unit("share", ((0.01, "%"),))
PLAIN = Unit("", ((1.0, ""),))

# How a name in METRICS ends tells its unit; the longest ending that fits wins.
SUFFIXES: dict[str, Unit] = {
    "bytes": BYTES,
    "bytes_per_token": BYTES,
    "_s": SECONDS,
    "_tps": TOKENS_PER_S,
    "_j": JOULES,
    "joules_per_prompt_token": JOULES,
    "joules_per_generated_token": JOULES,
    "_w": WATTS,
    "mfu_prefill": SHARE,
    "mbu_decode": SHARE,
}


def unit_of(metric: str) -> Unit:
    """The unit that a metric's name bears."""
    fitting = [suffix for suffix in SUFFIXES if metric.endswith(suffix)]
    return SUFFIXES[max(fitting, key=len)] if fitting else PLAIN


def log_ticks(low: float, high: float, base: int, most: int = 8) -> list[float]:
    """Round figures within ``[low, high]``, evenly spread on a log axis, ``most`` at most."""
    if base == 2:
        first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
        step = max(1, math.ceil((last - first + 1) / most))
        start = math.ceil(first / step) * step
        return [2.0**power for power in range(start, last + 1, step)]
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    for factors in (range(1, 10), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [f * 10.0**p for p in range(first, last + 1) for f in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def linear_ticks(high: float, base: int, most: int = 6) -> list[float]:
    """Round figures from 0 to ``high``; powers of two apart for bytes and tokens."""
    if base == 2:
        step = 2.0 ** math.ceil(math.log2(high / most))
    else:
        rough = high / most
        scale = 10.0 ** math.floor(math.log10(rough))
        step = next(scale * f for f in (1, 2, 5, 10) if scale * f >= rough * 0.9999)
    return [step * i for i in range(math.floor(high / step * 1.0001) + 1)]


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart to at least ``gap``, in order, as little as needed, within bounds.

    Clusters of overlapping labels are merged and centred on the mean of what they label.
    """
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    clusters: list[list[int]] = []
    for index in order:
        clusters.append([index])
        while len(clusters) > 1 and _start(clusters[-1], values, gap, low, high) < (
            _start(clusters[-2], values, gap, low, high) + len(clusters[-2]) * gap
        ):
            last = clusters.pop()
            clusters[-1] += last
    placed = list(values)
    for cluster in clusters:
        start = _start(cluster, values, gap, low, high)
        for rank, index in enumerate(cluster):
            placed[index] = start + rank * gap
    return placed


def _start(
    cluster: list[int], values: Sequence[float], gap: float, low: float, high: float
) -> float:
    length = (len(cluster) - 1) * gap
    middle = sum(values[i] for i in cluster) / len(cluster)
    return max(low, min(middle - length / 2, high - length))
