"""Histories as 60 nights of runs would leave them, made up and seeded."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from ctxsweep.analysis.history import Stamp, frame_of

START = datetime(2025, 3, 1, 2, 0, tzinfo=UTC)


def stamp(night: int, **changed: Any) -> Stamp:
    """The run of a night."""
    fields: dict[str, Any] = {
        "time": START + timedelta(days=night),
        "run_id": f"run-{night:03d}",
        "commit": f"{(night + 1) * 0x9E3779B97F4A7C15 % 2**64:016x}".ljust(40, "0"),
        "dirty": False,
        "machine": "2-core-amd-epyc",
        "scenario": "nightly",
    }
    return Stamp(**fields | changed)


def figure(**changed: Any) -> dict[str, Any]:
    """One figure of a run: decode of gqa at 8K, 2 ms."""
    return {
        "kind": "cell",
        "series": "gqa",
        "subject": "gqa at 8K",
        "metric": "itl_s",
        "unit": "s",
        "value": 0.002,
        "low": 0.0019,
        "high": 0.0021,
        "n": 64,
    } | changed


def history(
    nights: int,
    figures: list[dict[str, Any]],
    *,
    cv: float = 0.02,
    steps: Mapping[int, tuple[int, float]] | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Every figure every night, with noise of ``cv`` (none on bytes).

    ``steps``: of the figure at a place, the first night of the new level and its relative change.
    """
    rng = np.random.default_rng(seed)
    frames = []
    for night in range(nights):
        rows = []
        for index, base in enumerate(figures):
            first, change = (steps or {}).get(index, (nights, 0.0))
            factor = float(np.exp(cv * rng.standard_normal())) if base["unit"] != "bytes" else 1.0
            factor *= 1 + change if night >= first else 1.0
            scaled = {key: base[key] and base[key] * factor for key in ("value", "low", "high")}
            rows.append(base | scaled)
        frames.append(frame_of(stamp(night), rows))
    return pl.concat(frames)
