"""What the section ``quality`` makes every cell measure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ctxsweep.expansion import blocks, expand
from ctxsweep.records import Cell
from ctxsweep.scenario import Scenario

YARN = {"rope_type": "yarn", "factor": "auto", "original_max_position_embeddings": 1024}


def scenario(quality: dict[str, Any] | None = None, **changes: Any) -> Scenario:
    body: dict[str, Any] = {
        "name": "q",
        "contexts": [1024, 3000, 4096],
        "series": [
            {"name": "none", "model": "tiny-bytes"},
            {"name": "yarn", "model": "tiny-bytes", "rope": YARN},
        ],
        "procedure": {"kind": "independent"},
        "quality": {
            "reference": {"series": "none", "context": 1024},
            "target_tokens": 512,
            "stretches": 3,
            "short_context": 768,
            **(quality or {}),
        },
    }
    return Scenario.model_validate_json(json.dumps(body | changes))


def cell(of: Scenario, series: str, context: int) -> Cell:
    (found,) = [
        c
        for c in expand(of)
        if (c.series.name, c.context_tokens, c.role) == (series, context, "measure")
    ]
    return found


def passes(of: Scenario, series: str, context: int) -> list[tuple[int, int]]:
    quality = cell(of, series, context).quality
    assert quality is not None
    return [(p.context_tokens, p.end_offset) for p in quality.passes]


def test_a_cell_reads_its_context_then_the_short_one() -> None:
    assert passes(scenario(), "yarn", 4096) == [(4096, 0), (768, 0)]
    assert passes(scenario({"short_context": None}), "yarn", 3000) == [(3000, 0)]


def test_the_reference_is_read_back_over_the_longest_context() -> None:
    found = passes(scenario(), "none", 1024)
    assert found[:2] == [(1024, 0), (768, 0)]
    assert found[2:] == [(1024, offset) for offset in range(512, 4096 - 1024 + 1, 512)]
    assert passes(scenario(), "none", 4096) == [(4096, 0), (768, 0)]
    odd = passes(scenario(contexts=[1024, 3000]), "none", 1024)  # its start is covered, too
    assert odd[-1] == (1024, (3000 - 1024) // 16 * 16)


def test_all_cells_share_where_the_targets_end() -> None:
    ends = {c.quality.stretch_ends for c in expand(scenario()) if c.quality}
    assert ends == {(4097, 4097 + 512, 4097 + 1024)}
    plan = scenario().quality
    assert plan is not None and plan.needed_tokens((1024, 4096)) == 4097 + 1024


def test_every_context_has_a_model_of_its_own_and_its_own_target() -> None:
    cells = expand(scenario())
    assert all(len(block) == 1 for block in blocks(cells))
    targets = {
        c.context_tokens: c.series.rope.target_tokens for c in cells if c.series.rope is not None
    }
    assert targets == {n: n for n in (1024, 3000, 4096)}
    fixed = {"name": "yarn", "model": "tiny-bytes", "rope": {**YARN, "target_tokens": 9000}}
    held = expand(scenario(series=[{"name": "none", "model": "tiny-bytes"}, fixed]))
    assert {c.series.rope.target_tokens for c in held if c.series.rope} == {9000}


def test_without_quality_one_model_climbs_for_the_longest() -> None:
    plain = scenario(quality=None).model_copy(update={"quality": None})
    found = {c.series.rope.target_tokens for c in expand(plain) if c.series.rope}
    assert found == {4096}


def test_tasks_are_of_the_contexts_and_series_that_are_named() -> None:
    some = scenario({"tasks": {"passkey": {"contexts": [4096], "series": ["yarn"]}}})
    asked = {
        (c.series.name, c.context_tokens) for c in expand(some) if c.quality and c.quality.tasks
    }
    assert asked == {("yarn", 4096)}
    everywhere = scenario({"tasks": {"passkey": {}}})
    assert all(c.quality and c.quality.tasks for c in expand(everywhere))


def test_the_plan_knows_how_much_is_read() -> None:
    some = scenario({"tasks": {"passkey": {"depths": [0.25, 0.75], "trials": 2}}})
    quality = cell(some, "yarn", 4096).quality
    assert quality is not None
    assert quality.fed_tokens == 3 * (4096 + 768) + round(4096 * (0.75 + 2 * (0.75 + 0.25)))


def test_a_sentinel_measures_no_quality() -> None:
    guarded = scenario(procedure={"kind": "independent", "sentinel": {"context": 1024}})
    guards = [c for c in expand(guarded) if c.role == "sentinel"]
    assert guards and all(c.quality is None for c in guards)


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ({"reference": {"context": 2048}}, "nearest valid: 3000"),
        ({"target_tokens": 1024}, "nearest valid: 768"),
        ({"target_tokens": 520}, "nearest valid: 512"),
        ({"short_context": 8192, "target_tokens": 512}, "exceeds all contexts"),
        ({"tasks": {"passkey": {"contexts": [9000]}}}, "none of them is measured"),
        ({"tasks": {"passkey": {"depths": [1.5]}}}, "less than or equal to 1"),
        ({"stretches": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_said(quality: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        scenario(quality)
