"""``ctxsweep selftest``: what change this machine can tell, and how often it is wrong."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ctxsweep.analysis.selftest import MIN_ROUNDS
from ctxsweep.analysis.selftest_summary import WORDS, SelfTest, self_test, sentences, too_short
from ctxsweep.cli import find
from ctxsweep.cli.errors import BadInput
from ctxsweep.execute.build import BuildUnavailable
from ctxsweep.execute.recheck import Round, Settings
from ctxsweep.execute.selftest import measure_rounds, small_table
from ctxsweep.expansion import expand
from ctxsweep.measure.environment import read_environment
from ctxsweep.records import Cell, Environment, Record
from ctxsweep.scenario import Scenario
from ctxsweep.store import RunFolder, write_atomic

FOLDER = "selftest"
FILE = "selftest.json"
MOST_MINUTES = 24 * 60.0


def selftest(scenario: str | None, minutes: float, device: str, results: Path) -> None:
    """Measure a table against itself for ``minutes``, resample, and print what can be told.

    ``scenario``: a name or a path; None: two tiny models at two contexts. What was measured lies
    in ``results/selftest/<scenario>/<run>/``, the figures in its ``selftest.json``. Raises
    ``BadInput`` if a scenario does not fit, and what loading one does.
    """
    if not 0 < minutes <= MOST_MINUTES:
        raise BadInput(f"--minutes {minutes:g}: must be above 0 and at most {MOST_MINUTES:g}")
    plan = _plan(scenario, device)
    find.require_device(plan.device)
    start = time.monotonic()
    settings = Settings.of(plan)
    environment = read_environment(plan.device, settings.threads)
    cells = [cell for cell in expand(plan) if cell.role == "measure"]
    with RunFolder.create(
        results / FOLDER,
        plan.name,
        plan.model_dump(mode="json"),
        plan.seed,
        order=tuple(cell.key for cell in cells),
        environment=environment,
    ) as folder:
        _say(f"{folder.path}: {len(cells)} cells against themselves for {minutes:g} minutes")
        rounds = _measure(folder, cells, settings, minutes * 60)
        folder.finish()
    spent_s = time.monotonic() - start
    try:
        found = self_test(rounds, plan.regression, plan.name, _machine(environment), spent_s)
    except ValueError as problem:
        raise BadInput(f"{folder.path}: {problem}; log.txt beside it may say why") from problem
    write_atomic(folder.path / FILE, found.model_dump_json(indent=1) + "\n")
    print_selftest(found)


def print_selftest(found: SelfTest) -> None:
    """The sentences, and what was caught of slowdowns that were put in."""
    for sentence in sentences(found):
        _say(sentence)
    table = Table("slower", "of", "by", "caught: table alone", "with recheck", box=None)
    for row in found.caught:
        shares = f"{row.alone:.0%}", f"{row.settled:.0%}"
        table.add_row(WORDS[row.metric], row.where, f"{row.slowdown:.0%}", *shares)
    Console().print(table)


def _plan(scenario: str | None, device: str) -> Scenario:
    if scenario is None:
        return small_table(find.resolve_device(device))
    plan = find.scenario(scenario, device)
    if plan.quality is not None:
        raise BadInput(f"scenario '{plan.name}' measures quality; take one of times, as smoke")
    return plan


def _measure(
    folder: RunFolder, cells: list[Cell], settings: Settings, seconds: float
) -> list[tuple[tuple[Record, ...], tuple[Record, ...]]]:
    """Rounds as they are done; every record is on disk with its turn as ``occurrence``."""
    found = []
    begun = time.monotonic()
    try:
        for one in measure_rounds(cells, settings, seconds, folder.log_path):
            assert one.base is not None
            found.append((one.base, one.new))
            _keep(folder, one)
            if one.index == 0:
                round_s = time.monotonic() - begun
                if round_s * MIN_ROUNDS > seconds:
                    raise BadInput(too_short(round_s))
                _say(f"a round takes {round_s:.1f} s: about {seconds / round_s:.0f} rounds")
    except BuildUnavailable as problem:
        raise BadInput(f"nothing to resample: {problem.reason}") from problem
    except KeyboardInterrupt:
        folder.interrupt()
        raise
    return found


def _keep(folder: RunFolder, one: Round) -> None:
    for turn, records in enumerate((one.base or (), one.new)):
        for record in records:
            cell = record.cell.model_copy(update={"occurrence": 2 * one.index + turn})
            folder.append(record.model_copy(update={"cell": cell}))


def _machine(environment: Environment) -> str:
    return f"{environment.gpu or environment.cpu_model}, {environment.threads} threads"


def _say(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
