"""What a run measured, beside the configuration and the deployment that it measured it of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ctxsweep.analysis.ceilings import highest
from ctxsweep.analysis.metrics import METRICS
from ctxsweep.analysis.predicted import PREDICTED, PredictedMetric
from ctxsweep.analysis.samples import runs
from ctxsweep.models.catalog import load_config
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.deployment import Deployment
from ctxsweep.records import Ceilings, Record, Series, Status


@dataclass(frozen=True)
class Observed:
    """One measured cell: what was run, and its figures by metric (s, bytes).

    ``here``: whether the process that measured it did the work, and so told its ceilings.
    A rung of a ladder holds all chunks of the rungs before: ``begins_tokens`` is the context of
    the one before it, ``added_s`` the prefill from there on (None: not measured in one piece);
    of an independent cell that is the whole.
    """

    series: str
    backend: str
    config: ModelConfig
    deployment: Deployment
    context_tokens: int
    values: dict[PredictedMetric, float]
    here: bool = True
    rung: bool = False
    begins_tokens: int = 0
    added_s: float | None = None


@dataclass(frozen=True)
class Run:
    """What can be predicted of a run: its cells, and by series why not.

    ``ceilings`` are the highest of the run; None if there is no one set of them, and ``problem``
    says why.
    """

    run_id: str
    cells: tuple[Observed, ...]
    ceilings: Ceilings | None
    problem: str = ""
    missing: dict[str, str] = field(default_factory=dict)


def observe(run_id: str, records: Iterable[Record]) -> Run:
    """The cells of a run that were measured, sentinels left out, by series and context."""
    latest = {record.cell.key: record for record in records}
    measured = [r for r in latest.values() if r.cell.role == "measure"]
    measured.sort(key=lambda r: r.cell.context_tokens)
    configs: dict[str, ModelConfig] = {}
    missing: dict[str, str] = {}
    for series in {r.cell.series.name: r.cell.series for r in measured}.values():
        try:
            configs[series.name] = config_of(series)
        except ValueError as error:  # a model that is gone, or that only its engine knows
            missing[series.name] = str(error).splitlines()[0]
    ceilings = [r.ceilings for r in latest.values() if r.ceilings is not None]
    begins = _begins(measured)
    cells = tuple(
        observed(record, configs[record.cell.series.name], begins.get(record.cell.key, 0))
        for record in measured
        if record.cell.series.name in configs and record.status is Status.OK
    )
    try:
        found, problem = highest(ceilings), "" if ceilings else "no ceilings were measured"
    except ValueError as error:
        found, problem = None, str(error)
    return Run(run_id, cells, found, problem, missing)


def _begins(measured: Iterable[Record]) -> dict[str, int]:
    """Of every rung, by its key, the context of the rung before; ``measured`` by context."""
    reached: dict[tuple[str, int], int] = {}
    found = {}
    for record in measured:
        cell = record.cell
        if record.status is Status.OK and _is_rung(record):
            line = cell.series.name, cell.batch_size
            found[cell.key] = reached.get(line, 0)
            reached[line] = cell.context_tokens
    return found


def _is_rung(record: Record) -> bool:
    return bool(record.engine.get("procedure", record.cell.procedure) == "ladder")


def _added_s(record: Record, begins_tokens: int) -> float | None:
    """Median over the climbs of their chunks from ``begins_tokens`` to the cell's context, s."""
    totals = []
    for run in runs(record, "prefill"):
        ends = run.position + run.tokens
        there = (run.position >= begins_tokens) & (ends <= record.cell.context_tokens)
        if run.tokens[there].sum() == record.cell.context_tokens - begins_tokens:
            totals.append(float(run.wall_s[there].sum()))
    return float(np.median(totals)) if totals else None


def observed(record: Record, config: ModelConfig, begins_tokens: int = 0) -> Observed:
    """One record's figures; metrics that it does not have are absent."""
    cell = record.cell
    found = {name: METRICS[name].of(record) for name in PREDICTED}
    return Observed(
        series=cell.series.name,
        backend=cell.series.backend,
        config=config,
        deployment=deployment_of(cell.series, cell.context_tokens, cell.batch_size),
        context_tokens=cell.context_tokens,
        values={name: value.value for name, value in found.items() if value and value.value > 0},
        here=record.ceilings is not None,
        rung=_is_rung(record),
        begins_tokens=begins_tokens,
        added_s=_added_s(record, begins_tokens),
    )


def config_of(series: Series) -> ModelConfig:
    """The model of a series with its window and sinks laid over. Raises ``ValueError``."""
    config = load_config(series.model)
    over = {"window": series.window, "sinks": series.sinks}
    over = {key: value for key, value in over.items() if value is not None}
    if not over or config.attention is None:
        return config
    return config.model_copy(update={"attention": config.attention.model_copy(update=over)})


def deployment_of(series: Series, context_tokens: int, batch_size: int) -> Deployment:
    """A series as a deployment: its chunk is of each sequence, a deployment's of all together."""
    chunk = {"whole": context_tokens, "recurrent": 1}.get(
        str(series.prefill_chunk), series.prefill_chunk
    )
    return Deployment(
        weight_dtype=series.dtype,
        kv_dtype=series.kv_dtype,
        batch_size=batch_size,
        prefill_chunk=int(chunk) * batch_size,
        page_size=series.page_size,
        reserve_share=0,
    )
