"""From a scenario to ordered cells: nothing lost, nothing twice, seeded order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ctxsweep.expansion import blocks, expand
from ctxsweep.records import Series
from ctxsweep.scenario import Procedure, Scenario, Sentinel, load_scenario

LONG = Path(__file__).parents[1] / "scenarios" / "long_ctx.yaml"

sentinels = st.none() | st.builds(Sentinel, every=st.integers(1, 9), context=st.just(512))
procedures = st.builds(Procedure, kind=st.just("ladder"), sentinel=sentinels) | st.builds(
    Procedure,
    kind=st.just("independent"),
    order=st.sampled_from(["random", "abba"]),
    sentinel=sentinels,
)
scenarios = st.builds(
    Scenario,
    name=st.just("s"),
    contexts=st.lists(st.integers(1, 1 << 20), min_size=1, max_size=5),
    batch_sizes=st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True).map(tuple),
    seed=st.integers(0, 99),
    procedure=procedures,
    series=st.integers(1, 5).map(
        lambda n: tuple(Series(name=f"s{i}", model="tiny-gqa") for i in range(n))
    ),
)


@given(scenarios)
@settings(max_examples=150)
def test_every_point_once(scenario: Scenario) -> None:
    cells = expand(scenario)
    measured = [cell for cell in cells if cell.role == "measure"]
    points = {(c.series.name, c.context_tokens, c.batch_size) for c in measured}
    wanted = {
        (series.name, n, batch_size)
        for series in scenario.series
        for n in scenario.contexts
        for batch_size in scenario.batch_sizes
    }
    assert points == wanted
    assert len(measured) == len(wanted)
    assert max(Counter(cell.key for cell in cells).values()) == 1
    assert expand(scenario) == cells


@given(scenarios)
@settings(max_examples=100)
def test_blocks_are_what_one_child_measures(scenario: Scenario) -> None:
    cells = expand(scenario)
    parts = list(blocks(cells))
    assert tuple(cell for block in parts for cell in block) == cells
    for block in parts:
        assert len({(c.series.name, c.batch_size, c.role, c.occurrence) for c in block}) == 1
    if scenario.procedure.kind == "ladder":
        measured = [block for block in parts if block[0].role == "measure"]
        assert len(measured) == len(scenario.series) * len(scenario.batch_sizes)
        for block in measured:
            lengths = [cell.context_tokens for cell in block]
            assert lengths == sorted(lengths)


@given(scenarios.filter(lambda scenario: scenario.procedure.sentinel is not None))
@settings(max_examples=100)
def test_sentinels_stand_at_both_ends(scenario: Scenario) -> None:
    cells = expand(scenario)
    guards = [cell for cell in cells if cell.role == "sentinel"]
    assert cells[0] is guards[0]
    assert cells[-1] is guards[-1]
    assert [cell.occurrence for cell in guards] == list(range(len(guards)))
    assert {(cell.series.name, cell.context_tokens) for cell in guards} == {("s0", 512)}


def test_abba_alternates() -> None:
    scenario = Scenario(
        name="s",
        contexts=(1, 2, 3),
        procedure=Procedure(kind="independent", order="abba"),
        series=(Series(name="a", model="m"), Series(name="b", model="m")),
    )
    cells = expand(scenario)
    assert "".join(cell.series.name for cell in cells) == "abbaab"
    assert [cell.context_tokens for cell in cells] == [1, 1, 2, 2, 3, 3]


def test_the_seed_decides_the_order() -> None:
    def order(seed: int) -> tuple[str, ...]:
        plan = load_scenario(LONG, seed=seed)
        return tuple(dict.fromkeys(c.series.name for c in expand(plan) if c.role == "measure"))

    orders = [order(seed) for seed in range(8)]
    assert order(3) == orders[3]
    assert len(set(orders)) > 4
    assert {frozenset(one) for one in orders} == {frozenset(orders[0])}
