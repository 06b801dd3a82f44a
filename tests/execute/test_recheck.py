"""Suspects measured again: in turns, each record from the tree that it should be from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import Repository
from sweep_driver import scenario_of

from ctxsweep.analysis.samples import step_times
from ctxsweep.execute.build import Build, BuildUnavailable, build_at
from ctxsweep.execute.recheck import Round, Settings, Unwatched, measure_again
from ctxsweep.expansion import expand
from ctxsweep.records import Cell, Record, Series, Status
from ctxsweep.scenario import Budgets, Procedure, Scenario

WORKER = "harness/ctxsweep/execute/worker.py"
MAIN = "    die_with_parent()\n    stream = take_stdout()\n"
MARKED = 'engine = {**record.engine, "procedure": procedure.__name__'
DECODE_C = "kernels/ctxsweep_kernels/paged_decode/decode.c"
SLEEP_S = 0.01
QUICK = Procedure(repeats=1, max_cell_s=0.1, min_samples=2, warmup_tokens=2)


class Turns(Unwatched):
    """Remembers who came when."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, list[int]]] = []

    def turn(self, index: int, build: Build, cells: Sequence[Cell]) -> None:
        self.seen.append((index, build.label, [cell.context_tokens for cell in cells]))


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Build]:
    """Builds of this tree with changes; without one, of this tree."""
    folder = tmp_path_factory.mktemp("planted")
    repository = Repository(folder / "project")

    def build(*changes: tuple[str, str, str]) -> Build:
        commit = repository.plant(*changes) if changes else repository.first
        return build_at(commit, repository.folder, folder / "builds")

    return build


def base_of(plant: Callable[..., Build]) -> Build:
    """Says that it is another, and dies where it is told to."""
    dies = '    if os.environ.get("PLANTED_DEATH"):\n        os._exit(3)\n'
    return plant(
        (WORKER, MARKED, MARKED + ', "planted": True'), (WORKER, MAIN, dies + MAIN)
    ).model_copy(update={"label": "base"})


@pytest.fixture
def again(tmp_path: Path) -> Callable[..., Iterator[Round]]:
    def measure(
        cells: Sequence[Cell], base: Build | None, rounds: int = 2, **more: Any
    ) -> Iterator[Round]:
        settings = Settings.of(more.pop("scenario", scenario_of({"one": {}}, procedure=QUICK)))
        log = tmp_path / "log.txt"
        return measure_again(cells, settings, base, Build.here(), rounds, log, **more)

    return measure


def fake_cells(*contexts: int, kind: str = "ladder", **series: dict[str, Any]) -> list[Cell]:
    procedure = QUICK.model_copy(update={"kind": kind})
    plan = scenario_of(series or {"one": {}}, contexts=contexts, procedure=procedure)
    return sorted(expand(plan), key=lambda cell: (cell.series.name, cell.context_tokens))


def marks(records: Sequence[Record] | None) -> list[bool]:
    return [bool(record.engine.get("planted")) for record in records or ()]


def test_builds_take_turns_and_each_record_is_of_its_tree(
    plant: Callable[..., Build], again: Callable[..., Iterator[Round]]
) -> None:
    base, turns = base_of(plant), Turns()
    cells = fake_cells(1024, 2048, a={}, b={})
    mixed = [cells[i] for i in (1, 2, 0)]  # b@1024 between both of a
    rounds = list(again(mixed, base, 2, watch=turns))
    assert [one.index for one in rounds] == [0, 1]
    for one in rounds:
        assert one.base is not None
        assert [r.cell.key for r in one.base] == [r.cell.key for r in one.new]
        assert [r.cell.key for r in one.new] == [cell.key for cell in mixed]
        assert {r.status for r in (*one.base, *one.new)} == {Status.OK}
        assert (marks(one.base), marks(one.new)) == ([True] * 3, [False] * 3)
        commits = {r.environment.commit for r in one.base if r.environment}
        assert commits == {base.commit} != {Build.here().commit}
    here = "this build"
    assert turns.seen == [
        (0, "base", [2048, 1024]),
        (0, here, [2048, 1024]),
        (0, "base", [1024]),
        (0, here, [1024]),
        (1, here, [2048, 1024]),
        (1, "base", [2048, 1024]),
        (1, here, [1024]),
        (1, "base", [1024]),
    ]


def test_the_procedure_of_the_cell_is_kept(again: Callable[..., Iterator[Round]]) -> None:
    for kind in ("ladder", "independent"):
        (one,) = again(fake_cells(1024, 2048, kind=kind), None, 1)
        assert [record.engine["procedure"] for record in one.new] == [kind] * 2
        assert all(record.ceilings is None for record in one.new)


def test_without_a_base_only_the_new_build_is_measured(
    again: Callable[..., Iterator[Round]],
) -> None:
    turns = Turns()
    rounds = list(again(fake_cells(1024), None, 2, watch=turns))
    assert [one.base for one in rounds] == [None, None]
    assert [record.status for one in rounds for record in one.new] == [Status.OK] * 2
    assert [label for _, label, _ in turns.seen] == ["this build"] * 2


def test_no_cells_are_no_rounds(again: Callable[..., Iterator[Round]]) -> None:
    assert list(again([], None, 3)) == []


def test_time_ends_the_rounds_but_not_before_the_second(
    again: Callable[..., Iterator[Round]],
) -> None:
    assert [one.index for one in again(fake_cells(1024), None, 5, most_s=0.0)] == [0, 1, 2, 3]


def test_a_cell_asked_for_twice_is_measured_once(again: Callable[..., Iterator[Round]]) -> None:
    (cell,) = fake_cells(1024)
    turns = Turns()
    (one,) = again([cell, cell], None, 1, watch=turns)
    assert [len(cells) for _, _, cells in turns.seen] == [1]
    assert len(one.new) == 2


def test_a_base_that_dies_at_once_is_unavailable(
    plant: Callable[..., Build],
    again: Callable[..., Iterator[Round]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLANTED_DEATH", "yes")
    with pytest.raises(BuildUnavailable, match=r"base fails: .*exit code 3"):
        next(again(fake_cells(1024), base_of(plant)))


def test_a_base_that_dies_later_gives_records(
    plant: Callable[..., Build],
    again: Callable[..., Iterator[Round]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = again(fake_cells(1024, 2048), base_of(plant), 2)
    first = next(rounds)
    monkeypatch.setenv("PLANTED_DEATH", "yes")
    second = next(rounds)
    assert [r.status for r in first.base or ()] == [Status.OK] * 2
    assert [r.status for r in second.base or ()] == [Status.ERROR] * 2
    assert [r.status for r in second.new] == [Status.OK] * 2


def test_a_base_that_lacks_time_is_a_record_and_a_new_build_may_fail(
    plant: Callable[..., Build], again: Callable[..., Iterator[Round]]
) -> None:
    slow = scenario_of({"one": {}}, procedure=QUICK, budgets=Budgets(cell_s=0.5))
    hangs = fake_cells(1024, one={"fault": ["hang", 500]})
    (one,) = again(hangs, base_of(plant), 1, scenario=slow)
    assert [r.status for r in (*(one.base or ()), *one.new)] == [Status.TIMEOUT] * 2
    (one,) = again(fake_cells(1024, one={"fault": ["raise", 500]}), None, 1)
    assert [r.status for r in one.new] == [Status.ERROR]


def test_a_base_whose_records_cannot_be_read(
    plant: Callable[..., Build], again: Callable[..., Iterator[Round]]
) -> None:
    job = "harness/ctxsweep/execute/job.py"
    chatty = plant((job, "    position: int\n", "    position: int\n    mood: str = 'good'\n"))
    with pytest.raises(BuildUnavailable, match=r"answers in other words: .*mood"):
        next(again(fake_cells(1024), chatty))


def test_an_older_tree_that_names_cells_otherwise_and_knows_no_commit(
    plant: Callable[..., Build], again: Callable[..., Iterator[Round]]
) -> None:
    records = "harness/ctxsweep/records.py"
    field = (
        '    occurrence: int = Field(0, description="Which repetition of a sentinel this is.")\n'
    )
    more = '    mood: str = Field("good", exclude=True)\n'  # not in the key
    key = "hashlib.sha256(text.encode()).hexdigest()[:16]"
    base = plant(
        (records, field, field + more),
        (records, key, 'hashlib.sha256(b"older" + text.encode()).hexdigest()[:16]'),
        ("harness/ctxsweep/measure/environment.py", "    if unpacked:\n", "    if False:\n"),
    )
    begun: list[int] = []

    class Begun(Unwatched):
        def begin(self, cell: Cell) -> None:
            begun.append(cell.context_tokens)

    (one,) = again(fake_cells(1024, 2048), base, 1, watch=Begun())
    assert [r.status for r in one.base or ()] == [Status.OK] * 2
    known = [(r.environment.commit, r.environment.dirty) for r in one.base or () if r.environment]
    assert known == [(base.commit, False)] * 2
    assert set(begun) == {1024, 2048}


def test_a_child_that_ran_another_commit(
    plant: Callable[..., Build], again: Callable[..., Iterator[Round]]
) -> None:
    base = plant().model_copy(update={"commit": "0" * 40})
    with pytest.raises(BuildUnavailable, match=r"its child ran .* instead"):
        next(again(fake_cells(1024), base))


def test_a_base_with_a_slow_c_kernel_is_measured_as_slow(
    plant: Callable[..., Build], again: Callable[..., Iterator[Round]]
) -> None:
    """The tiny model of ``smoke``: what is compiled is of the tree, as the Python is."""
    begin = "enum outcome decode(struct job *job)\n{\n"
    pause = f"    nanosleep(&(struct timespec){{0, {int(SLEEP_S * 1e9)}}}, NULL);\n"
    include = "#include <stdlib.h>\n"
    base = plant(
        (DECODE_C, begin, begin + pause), (DECODE_C, include, include + "#include <time.h>\n")
    )
    plan = Scenario(
        name="smoke",
        series=(Series(name="gqa", model="tiny-gqa"),),
        contexts=(128, 256),
        generate_tokens=4,
        threads=1,
        procedure=QUICK.model_copy(update={"max_noise": 0.2}),
    )
    rounds = list(again(expand(plan), base, 2, scenario=plan))
    assert len(rounds) == 2
    for one in rounds:
        for slow, quick in zip(one.base or (), one.new, strict=True):
            assert slow.engine["implementations"]["paged_decode_attention"] == "c"
            layers = slow.engine["model"]["num_layers"]
            assert np.median(step_times(slow)) > layers * SLEEP_S > np.median(step_times(quick))
