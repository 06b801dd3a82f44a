"""The search for the frontier: one cell at a time, each in a child of its own, until it is known.

A try with another context needs another reservation, and what failed once may leave an engine in
pieces; so no two tries share a child. Which cell comes next follows from the records alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ctxsweep.analysis.frontier import FrontierPlan, Search
from ctxsweep.backends.base import resolve_backend
from ctxsweep.execute.job import Job
from ctxsweep.measure.environment import physical_cores
from ctxsweep.models.catalog import load_config
from ctxsweep.records import Cell, Record, Series
from ctxsweep.scenario import Scenario, ScenarioError

PREFILL_SLACK = 1
"""Prefills more than are measured, until a try that cannot hold its limit of time is ended."""


def with_positions(scenario: Scenario) -> Scenario:
    """The scenario with what is known of where its series end, for a search that has to know.

    Raises ``ScenarioError`` if a limit of memory is set for an engine elsewhere.
    """
    frontier = scenario.frontier
    if frontier is None:
        return scenario
    for series in scenario.series:
        if frontier.within.memory and _is_remote(series):
            raise ScenarioError(
                scenario.name,
                "frontier.within.memory",
                f"series '{series.name}' runs on backend {series.backend}, whose memory nobody "
                "here sees or limits; leave memory out, and write decode or prefill",
            )
    ends = {one.name: _positions(one) for one in scenario.series}
    known = {name: end for name, end in ends.items() if end is not None}
    positions = {k: v for k, v in (known | frontier.positions).items() if k in ends}
    update = {"frontier": frontier.model_copy(update={"positions": positions})}
    return scenario.model_copy(update=update)


def _is_remote(series: Series) -> bool:
    capabilities = getattr(resolve_backend(series.backend), "capabilities", None)
    return capabilities is not None and capabilities.remote


def _positions(series: Series) -> int | None:
    """Of a model that learned its positions; None if they have no end, or it is not known here."""
    try:
        config = load_config(series.model)
    except ValueError:  # a model that only its engine knows
        return None
    learned = config.attention is not None and config.attention.position == "learned"
    return config.max_positions if learned else None


def plan_of(scenario: Scenario) -> FrontierPlan | None:
    """What the scenario asks of a search; None if it has no section ``frontier``."""
    return FrontierPlan.of(scenario.model_dump(mode="json"))


def probes(scenario: Scenario, known: Sequence[Record]) -> Iterator[Cell]:
    """The cells to try, one after the other, up to the answer of every search.

    ``known`` is read anew for each: it must hold the record of the cell before, in the order of
    writing. A cell is never given twice, nor one that the records answer already.
    """
    plan = plan_of(scenario)
    for search in plan.searches() if plan else ():
        for _ in range(search.most_tries):
            step = plan.bracket(search, known).next_step if plan else None
            if step is None:
                break
            yield _cell(scenario, search, step)


def probe_job(scenario: Scenario, cell: Cell, memory_bytes: int | None) -> Job:
    """A job of one try under the limits of the search.

    ``memory_bytes`` is the sweep's own limit, where the search names none. With a limit of prefill
    time a try ends soon after it has missed it, and prefills are repeated as in a sweep; without
    one a single prefill will do.
    """
    assert scenario.frontier is not None
    within, procedure, budgets = scenario.frontier.within, scenario.procedure, scenario.budgets
    repeats = procedure.repeats if within.prefill else 1
    if within.prefill:
        enough_s = (repeats + PREFILL_SLACK) * within.prefill
        budgets = budgets.model_copy(update={"cell_s": min(budgets.cell_s, enough_s)})
    return Job(
        cells=(cell,),
        procedure=procedure.model_copy(update={"kind": "independent", "repeats": repeats}),
        budgets=budgets,
        device=scenario.device,
        threads=scenario.threads or physical_cores(),
        memory_bytes=within.memory or memory_bytes,
        measure_ceilings=False,
    )


def _cell(scenario: Scenario, search: Search, step: int) -> Cell:
    context_tokens, batch_size = search.point(step)
    series = next(one for one in scenario.series if one.name == search.series)
    return Cell(
        scenario=scenario.name,
        series=series.aimed(context_tokens),
        context_tokens=context_tokens,
        generate_tokens=scenario.generate_tokens,
        batch_size=batch_size,
        procedure="independent",
        seed=scenario.seed,
        role="frontier",
    )
