"""Synthetic records: what a sweep would store of a machine that follows a known law."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ctxsweep.records import (
    Ceilings,
    Cell,
    Cost,
    MemoryReading,
    Power,
    Record,
    Sample,
    Series,
    Status,
)

CHUNK = 512
WEIGHTS = 10_000_000
Law = Callable[[float], float]


def build_record(
    series: str = "mha",
    context: int = 4096,
    *,
    status: Status = Status.OK,
    chunk_s: Law = lambda position: 0.01,
    step_s: Law = lambda context: 0.002,
    cache: Callable[[int], int] = lambda tokens: 1024 * tokens,
    formula: Callable[[int], int] | None = None,
    per_token: float = 1024.0,
    climbs: int = 1,
    steps: int = 32,
    batch_size: int = 1,
    noise: float = 0.0,
    seed: int = 0,
    role: str = "measure",
    occurrence: int = 0,
    climb_s: float | None = None,
    power: Power | None = None,
    detail: str = "",
) -> Record:
    """One record whose times and bytes follow the given laws, with relative noise on times."""
    rng = np.random.default_rng([seed, context, sum(map(ord, series)), occurrence])

    def jitter() -> float:
        return float(max(0.1, 1 + noise * rng.standard_normal()))

    samples = [
        Sample(
            phase="prefill",
            position=at,
            tokens=CHUNK,
            wall_s=(wall := chunk_s(at) * jitter()),
            cpu_s=wall,
            repeat=repeat,
        )
        for repeat in range(climbs)
        for at in range(0, context, CHUNK)
    ] + [
        Sample(
            phase="decode",
            position=context + i,
            tokens=1,
            wall_s=(wall := step_s(context) * jitter()),
            cpu_s=wall,
        )
        for i in range(steps)
    ]
    readings = [("prefill", at) for at in range(CHUNK, context + 1, CHUNK)] + [
        ("decode", context + 16)
    ]
    ok = status is Status.OK
    formula = formula or cache
    return Record(
        cell=Cell(
            scenario="synthetic",
            series=Series(name=series, model="synthetic"),
            context_tokens=context,
            generate_tokens=steps,
            batch_size=batch_size,
            procedure="ladder",
            role=role,  # type: ignore[arg-type]
            occurrence=occurrence,
        ),
        status=status,
        detail=detail,
        samples=tuple(samples) if ok else (),
        memory=tuple(
            MemoryReading(
                phase=phase,  # type: ignore[arg-type]
                position=at,
                weights_bytes=WEIGHTS,
                cache_used_bytes=cache(at) * batch_size,
                cache_reserved_bytes=2 * cache(at) * batch_size,
                process_bytes=WEIGHTS + cache(at),
                process_peak_bytes=WEIGHTS + 2 * cache(at),
            )
            for phase, at in readings
        )
        if ok
        else (),
        cost=Cost(
            parameters=2_500_000,
            prefill_flops=1e9,
            prefill_bytes=1e8,
            decode_flops=1e7,
            decode_bytes=2e7,
            cache_bytes=formula(context) * batch_size,
            cache_bytes_per_token=per_token,
        ),
        ceilings=Ceilings(
            device="cpu",
            threads=1,
            matmul_flops_per_s={"float32": 1e11},
            read_bytes_per_s=2e10,
        ),
        power=power,
        climb_s=climb_s,
        started_at=f"2026-01-01T00:00:{occurrence:02d}Z",
    )
