"""What a run means: the types of ``summary.json``, derived from its records and nothing else."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ctxsweep.analysis.frontier_summary import FrontierSummary
from ctxsweep.analysis.interval import Estimate as Estimate
from ctxsweep.analysis.quality_summary import QualitySummary
from ctxsweep.frozen import Frozen
from ctxsweep.records import Ceilings, Environment, ProcedureKind, Series, Status

Better = Literal["lower", "higher", "neither"]
ScalingClass = Literal["O(1)", "O(n)", "O(n²)", "undecided"]


class CellSummary(Frozen):
    """A point of the report: one measured cell (sentinels are apart, in ``Drift``)."""

    key: str
    series: str
    context_tokens: int
    batch_size: int
    procedure: ProcedureKind | Literal["scored"]
    status: Status
    detail: str = ""
    stopped_by: str | None = None
    contended_share: float | None = Field(
        None, description="Share of samples whose CPU time is far from wall time times threads."
    )
    outliers: int = 0
    metrics: dict[str, Estimate] = Field(description="By name of METRICS; absent if not measured.")


class GrowthPoint(Frozen):
    """Memory held at a position of the context, from the memory series of a record."""

    phase: Literal["prefill", "decode"]
    position: int
    cache_used_bytes: int
    process_bytes: int | None = None


class Verdict(Frozen):
    """How a metric grows with context in one series, with the evidence for it."""

    series: str
    batch_size: int
    metric: str
    scaling: ScalingClass
    slope: Estimate | None = Field(
        None, description="Log-log slope over the top octaves, bootstrap interval."
    )
    coefficients: dict[str, Estimate] = Field(
        default_factory=dict, description="a, b, c of the chosen a + b·n + c·n²."
    )
    bic: dict[str, float] = Field(default_factory=dict, description="By class, lower is better.")
    points: int = 0
    flat_beyond_tokens: int | None = Field(
        None, description="The context past which the metric no longer grows (sliding windows)."
    )
    evidence: str = Field(description="One sentence for people.")


class CacheCheck(Frozen):
    """Measured growth of cache or state per token beside the formula's."""

    series: str
    batch_size: int
    measured_bytes_per_token: float
    formula_bytes_per_token: float
    difference_bytes: int = Field(description="Largest |measured − formula| over the cells.")


class NumericsCheck(Frozen):
    """Logits of a series beside those of the reference that runs the same model and weights."""

    series: str
    reference: str = Field(description="The series itself where it is the reference.")
    largest_difference: float | None = Field(description="Of logits; None: not finite.")
    relative_difference: float | None = Field(
        description="Root mean square of the difference over the spread of the logits."
    )
    allowed: float = Field(description="What the dtypes of weights and cache allow of it.")
    agrees: bool


class Crossover(Frozen):
    """Where two series cost the same, or that they do not cross in range."""

    metric: str
    first: str
    second: str
    batch_size: int
    context_tokens: Estimate | None = Field(description="None: no crossing in range.")
    cheaper_below: str | None = None
    cheaper_above: str | None = None
    between_tokens: tuple[int, int] | None = Field(
        None, description="The measured contexts on either side, each clearly of one order."
    )
    clear_from_tokens: int | None = Field(
        None, description="No crossing seen, but cheaper_above clearly is so only from here on."
    )
    evidence: str


class Drift(Frozen):
    """The sentinel cell over the run: its median each time, and the spread."""

    series: str
    context_tokens: int
    metric: str
    values: tuple[float, ...]
    started_at: tuple[str, ...]
    relative_spread: float


class LadderCost(Frozen):
    """What the climb cost over the longest prefill alone (1.0 = nothing)."""

    series: str
    batch_size: int
    longest_prefill_s: float
    climb_s: float
    ratio: float


class MetricInfo(Frozen):
    """How a metric is to be read."""

    name: str
    unit: str
    better: Better
    description: str


class Summary(Frozen):
    """All of ``summary.json``; its keys are documented in docs/results.md."""

    schema_version: int
    scenario: str
    question: str
    run_id: str
    series: tuple[Series, ...]
    metrics: tuple[MetricInfo, ...]
    cells: tuple[CellSummary, ...]
    growth: dict[str, tuple[GrowthPoint, ...]] = Field(
        description="By series name: bytes held along the longest context and the decode after it."
    )
    verdicts: tuple[Verdict, ...]
    cache: tuple[CacheCheck, ...]
    numerics: tuple[NumericsCheck, ...] = Field(
        (), description="For series whose model another engine runs too."
    )
    crossovers: tuple[Crossover, ...]
    drift: tuple[Drift, ...]
    ladder: tuple[LadderCost, ...]
    ceilings: dict[str, Ceilings] = Field(description="By series name.")
    environment: Environment | None
    started_at: str
    elapsed_s: float
    quality: QualitySummary | None = Field(None, description="Where the run measured quality.")
    frontier: FrontierSummary | None = Field(None, description="Where the run searched for it.")
