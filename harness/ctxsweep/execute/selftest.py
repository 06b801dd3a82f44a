"""One build measured against itself, again and again: what ``ctxsweep selftest`` resamples."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ctxsweep.execute.build import Build
from ctxsweep.execute.recheck import Round, Settings, Watch, measure_again
from ctxsweep.records import Cell, Series
from ctxsweep.scenario import Budgets, Device, Procedure, Scenario

MOST_ROUNDS = 1000


def small_table(device: Device) -> Scenario:
    """The table that is measured unless a scenario is named: tiny models, some seconds a round.

    On a CPU one thread: two that wait for each other would measure whoever else is on the machine.
    """
    return Scenario(
        name="selftest",
        question="What change can this machine tell?",
        device=device,
        contexts=(256, 1024),
        generate_tokens=32,
        threads=1 if device == "cpu" else None,
        series=(
            Series(name="gqa", model="tiny-gqa", prefill_chunk=64),
            Series(name="mamba2", model="tiny-mamba2", prefill_chunk=64),
        ),
        procedure=Procedure(
            repeats=2, extra_climb_share=1.0, min_samples=32, max_noise=0.01, max_cell_s=1.0
        ),
        budgets=Budgets(load_s=60.0, cell_s=30.0, series_s=60.0),
    )


def measure_rounds(
    cells: Sequence[Cell],
    settings: Settings,
    seconds: float,
    log_path: Path,
    watch: Watch | None = None,
) -> Iterator[Round]:
    """Rounds of this installation's build against itself, as many as fit into ``seconds``.

    Every round measures all cells twice in fresh children, in turns as suspects are. At least one
    round is had; none is begun that would end too late if it took as long as those before.
    Raises ``BuildUnavailable`` if a cell fails in the first round.
    """
    start = time.monotonic()
    first, second = Build.here(), Build.here()
    rounds = measure_again(cells, settings, first, second, MOST_ROUNDS, log_path, watch)
    for done, one in enumerate(rounds, start=1):
        yield one
        spent_s = time.monotonic() - start
        if spent_s * (done + 1) / done > seconds:
            return
