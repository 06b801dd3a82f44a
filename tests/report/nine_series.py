"""A summary as a real run would give it: nine series from 1K to 128K, made up and seeded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctxsweep.analysis.summary import (
    CacheCheck,
    CellSummary,
    Crossover,
    Drift,
    Estimate,
    GrowthPoint,
    LadderCost,
    MetricInfo,
    Summary,
    Verdict,
)
from ctxsweep.records import Ceilings, Environment, Series, Status

CONTEXTS = [1024 * 2**i for i in range(8)]
KIB, MIB = 1024, 1024**2
WINDOW = 1024


@dataclass(frozen=True)
class Shape:
    """How a made-up series costs: seconds and bytes per token, and constants."""

    name: str
    cache_per_token: float
    state: int = 0
    window: int | None = None
    weights: int = 90 * MIB
    decode_s: tuple[float, float] = (8e-3, 0.0)
    prefill_s: tuple[float, float] = (2e-4, 0.0)

    def cache(self, context: int) -> int:
        return int(self.state + self.cache_per_token * min(context, self.window or context))

    def decode(self, context: int) -> float:
        return self.decode_s[0] + self.decode_s[1] * min(context, self.window or context)

    def prefill(self, context: int) -> float:
        return self.prefill_s[0] * context + self.prefill_s[1] * context**2


SHAPES = (
    Shape("gqa", 8 * KIB, decode_s=(8e-3, 2.6e-7), prefill_s=(2e-4, 1.6e-9)),
    Shape("mqa", 2 * KIB, decode_s=(7.9e-3, 1.1e-7), prefill_s=(1.9e-4, 1.5e-9)),
    Shape("gqa-fp8", 2 * KIB, decode_s=(8.4e-3, 4.2e-7), prefill_s=(2.1e-4, 1.8e-9)),
    Shape("window", 8 * KIB, window=WINDOW, decode_s=(8e-3, 2.6e-7), prefill_s=(2.4e-4, 0)),
    Shape("mamba2", 0, state=3 * MIB, decode_s=(6.5e-3, 0), prefill_s=(3.1e-4, 0)),
    Shape("rwkv7", 0, state=1 * MIB, decode_s=(9.5e-3, 0), prefill_s=(4.2e-4, 0)),
    Shape("retnet", 0, state=4 * MIB, decode_s=(8.8e-3, 0), prefill_s=(2.8e-4, 0)),
    Shape("hybrid", 2 * KIB, state=2 * MIB, decode_s=(7e-3, 6e-8), prefill_s=(2.9e-4, 4e-10)),
    Shape("moe", 8 * KIB, weights=300 * MIB, decode_s=(1.4e-2, 2.6e-7), prefill_s=(3.6e-4, 1.7e-9)),
)
METRICS = (
    MetricInfo(name="prefill_s", unit="s", better="lower", description="Time in prefill alone."),
    MetricInfo(name="prefill_tps", unit="tokens/s", better="higher", description="Prefill rate."),
    MetricInfo(
        name="itl_s", unit="s", better="lower", description="Median time between two tokens."
    ),
    MetricInfo(
        name="cache_used_bytes", unit="bytes", better="lower", description="Cache or state."
    ),
    MetricInfo(
        name="mfu_prefill", unit="1", better="higher", description="Share of the FLOP/s ceiling."
    ),
    MetricInfo(name="mbu_decode", unit="1", better="higher", description="Share of the bandwidth."),
)


def _status(name: str, context: int) -> tuple[Status, str]:
    if name == "moe" and context >= 65536:
        return Status.OOM, "The worker passed its memory limit of 6.0 GiB; raise memory_limit."
    if name == "gqa-fp8" and context == 131072:
        return Status.OVER_BUDGET, "Predicted 61 s of prefill, the cell's budget is 45 s."
    return Status.OK, ""


def _around(value: float, rng: np.random.Generator, noise: float = 0.015) -> Estimate:
    shift = 1 + noise * float(rng.normal())
    half = noise * (1 + float(rng.random()))
    middle = value * shift
    return Estimate(value=middle, low=middle * (1 - half), high=middle * (1 + half), n=9)


def _cell(shape: Shape, context: int, rng: np.random.Generator) -> CellSummary:
    status, detail = _status(shape.name, context)
    metrics: dict[str, Estimate] = {}
    if status is Status.OK:
        prefill = _around(shape.prefill(context), rng)
        assert prefill.low is not None and prefill.high is not None
        cache = shape.cache(context)
        metrics = {
            "prefill_s": prefill,
            "prefill_tps": Estimate(
                value=context / prefill.value,
                low=context / prefill.high,
                high=context / prefill.low,
                n=9,
            ),
            "itl_s": _around(shape.decode(context), rng, 0.03),
            "cache_used_bytes": Estimate(value=cache),
            "cache_reserved_bytes": Estimate(value=cache * 1.25),
            "weights_bytes": Estimate(value=shape.weights),
            "activations_peak_bytes": Estimate(value=6 * MIB + 24 * context),
            "process_peak_bytes": Estimate(value=250 * MIB + shape.weights + cache * 1.3),
            "mfu_prefill": _around(
                0.62 * shape.prefill_s[0] * context / shape.prefill(context), rng
            ),
            "mbu_decode": _around(0.35 + 0.4 * cache / (cache + shape.weights), rng),
        }
    return CellSummary(
        key=f"{shape.name}-{context}",
        series=shape.name,
        context_tokens=context,
        batch_size=1,
        procedure="ladder",
        status=status,
        detail=detail,
        stopped_by="noise" if context < 65536 else "time",
        contended_share=0.0 if context < 32768 else 0.11,
        outliers=1 if context == 8192 else 0,
        metrics=metrics,
    )


def _growth(shape: Shape, longest: int) -> tuple[GrowthPoint, ...]:
    points = [
        GrowthPoint(
            phase="prefill",
            position=position,
            cache_used_bytes=shape.cache(position),
            process_bytes=300 * MIB + shape.cache(position),
        )
        for position in range(512, longest + 1, 512)
    ]
    decode = [
        GrowthPoint(phase="decode", position=position, cache_used_bytes=shape.cache(position))
        for position in range(longest, longest + 65, 8)
    ]
    return (*points, *decode)


def _verdict(shape: Shape, metric: str) -> Verdict:
    a, b, c = {
        "cache_used_bytes": (shape.state, shape.cache_per_token, 0.0),
        "itl_s": (*shape.decode_s, 0.0),
        "prefill_s": (0.01, *shape.prefill_s),
    }[metric]
    flat = shape.window is not None and metric != "prefill_s"
    if flat:
        a, b = a + b * WINDOW, 0.0
    scaling = "O(n²)" if c else "O(n)" if b else "O(1)"
    slope = 1.7 if c else 0.8 if b else 0.01
    names = {"O(1)": "a", "O(n)": "ab", "O(n²)": "abc"}[scaling]
    held = dict(zip("abc", (a, b, c), strict=True))
    return Verdict(
        series=shape.name,
        batch_size=1,
        metric=metric,
        scaling="undecided" if (shape.name, metric) == ("retnet", "itl_s") else scaling,
        slope=Estimate(value=slope, low=slope - 0.04, high=slope + 0.05, n=1000),
        coefficients={
            name: Estimate(value=held[name], low=held[name] * 0.97, high=held[name] * 1.03, n=8)
            for name in names
        },
        bic={"O(1)": 12.0, "O(n)": -31.5, "O(n²)": -29.0},
        points=8,
        flat_beyond_tokens=WINDOW if flat else None,
        evidence=f"{scaling} has the lowest BIC, by 8.1; the slope over the top octaves agrees.",
    )


def build_environment() -> Environment:
    return Environment(
        machine="example",
        cpu_model="Example CPU @ 2.50GHz",
        cpu_flags=("avx2", "avx512f"),
        physical_cores=2,
        logical_cores=4,
        memory_bytes=16 * 1024**3,
        threads=2,
        device="cpu",
        python="3.11.9",
        os="Linux 6.1",
        versions={"torch": "2.13.0", "ctxsweep": "0.1.0"},
        commit="0123456789abcdef",
        dirty=True,
        load_average=0.4,
    )


def build_summary() -> Summary:
    """Nine series with one out of memory, one over its budget, and a window that stays flat."""
    rng = np.random.default_rng(7)
    cells = tuple(_cell(shape, context, rng) for shape in SHAPES for context in CONTEXTS)
    longest = {
        shape.name: max(
            c.context_tokens for c in cells if c.series == shape.name and c.status is Status.OK
        )
        for shape in SHAPES
    }
    metrics = ("cache_used_bytes", "itl_s", "prefill_s")
    return Summary(
        schema_version=1,
        scenario="long_ctx",
        question="What does a longer context cost, in time and memory?",
        run_id="20250101T000000Z-0001",
        series=tuple(Series(name=shape.name, model=shape.name) for shape in SHAPES),
        metrics=METRICS,
        cells=cells,
        growth={shape.name: _growth(shape, longest[shape.name]) for shape in SHAPES},
        verdicts=tuple(_verdict(shape, metric) for shape in SHAPES for metric in metrics),
        cache=tuple(
            CacheCheck(
                series=shape.name,
                batch_size=1,
                measured_bytes_per_token=0 if shape.window else shape.cache_per_token,
                formula_bytes_per_token=0 if shape.window else shape.cache_per_token,
                difference_bytes=4096 if shape.name == "hybrid" else 0,
            )
            for shape in SHAPES
        ),
        crossovers=(
            Crossover(
                metric="itl_s",
                first="gqa",
                second="rwkv7",
                batch_size=1,
                context_tokens=Estimate(value=5800, low=4700, high=6900, n=1000),
                cheaper_below="gqa",
                cheaper_above="rwkv7",
                evidence="gqa is cheaper below 5.7K tokens, rwkv7 above.",
            ),
            Crossover(
                metric="prefill_s",
                first="gqa",
                second="moe",
                context_tokens=None,
                batch_size=1,
                evidence="No crossing between 1K and 32K tokens; gqa is cheaper throughout.",
            ),
        ),
        drift=(
            Drift(
                series="gqa",
                context_tokens=4096,
                metric="itl_s",
                values=(0.00911, 0.00905, 0.00942),
                started_at=("2025-01-01T00:00:01Z", "2025-01-01T00:04:00Z", "2025-01-01T00:08:00Z"),
                relative_spread=0.041,
            ),
        ),
        ladder=tuple(
            LadderCost(
                series=shape.name, batch_size=1, longest_prefill_s=30.0, climb_s=32.4, ratio=1.08
            )
            for shape in SHAPES
        ),
        ceilings={
            shape.name: Ceilings(
                device="cpu",
                threads=2,
                matmul_flops_per_s={"float32": 1.4e11, "bfloat16": 9.1e10},
                read_bytes_per_s=1.9e10,
            )
            for shape in SHAPES
        },
        environment=build_environment(),
        started_at="2025-01-01T00:00:00Z",
        elapsed_s=512.0,
    )
