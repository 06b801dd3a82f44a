"""Suspects of a comparison measured again, in turn with the base's build where it can be had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from ctxsweep.analysis.comparison import Change, Comparison
from ctxsweep.analysis.recheck import Again, settled, suspects
from ctxsweep.cli.errors import BadInput
from ctxsweep.cli.sides import Runs
from ctxsweep.execute.build import Build, BuildUnavailable, build_of
from ctxsweep.execute.recheck import Round, Settings, Unwatched, measure_again
from ctxsweep.measure.environment import read_environment
from ctxsweep.records import Cell, Environment
from ctxsweep.scenario import Scenario
from ctxsweep.scenario_regression import Regression

ROUND_CELL_S = 1.0
"""Time for timing the decode of a cell in one round."""


class _Counting(Unwatched):
    """Says of every round that it began."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._seen = -1

    def turn(self, index: int, build: Build, cells: Sequence[Cell]) -> None:
        if index > self._seen:
            self._seen = index
            _say(f"  round {index + 1} of at most {self._rounds}")


def measured_again(
    found: Comparison, base: Runs, new: Runs, plan: Regression, folder: Path
) -> Comparison:
    """The comparison with its suspects settled; as it was if nothing is suspect.

    Raises ``BadInput`` if this machine is not the one that the new run was measured on.
    """
    chosen = suspects(found)
    if not chosen:
        return found
    manifest = new.folders[-1].manifest
    _require_same_machine(manifest.environment)
    cells = _cells(chosen, new)
    settings = _settings(manifest.scenario)
    newer = _build(manifest.environment)
    _say(f"{len(cells)} cells are suspect: measuring them again")
    folder.mkdir(parents=True, exist_ok=True)
    rounds = [Again(r.base, r.new) for r in _rounds(cells, settings, base, newer, plan, folder)]
    return settled(found, chosen, rounds)


def _rounds(
    cells: Sequence[Cell],
    settings: Settings,
    base: Runs,
    newer: Build,
    plan: Regression,
    folder: Path,
) -> Iterator[Round]:
    """Rounds in turn with the base's build; with the new one alone where that cannot be had."""
    log = folder / "recheck.log"
    watch = _Counting(plan.recheck_rounds)

    def go(older: Build | None) -> Iterator[Round]:
        return measure_again(
            cells, settings, older, newer, plan.recheck_rounds, log, watch, most_s=plan.recheck_s
        )

    try:
        yield from go(build_of(base.folders[-1].manifest.environment))
    except BuildUnavailable as problem:
        _say(f"not in turn with the base's build: {problem.reason}")
        yield from go(None)


def _build(environment: Environment | None) -> Build:
    """The build of the new run: this one if it is of this commit, else that commit's tree."""
    here = Build.here()
    if environment is None or environment.commit in (None, here.commit):
        return here
    try:
        return build_of(environment)
    except BuildUnavailable as problem:
        raise BadInput(
            f"--recheck: the new run is of another build than this one, and {problem.reason}"
        ) from problem


def _cells(chosen: Sequence[Change], new: Runs) -> list[Cell]:
    wanted = {(c.series, c.batch_size, c.context_tokens) for c in chosen}
    cells = {
        (cell.series.name, cell.batch_size, cell.context_tokens): cell
        for run in new.party.runs
        for record in run.records
        if (cell := record.cell).role == "measure"
    }
    return [cells[place] for place in sorted(wanted & set(cells))]


def _settings(scenario: object) -> Settings:
    try:
        plan = Scenario.model_validate(scenario)
    except ValidationError as error:
        raise BadInput(
            "--recheck: the run was measured with a scenario that this version does not know "
            f"({error.errors()[0]['msg']})"
        ) from error
    # Rounds are the repetitions: many short ones tell more than few long ones.
    short = {"repeats": 1, "max_cell_s": min(plan.procedure.max_cell_s, ROUND_CELL_S)}
    procedure = plan.procedure.model_copy(update=short)
    return Settings.of(plan.model_copy(update={"procedure": procedure}))


def _require_same_machine(then: Environment | None) -> None:
    if then is None:
        return
    now = read_environment(then.device, then.threads)
    for name in ("cpu_model", "gpu", "physical_cores"):
        was, here = getattr(then, name), getattr(now, name)
        if was != here:
            raise BadInput(
                f"--recheck: the new run was measured where {name} = {was}, here it is {here}"
            )


def _say(text: str) -> None:
    Console(soft_wrap=True, stderr=True).print(text, highlight=False, markup=False)
