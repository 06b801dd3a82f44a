"""A sweep over the fake engine as a program of its own, so that a test can kill it.

Arguments: folder of results, JSON of series options by name, and the run to resume if there is one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ctxsweep.execute.executors import LocalExecutor
from ctxsweep.execute.sweep import run_sweep
from ctxsweep.expansion import expand
from ctxsweep.records import Series
from ctxsweep.scenario import Budgets, Procedure, Scenario, Sentinel
from ctxsweep.store import RunFolder

MEMORY_BYTES = 400 << 20


def scenario_of(series: dict[str, Any], **settings: Any) -> Scenario:
    """Every series at 1K, 2K and 4K, with a sentinel."""
    lines = tuple(
        Series(name=name, backend="fake_backend:FakeBackend", model="m", options=options)
        for name, options in series.items()
    )
    values: dict[str, Any] = {
        "name": "fake",
        "contexts": (1024, 2048, 4096),
        "generate_tokens": 4,
        "threads": 1,
        "procedure": Procedure(sentinel=Sentinel(every=2), max_cell_s=0.2, min_samples=2),
        "budgets": Budgets(memory_bytes=MEMORY_BYTES),
    }
    return Scenario(series=lines, **{**values, **settings})


def main() -> None:
    root, series, *resume = sys.argv[1:]
    scenario = scenario_of(json.loads(series))
    plain, cells = scenario.model_dump(mode="json"), expand(scenario)
    if resume:
        folder = RunFolder.resume(Path(resume[0]), plain, scenario.seed)
    else:
        order = tuple(cell.key for cell in cells)
        folder = RunFolder.create(Path(root), "fake", plain, scenario.seed, order)
    with folder:
        executor = LocalExecutor(folder.log_path)
        outcome = run_sweep(scenario, cells, folder, executor, measure_ceilings=False)
    sys.exit(outcome.exit_code)


if __name__ == "__main__":
    main()
