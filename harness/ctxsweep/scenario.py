"""The scenario file: its schema, and how it is loaded for a device.

A file is a mapping. ``defaults`` lie under every series; the ``cpu`` or ``cuda`` section lies over
the whole file on that device (mappings merge key by key, null removes a key); options of the
command line lie over both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ctxsweep.frozen import Frozen
from ctxsweep.records import ProcedureKind, Series
from ctxsweep.scenario_frontier import Frontier
from ctxsweep.scenario_messages import first_error, nearest
from ctxsweep.scenario_quality import QualityPlan
from ctxsweep.scenario_regression import Regression
from ctxsweep.scenario_units import Bytes, Contexts, ContextTokens, parse_contexts
from ctxsweep.scenario_yaml import (
    Document,
    ScenarioError,
    merge,
    parse_value,
    read_document,
)

__all__ = [
    "Budgets",
    "Device",
    "Procedure",
    "Scenario",
    "ScenarioError",
    "Sentinel",
    "load_scenario",
    "parse_contexts",
]

Device = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

MAX_CELLS = 10_000


def _tuple(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]


class Sentinel(Frozen):
    """One small cell, repeated through the sweep: if it drifts, so did the machine."""

    series: str | None = Field(None, description="Default: the first series of the file.")
    context: ContextTokens = Field(1024, description="Context length, as 4k.")
    every: int = Field(3, ge=1, description="Blocks between two sentinels; one at each end too.")


class Procedure(Frozen):
    """How a cell is measured, and when it is enough."""

    kind: ProcedureKind = Field(
        "ladder", description="ladder: one climb, timed at every rung. independent: each afresh."
    )
    order: Literal["random", "abba"] = Field(
        "random", description="Order of the series; abba alternates them cell by cell."
    )
    repeats: int = Field(
        3, ge=1, le=1000, description="Prefills of a cell, or climbs to a rung, at most."
    )
    extra_climb_share: float = Field(
        0.15,
        ge=0,
        le=100,
        description="Ladder: time for repeated, shorter climbs as a share of the longest climb's.",
    )
    warmup_tokens: int = Field(
        64, ge=0, le=1 << 20, description="Tokens prefilled, and steps decoded at most, unrecorded."
    )
    min_samples: int = Field(8, ge=1, le=1 << 20, description="Decode steps before noise may stop.")
    max_noise: float = Field(
        0.05, gt=0, le=1, description="Stop when the median's relative half-interval is below it."
    )
    max_cell_s: Seconds = Field(2.0, description="Time for timing the decode of one cell.")
    memory_every_tokens: int = Field(
        64, ge=1, le=1 << 20, description="Decoded tokens between two memory readings."
    )
    sentinel: Sentinel | None = None

    @model_validator(mode="after")
    def _alternation(self) -> Self:
        if self.order == "abba" and self.kind == "ladder":
            raise ValueError(
                "order 'abba' alternates single cells, a ladder climbs through them all; "
                "set kind: independent, or order: random"
            )
        return self


class Budgets(Frozen):
    """What a sweep may take. A cell that would take more is stored as such, and not run."""

    memory_bytes: Bytes | None = Field(
        None, description="Of a child process, as 8GiB. Default: most of what is free."
    )
    load_s: Seconds = Field(120.0, description="Loading one series.")
    cell_s: Seconds = Field(300.0, description="One cell; predicted or measured above: not run.")
    series_s: Seconds = Field(1800.0, description="One series with all its cells.")


class Scenario(Frozen):
    """A whole sweep, resolved for one device."""

    name: str = Field("", pattern=rf"^{NAME}$", description="Default: the file's name.")
    question: str = Field("", description="What the sweep shall answer, for the report.")
    device: Device = "cpu"
    contexts: Contexts = Field(description="Context lengths: [1024, 4096] or 1k-128k*2.")
    generate_tokens: int = Field(64, ge=1, le=1 << 20, description="Steps decoded at a context.")
    batch_sizes: Annotated[tuple[BatchSize, ...], BeforeValidator(_tuple)] = Field(
        (1,), min_length=1, description="Sequences at a time; every size is swept."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Of prompts, weights and order.")
    threads: int | None = Field(None, ge=1, le=4096, description="Default: the physical cores.")
    procedure: Procedure = Procedure()
    budgets: Budgets = Budgets()
    quality: QualityPlan | None = Field(
        None, description="Losses of a text and tasks at every context; cells are independent."
    )
    regression: Regression = Regression()
    frontier: Frontier | None = Field(
        None, description="After the sweep: the longest context or largest batch within limits."
    )
    series: tuple[Series, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _quality(self) -> Self:
        if self.quality is None:
            return self
        reference = self.quality.reference
        if reference.context not in self.contexts:
            near = min(self.contexts, key=lambda n: abs(n - reference.context))
            raise ValueError(
                f"quality.reference.context = {reference.context} is not one of the contexts; "
                f"nearest valid: {near}"
            )
        self._check_tasks(self.quality)
        if (self.quality.short_context or 0) > max(self.contexts):
            raise ValueError(
                f"quality.short_context = {self.quality.short_context} exceeds all contexts; leave "
                "it out, or take a shorter one"
            )
        if self.batch_sizes != (1,):
            raise ValueError("quality is measured one sequence at a time; set batch_sizes: 1")
        if self.procedure.kind == "ladder" and "kind" in self.procedure.model_fields_set:
            raise ValueError(
                "quality measures every context afresh; set procedure.kind: independent"
            )
        if self.quality.target_tokens > min(self.contexts):
            raise ValueError(
                f"quality.target_tokens = {self.quality.target_tokens} exceeds the shortest "
                f"context; nearest valid: {min(self.contexts)}"
            )
        return self

    def _check_tasks(self, quality: QualityPlan) -> None:
        for task, asked in quality.tasks.items():
            if asked.contexts is not None and not set(asked.contexts) & set(self.contexts):
                raise ValueError(
                    f"quality.tasks.{task}.contexts = {', '.join(map(str, asked.contexts))}: none "
                    f"of them is measured; the contexts are {', '.join(map(str, self.contexts))}"
                )

    @model_validator(mode="after")
    def _frontier(self) -> Self:
        if self.frontier is not None:
            names = [one.name for one in self.series]
            times = {f"budgets.{key}": getattr(self.budgets, key) for key in ("cell_s", "series_s")}
            self.frontier.check(names, self.budgets.memory_bytes, times)
        return self

    @model_validator(mode="after")
    def _size(self) -> Self:
        cells = len(self.series) * len(self.contexts) * len(self.batch_sizes)
        if cells > MAX_CELLS:
            raise ValueError(f"{cells} cells; at most {MAX_CELLS} make a sweep, take fewer")
        return self


FindProblem = Callable[[Series], tuple[str, str] | None]


def load_scenario(
    path: Path,
    device: Device = "cpu",
    overrides: Sequence[str] = (),
    *,
    contexts: str | None = None,
    series: str | None = None,
    seed: int | None = None,
    find_problem: FindProblem | None = None,
) -> Scenario:
    """Read a scenario file for a device, with what the command line says laid over it.

    ``overrides`` are ``key.path=value`` of ``--set``; ``contexts``, ``series`` (names parted by
    commas) and ``seed`` are the options of these names. ``find_problem`` says key and message if
    a series can never run (the engines know, this module does not). Raises ``ScenarioError``.
    """
    document = read_document(path)
    _apply_profile(document, device)
    for text in overrides:
        _apply_override(document, text)
    if contexts is not None:
        document.put(("contexts",), contexts, f"--contexts {contexts}")
    if seed is not None:
        document.put(("seed",), seed, f"--seed {seed}")
    names = _apply_defaults(document)
    scenario = _validate(document, path, device, names)
    _check_sentinel(document, scenario)
    scenario = _with_reference(document, scenario)
    for one in scenario.series if find_problem else ():
        problem = find_problem(one.aimed(max(scenario.contexts))) if find_problem else None
        if problem:
            key, message = problem
            raise document.error(("series", one.name, *key.split(".")), message)
    return scenario if series is None else _select(scenario, series)


def _apply_profile(document: Document, device: Device) -> None:
    if "device" in document.data:
        raise document.error(("device",), f"unknown key; write a '{device}:' section, or --device")
    profiles: dict[str, Any] = {}
    for name in DEVICES:
        profiles[name] = document.data.pop(name, None)
        if not isinstance(profiles[name], dict | None):
            raise document.error((name,), "must be a mapping that is laid over the file")
        for nested in ("device", *DEVICES):
            if nested in (profiles[name] or {}):
                raise document.error((name, nested), "unknown key; a profile holds no profile")
    document.data = merge(document.data, profiles[device] or {})
    document.overlay((), (device,))


def _apply_override(document: Document, text: str) -> None:
    key, equals, value = text.partition("=")
    place = f"--set {text[:80]}"
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ScenarioError(place, "", "write it as key=value, as in procedure.repeats=5")
    if path[0] in ("device", *DEVICES):
        raise ScenarioError(place, key, "cannot be set; choose the profile with --device")
    document.put(path, parse_value(value, place), place)


def _apply_defaults(document: Document) -> list[str]:
    """Lay each series over the defaults, make the mapping a list; its names in order."""
    defaults = document.data.pop("defaults", None) or {}
    series = document.data.get("series")
    if not isinstance(defaults, dict):
        raise document.error(("defaults",), "must be a mapping of keys of a series")
    if not isinstance(series, dict) or not series:
        what = "is missing" if "series" not in document.data else "is empty or not a mapping"
        raise document.error(("series",), f"{what}; write a name and below it 'model: tiny-gqa'")
    for name, body in series.items():
        if not re.fullmatch(NAME, name):
            raise document.error(("series", name), "a name is made of letters, digits and . _ -")
        if not isinstance(body, dict | None):
            raise document.error(("series", name), "must be a mapping such as 'model: tiny-gqa'")
        if "name" in (body or {}):
            raise document.error(("series", name, "name"), "unknown key; the name is above")
        document.overlay(("series", name), ("defaults",), under=True)
    document.data["series"] = [
        {**merge(defaults, body or {}), "name": name} for name, body in series.items()
    ]
    return list(series)


def _validate(document: Document, path: Path, device: Device, names: list[str]) -> Scenario:
    data = {"name": path.stem, **document.data, "device": device}
    try:
        return Scenario.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        place, key, message = first_error(error, Scenario, document, names)
        raise ScenarioError(place, key, message) from None


def _check_sentinel(document: Document, scenario: Scenario) -> None:
    sentinel = scenario.procedure.sentinel
    names = [one.name for one in scenario.series]
    if sentinel and sentinel.series is not None and sentinel.series not in names:
        raise document.error(
            ("procedure", "sentinel", "series"),
            f"no series is named '{sentinel.series}'; {nearest(sentinel.series, names)}",
        )


def _with_reference(document: Document, scenario: Scenario) -> Scenario:
    """The series that quality is compared with, by name: the first, unless the file says which."""
    if scenario.quality is None:
        return scenario
    names = [one.name for one in scenario.series]
    named = scenario.quality.reference.series or names[0]
    if named not in names:
        raise document.error(
            ("quality", "reference", "series"),
            f"no series is named '{named}'; {nearest(named, names)}",
        )
    for task, asked in scenario.quality.tasks.items():
        for name in asked.series or ():
            if name not in names:
                raise document.error(
                    ("quality", "tasks", task, "series"),
                    f"no series is named '{name}'; {nearest(name, names)}",
                )
    reference = scenario.quality.reference.model_copy(update={"series": named})
    quality = scenario.quality.model_copy(update={"reference": reference})
    procedure = scenario.procedure.model_copy(update={"kind": "independent"})
    return scenario.model_copy(update={"quality": quality, "procedure": procedure})


def _select(scenario: Scenario, wanted: str) -> Scenario:
    """Keep the series named, in their order, and the reference of quality.

    A sentinel that goes with the others moves to the first.
    """
    by_name = {one.name: one for one in scenario.series}
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names or [""]:
        if name not in by_name:
            message = f"no series is named '{name}'; {nearest(name, list(by_name))}"
            raise ScenarioError(f"--series {wanted[:80]}", "", message)
    reference = scenario.quality and scenario.quality.reference.series
    if reference and reference not in names:
        names.insert(0, reference)
    procedure = scenario.procedure
    if procedure.sentinel and procedure.sentinel.series not in names:
        moved = procedure.sentinel.model_copy(update={"series": names[0]})
        procedure = procedure.model_copy(update={"sentinel": moved})
    kept = tuple(by_name[name] for name in dict.fromkeys(names))
    return scenario.model_copy(update={"series": kept, "procedure": procedure})
