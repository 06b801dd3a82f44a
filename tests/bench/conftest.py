"""The table of ratios that ``make bench`` ends with.

A benchmark times its subject with pytest-benchmark and adds rows: a ratio taken in this very run,
and the goal it is held against. A goal missed is shown, not failed: benchmarks measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

RATIOS = pytest.StashKey[list["Ratio"]]()


@dataclass(frozen=True)
class Ratio:
    """One line of the table. ``at_least``: the goal is a floor, otherwise a ceiling."""

    name: str
    value: float
    goal: float
    at_least: bool = True
    detail: str = ""

    @property
    def reached(self) -> bool:
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RATIOS] = []


@pytest.fixture
def add_ratio(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add a row: ``add_ratio(name, value, goal, at_least=True, detail="")``."""

    def add(name: str, value: float, goal: float, at_least: bool = True, detail: str = "") -> None:
        request.config.stash[RATIOS].append(Ratio(name, value, goal, at_least, detail))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ratios = terminalreporter.config.stash.get(RATIOS, [])
    if not ratios:
        return
    terminalreporter.section("ratios measured in this run")
    width = max(len(ratio.name) for ratio in ratios)
    for ratio in ratios:
        sign = "≥" if ratio.at_least else "≤"
        outcome = "reached" if ratio.reached else "MISSED"
        terminalreporter.write_line(
            f"{ratio.name:<{width}}  {ratio.value:8.3f}  goal {sign} {ratio.goal:<5g}"
            f"  {outcome:<8} {ratio.detail}"
        )
