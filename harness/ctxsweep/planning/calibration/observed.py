"""What a run measured, beside the configuration and the deployment that it measured it of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ctxsweep.analysis.metrics import METRICS
from ctxsweep.analysis.predicted import PREDICTED, PredictedMetric
from ctxsweep.models.catalog import load_config
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.deployment import Deployment
from ctxsweep.records import Ceilings, Record, Series, Status


@dataclass(frozen=True)
class Observed:
    """One measured cell: what was run, and its figures by metric (s, bytes).

    ``here``: whether the process that measured it did the work, and so told its ceilings.
    """

    series: str
    backend: str
    config: ModelConfig
    deployment: Deployment
    context_tokens: int
    values: dict[PredictedMetric, float]
    here: bool = True


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
    cells = tuple(
        observed(record, configs[record.cell.series.name])
        for record in measured
        if record.cell.series.name in configs and record.status is Status.OK
    )
    try:
        found, problem = highest(ceilings), "" if ceilings else "no ceilings were measured"
    except ValueError as error:
        found, problem = None, str(error)
    return Run(run_id, cells, found, problem, missing)


def observed(record: Record, config: ModelConfig) -> Observed:
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


def highest(seen: Sequence[Ceilings]) -> Ceilings | None:
    """The highest rates of several readings on one device with as many threads; None of none.

    A child measures for a moment only, and one that was disturbed then reads too low. Raises
    ``ValueError`` if they are of several devices or numbers of threads.
    """
    if not seen:
        return None
    kinds = sorted({(c.device, c.threads) for c in seen})
    if len(kinds) > 1:
        words = ", ".join(f"{device} with {threads} threads" for device, threads in kinds)
        raise ValueError(f"ceilings of {words}, not of one kind")
    rates: dict[str, float] = {}
    for ceilings in seen:
        for dtype, rate in ceilings.matmul_flops_per_s.items():
            rates[dtype] = max(rate, rates.get(dtype, 0.0))
    read = max(c.read_bytes_per_s for c in seen)
    update = {"matmul_flops_per_s": rates, "read_bytes_per_s": read, "by_threads": {}}
    return seen[0].model_copy(update=update)
