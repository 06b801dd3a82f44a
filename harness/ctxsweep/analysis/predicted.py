"""Figures that were predicted, beside those that were measured: what the report is handed.

A prediction is a bound (what the roofline allows at the ceilings that the run measured), a formula
(bytes, from the configuration) or a calibration (this machine's own speeds, fitted to its runs).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Self

import numpy as np
from pydantic import Field

from ctxsweep.frozen import Frozen

PREDICTIONS_VERSION = 1
COVERED = 0.95

Basis = Literal["bound", "formula", "calibration"]
PredictedMetric = Literal["itl_s", "prefill_s", "held_bytes", "process_peak_bytes"]
"""Names of METRICS: a decode step, a prefill, weights and used cache, the process's peak."""
PREDICTED: tuple[PredictedMetric, ...] = (
    "itl_s",
    "prefill_s",
    "held_bytes",
    "process_peak_bytes",
)


class Errors(Frozen):
    """How far predictions lie from what was measured, as shares of the measured."""

    median: float = Field(ge=0)
    p90: float = Field(ge=0, description="9 of 10 cells lie nearer.")
    worst: float = Field(ge=0)
    cells: int = Field(ge=1)
    low: float = Field(gt=0, description="Measured over predicted, near its least.")
    high: float = Field(gt=0, description="Measured over predicted, near its most.")
    coverage: float = Field(
        ge=0, lt=1, description="Chance that another cell's lies between low and high."
    )

    @classmethod
    def of(cls, errors: Iterable[float]) -> Self | None:
        """Of signed relative errors (predicted / measured − 1, above −1); None of none.

        ``low`` and ``high`` are the innermost order statistics that cover ``COVERED`` of further
        cells like these, j to n + 1 − j covering 1 − 2j / (n + 1); below 39 cells that is the
        least and the most, and they cover less.
        """
        signed = np.sort(np.fromiter(errors, dtype=float))
        if not len(signed):
            return None
        sizes, count = np.abs(signed), len(signed)
        rank = max(1, int((1 - COVERED) * (count + 1) / 2 + 1e-9))
        return cls(
            median=float(np.median(sizes)),
            p90=float(np.quantile(sizes, 0.9)),
            worst=float(sizes.max()),
            cells=count,
            low=1 / (1 + float(signed[-rank])),
            high=1 / (1 + float(signed[rank - 1])),
            coverage=max(0.0, 1 - 2 * rank / (count + 1)),
        )


class PredictedCell(Frozen):
    """One metric of one cell, as it was predicted and as it was measured."""

    series: str
    context_tokens: int
    batch_size: int
    metric: PredictedMetric
    basis: Basis
    predicted: float = Field(gt=0)
    measured: float = Field(gt=0)
    beyond: tuple[str, ...] = Field(
        (), description="Of a calibration: what lies outside of what it was fitted to."
    )

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1


class CalibrationUsed(Frozen):
    """Which calibration predictions came from."""

    file: str
    made_at: str
    runs: tuple[str, ...] = Field(description="Ids of the runs that it was fitted to.")
    held_out: dict[PredictedMetric, Errors] = Field(
        default_factory=dict, description="Its errors on cells that a fit had not seen."
    )


class GroupOverview(Frozen):
    """A group of a calibration, for people: series that share their code."""

    engine: str
    kind: str
    models: tuple[str, ...]
    cells: int
    call_s: float
    shares: dict[str, float] = Field(description="Of which ceiling, by part.")
    untold: tuple[str, ...] = Field(
        (), description="Shares not told from the overhead, which holds what they cost."
    )
    held_out: dict[PredictedMetric, Errors]


class CalibrationOverview(Frozen):
    """What there is to say of a calibration that was made."""

    machine: str
    device: str
    threads: int
    runs: tuple[str, ...]
    held_out: dict[PredictedMetric, Errors]
    whole_prefill: Errors | None = None
    longer: dict[PredictedMetric, Errors]
    sizes: dict[PredictedMetric, Errors] = Field(default_factory=dict)
    groups: tuple[GroupOverview, ...]


class Predictions(Frozen):
    """All of ``predictions.json``; its keys are documented in docs/results.md."""

    schema_version: int = PREDICTIONS_VERSION
    run_id: str
    calibration: CalibrationUsed | None = Field(description="None: times are bounds.")
    why_bounds: str = Field("", description="Why no calibration was used.")
    cells: tuple[PredictedCell, ...]
    missing: dict[str, str] = Field(
        default_factory=dict, description="By series: why nothing could be predicted."
    )

    @property
    def fitted_to_this_run(self) -> bool:
        """Whether errors are those of a fit and not of a forecast."""
        return self.calibration is not None and self.run_id in self.calibration.runs

    def of(
        self, metric: PredictedMetric, basis: Basis | None = None, series: str | None = None
    ) -> tuple[PredictedCell, ...]:
        """The cells of a metric, of one basis and one series if these are given."""
        return tuple(
            cell
            for cell in self.cells
            if cell.metric == metric
            and basis in (None, cell.basis)
            and series in (None, cell.series)
        )


def errors(cells: Sequence[PredictedCell]) -> Errors | None:
    """The errors of cells; None of none."""
    return Errors.of(cell.error for cell in cells)


def shares(cells: Sequence[PredictedCell]) -> tuple[float, float, float] | None:
    """Of bounds: the median, least and largest share of the bound that was reached."""
    if not cells:
        return None
    reached = np.array([cell.predicted / cell.measured for cell in cells])
    return float(np.median(reached)), float(reached.min()), float(reached.max())
