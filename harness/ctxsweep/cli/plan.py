"""``ctxsweep run --dry-run``: what would be measured, and about what it would take.

Prefill is taken to be bound by arithmetic or memory traffic, whichever is longer, and decode alike,
at ceilings that are measured on the spot in about a second (the roofline: Williams, Waterman,
Patterson, CACM 2009). Nothing runs at its roof: the times are lower bounds and said to be such.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctxsweep.analysis.frontier import Search
from ctxsweep.backends.base import resolve_backend
from ctxsweep.execute.frontier import plan_of
from ctxsweep.measure.ceilings import measure_ceilings
from ctxsweep.measure.environment import physical_cores
from ctxsweep.records import Ceilings, Cost, Series
from ctxsweep.report.frontier import tries_count, value_text
from ctxsweep.scenario import Scenario

WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUICK_S = 0.5


@dataclass(frozen=True)
class SeriesEstimate:
    """What a series takes at least: seconds for all its cells, bytes for the largest."""

    seconds: float
    weights_bytes: int
    cache_bytes: int


def print_plan(scenario: Scenario) -> None:
    """Print the plan with an estimate of time and memory per series."""
    console = Console()
    threads = scenario.threads or physical_cores()
    ceilings = _quick_ceilings(scenario.device, threads) if _here(scenario) else None
    table = Table("series", "backend", "model", "time ≥", "weights", "cache at longest", box=None)
    total_s = 0.0
    for series in scenario.series:
        estimate = estimate_series(scenario, series, ceilings)
        model = series.model if isinstance(series.model, str) else "(written out)"
        cells = ["?"] * 3
        if estimate:
            total_s += estimate.seconds
            took = f"{estimate.seconds:.1f} s" if ceilings else "?"
            cells = [took, _mebibytes(estimate.weights_bytes), _mebibytes(estimate.cache_bytes)]
        table.add_row(series.name, escape(series.backend), escape(model), *cells)
    lengths = ", ".join(f"{n:,}" for n in scenario.contexts)
    console.print(f"[bold]{scenario.name}[/] on {scenario.device}: {escape(scenario.question)}")
    console.print(f"{scenario.procedure.kind}, contexts {lengths}", highlight=False)
    console.print(table)
    console.print(_closing(scenario, total_s, ceilings), highlight=False)
    for line in frontier_lines(scenario):
        console.print(line, highlight=False)


def frontier_lines(scenario: Scenario) -> list[str]:
    """What the search will do after the sweep, and in how many tries at most."""
    plan = plan_of(scenario)
    if plan is None:
        return []
    searches = {_sought(one): one.most_tries for one in plan.searches() if not one.ends}
    lines = [f"  {sought}, at most {tries} tries a series" for sought, tries in searches.items()]
    ends = {
        f"  {one.series}: no further than {one.up_to:,}, its positions end (batch {one.at}, "
        f"{tries_count(one.most_tries)})"
        for one in plan.searches()
        if one.ends
    }
    begin = "Then the frontier is sought by bisection, each try in a process of its own:"
    return [begin, *lines, *sorted(ends), f"  in all at most {tries_count(plan.most_tries)}"]


def _sought(search: Search) -> str:
    if search.quantity == "context_tokens":
        up_to, step = (value_text(search.quantity, n) for n in (search.up_to, search.step))
        return f"longest context up to {up_to} in steps of {step}, batch {search.at}"
    at = value_text("context_tokens", search.at)
    return f"largest batch up to {search.up_to} at {at} of context"


def estimate_series(
    scenario: Scenario, series: Series, ceilings: Ceilings | None
) -> SeriesEstimate | None:
    """None if the engine cannot tell beforehand; 0 seconds without ceilings."""
    adapter = resolve_backend(series.backend)
    seconds, cache_bytes, weights_bytes = 0.0, 0, 0
    for batch_size in scenario.batch_sizes:
        costs = [adapter.estimate(series.aimed(n), n, batch_size) for n in scenario.contexts]
        known = [cost for cost in costs if cost is not None]
        if len(known) < len(costs):
            return None
        cache_bytes = max(cache_bytes, *(cost.cache_bytes for cost in known))
        weights_bytes = known[0].parameters * WEIGHT_BYTES[series.dtype]
        if ceilings:
            seconds += _seconds(scenario, series, known, ceilings)
    return SeriesEstimate(seconds, weights_bytes, cache_bytes)


def _seconds(scenario: Scenario, series: Series, costs: list[Cost], ceilings: Ceilings) -> float:
    procedure = scenario.procedure
    flops_per_s = ceilings.matmul_flops_per_s[series.dtype]
    prefill = [
        max(c.prefill_flops / flops_per_s, c.prefill_bytes / ceilings.read_bytes_per_s)
        for c in costs
    ]
    step = [
        max(c.decode_flops / flops_per_s, c.decode_bytes / ceilings.read_bytes_per_s) for c in costs
    ]
    if plan := scenario.quality:  # more is read than the context itself
        asked = [plan.of_cell(scenario.contexts, series.name, n) for n in scenario.contexts]
        prefill = [
            s * one.fed_tokens / one.passes[0].context_tokens
            for s, one in zip(prefill, asked, strict=True)
        ]
    samples = min(procedure.min_samples, scenario.generate_tokens)
    decode = sum(min(procedure.max_cell_s, s * samples) for s in step)
    return decode + (max(prefill) if procedure.kind == "ladder" else sum(prefill))


def _quick_ceilings(device: str, threads: int) -> Ceilings:
    """The best of all thread counts: on a busy machine more threads can be far slower."""
    measured = measure_ceilings(device, threads, budget_s=QUICK_S)
    counts = measured.by_threads.values()
    best = {name: max(count[name] for count in counts) for name in measured.matmul_flops_per_s}
    read = max(count["read_bytes_per_s"] for count in counts)
    return measured.model_copy(update={"matmul_flops_per_s": best, "read_bytes_per_s": read})


def _here(scenario: Scenario) -> bool:
    from ctxsweep.measure.environment import detect_device

    return scenario.device == "cpu" or detect_device() == scenario.device


def _closing(scenario: Scenario, total_s: float, ceilings: Ceilings | None) -> str:
    budget = f"The budget is {scenario.budgets.series_s:g} s a series and batch size."
    if ceilings is None:
        return f"No {scenario.device} device here, so no times. {budget}"
    return (
        f"An estimate: {total_s:.0f} s if everything ran at the ceilings measured just now "
        f"({ceilings.matmul_flops_per_s['float32'] / 1e9:.0f} GFLOP/s in float32, "
        f"{ceilings.read_bytes_per_s / 1e9:.1f} GB/s). Real engines take several times that. "
        f"{budget}"
    )


def _mebibytes(value: int) -> str:
    return f"{value / 2**20:,.1f} MiB"
