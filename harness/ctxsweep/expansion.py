"""A scenario as cells, in the order in which they are measured. Pure, seeded."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import groupby

from ctxsweep.records import Cell, Series
from ctxsweep.scenario import Scenario


def expand(scenario: Scenario) -> tuple[Cell, ...]:
    """The cells in the order in which they are to be measured; pure, seeded by ``seed``.

    Random order shuffles the series (and, where cells are independent, each one's contexts);
    a ladder climbs. ``abba`` goes through the series forward and back, context by context.
    """
    ordered = _abba(scenario) if scenario.procedure.order == "abba" else _random(scenario)
    sentinel = scenario.procedure.sentinel
    if sentinel is None:
        return tuple(cell for block in ordered for cell in block)
    name = sentinel.series or scenario.series[0].name
    watched = next(one for one in scenario.series if one.name == name)
    cells: list[Cell] = []
    stops = [i for i in range(len(ordered)) if i % sentinel.every == 0] + [len(ordered)]
    for occurrence, (start, end) in enumerate(zip(stops, [*stops[1:], stops[-1]], strict=True)):
        cells.append(
            _cell(scenario, watched, sentinel.context, scenario.batch_sizes[0]).model_copy(
                update={
                    "role": "sentinel",
                    "procedure": "independent",
                    "occurrence": occurrence,
                    "quality": None,
                }
            )
        )
        cells.extend(cell for block in ordered[start:end] for cell in block)
    return tuple(cells)


def blocks(cells: Sequence[Cell]) -> Iterator[tuple[Cell, ...]]:
    """Neighbouring cells that one child process measures with one loaded model."""

    def same(cell: Cell) -> tuple[object, ...]:
        # Of quality every context has a model of its own: RoPE may be stretched for it.
        context = cell.context_tokens if cell.quality else None
        return cell.series.name, cell.batch_size, cell.role, cell.occurrence, context

    for _, block in groupby(cells, key=same):
        yield tuple(block)


def _cell(scenario: Scenario, series: Series, context_tokens: int, batch_size: int) -> Cell:
    quality = None
    if scenario.quality is not None:
        quality = scenario.quality.of_cell(scenario.contexts, series.name, context_tokens)
    return Cell(
        scenario=scenario.name,
        series=series.aimed(context_tokens if quality else max(scenario.contexts)),
        context_tokens=context_tokens,
        generate_tokens=scenario.generate_tokens,
        batch_size=batch_size,
        procedure="independent" if quality else scenario.procedure.kind,
        seed=scenario.seed,
        quality=quality,
    )


def _random(scenario: Scenario) -> list[list[Cell]]:
    rng = random.Random(scenario.seed)
    found = []
    for series in scenario.series:
        for batch_size in scenario.batch_sizes:
            contexts = list(scenario.contexts)
            if scenario.procedure.kind == "independent":
                rng.shuffle(contexts)
            found.append([_cell(scenario, series, n, batch_size) for n in contexts])
    rng.shuffle(found)
    return found


def _abba(scenario: Scenario) -> list[list[Cell]]:
    points = [(b, n) for b in scenario.batch_sizes for n in scenario.contexts]
    return [
        [_cell(scenario, series, context_tokens, batch_size)]
        for turn, (batch_size, context_tokens) in enumerate(points)
        for series in (scenario.series if turn % 2 == 0 else reversed(scenario.series))
    ]
