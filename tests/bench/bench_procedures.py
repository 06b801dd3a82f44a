"""Do ladder and independent tell the same, and what does the ladder cost?

Both procedures measure one transformer and one state-space model up to 16K, through the whole
sweep, child processes included. Prefill and decode of a cell agree if the intervals of the two
medians meet.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from ctxsweep.analysis.metrics import measure
from ctxsweep.analysis.summarise import summarise
from ctxsweep.analysis.summary import Estimate, Summary
from ctxsweep.execute.executors import LocalExecutor
from ctxsweep.execute.sweep import run_sweep
from ctxsweep.expansion import expand
from ctxsweep.records import Record, Series, Status
from ctxsweep.scenario import Budgets, Procedure, Scenario
from ctxsweep.store import RunFolder

CONTEXTS = tuple(1 << power for power in range(10, 15))
SERIES = (
    Series(name="transformer", model="tiny-gqa"),
    Series(name="state-space", model="tiny-mamba2"),
)
PROCEDURES = {
    "ladder": Procedure(kind="ladder", repeats=9, max_noise=0.02, extra_climb_share=8.0),
    "independent": Procedure(kind="independent", repeats=9, max_noise=0.02, max_cell_s=9.0),
    "one ladder": Procedure(kind="ladder", repeats=3, extra_climb_share=0.1),
}
METRICS = ("prefill_s", "itl_s")


def sweep(name: str, root: Path) -> list[Record]:
    """The records of one procedure over both series."""
    scenario = Scenario(
        name=name.replace(" ", "-"),
        contexts=CONTEXTS,
        generate_tokens=32,
        procedure=PROCEDURES[name],
        budgets=Budgets(memory_bytes=4 << 30),
        series=SERIES,
    )
    cells = expand(scenario)
    order = tuple(cell.key for cell in cells)
    plain = scenario.model_dump(mode="json")
    with RunFolder.create(root, scenario.name, plain, scenario.seed, order) as folder:
        run_sweep(scenario, cells, folder, LocalExecutor(folder.log_path))
        records = list(folder.records())
    assert all(record.status is Status.OK for record in records)
    return records


def summary_of(name: str, records: list[Record]) -> Summary:
    return summarise(
        scenario=name,
        question="",
        run_id=name,
        started_at=records[0].started_at,
        records=records,
        elapsed_s=sum(record.elapsed_s for record in records),
        environment=records[0].environment,
    )


def meet(first: Estimate, second: Estimate) -> bool:
    """Whether two intervals have a point in common."""
    assert first.low is not None and first.high is not None
    assert second.low is not None and second.high is not None
    return first.low <= second.high and second.low <= first.high


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    root = tmp_path_factory.mktemp("runs")
    return {name: sweep(name, root) for name in PROCEDURES}


def test_ladder_and_independent_agree(
    records: dict[str, list[Record]],
    benchmark: Callable[..., None],
    add_ratio: Callable[..., None],
) -> None:
    cells = {
        name: {(r.cell.series.name, r.cell.context_tokens): measure(r) for r in of_one}
        for name, of_one in records.items()
    }
    compared = benchmark.pedantic(lambda: sorted(cells["ladder"]), rounds=1)
    for series, of_series in groupby(compared, key=lambda key: key[0]):
        keys = list(of_series)
        for metric in METRICS:
            pairs = [(cells["ladder"][k][metric], cells["independent"][k][metric]) for k in keys]
            told = [
                f"{context // 1024}K {a.value / b.value:.3f}{'' if meet(a, b) else '!'}"
                for (_, context), (a, b) in zip(keys, pairs, strict=True)
            ]
            add_ratio(
                f"ladder agrees with independent, {series} {metric}",
                sum(meet(a, b) for a, b in pairs) / len(pairs),
                1.0,
                detail="ladder / independent: " + ", ".join(told),
            )


def test_the_cost_of_a_ladder(
    records: dict[str, list[Record]],
    benchmark: Callable[..., None],
    add_ratio: Callable[..., None],
) -> None:
    summary = benchmark.pedantic(summary_of, ("ladder", records["one ladder"]), rounds=1)
    for cost in summary.ladder:
        add_ratio(
            f"ladder over its longest prefill, {cost.series}",
            cost.ratio,
            1.15,
            at_least=False,
            detail=f"{cost.climb_s:.3g} s over {cost.longest_prefill_s:.3g} s",
        )
