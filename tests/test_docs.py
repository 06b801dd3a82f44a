"""The documents say what the code has: keys, commands, links, and the five things one can add."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from pydantic import BaseModel

from ctxsweep.analysis import comparison, summary
from ctxsweep.records import Record, Sample
from ctxsweep.store import Manifest
from ctxsweep_kernels.dispatch import TRITON_OPS

ROOT = Path(__file__).parents[1]
BASELINE = "kernels/ctxsweep_kernels/static/baseline.json"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "kernels/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
TYPES = [
    summary.Summary,
    summary.CellSummary,
    summary.Verdict,
    summary.Crossover,
    summary.CacheCheck,
    summary.LadderCost,
    summary.Drift,
    summary.GrowthPoint,
    summary.Estimate,
    comparison.Comparison,
    comparison.Change,
    comparison.Side,
    comparison.Recheck,
    comparison.NotCompared,
    comparison.Scatter,
    Record,
    Sample,
    Manifest,
]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_results_page_names_every_stored_key(kind: type[BaseModel]) -> None:
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    named = set(re.findall(r"`([^`]+)`", prose))
    assert set(kind.model_fields) <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_that_are_named_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
    assert named <= targets


def test_readme_names_every_folder_of_the_top_level() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = subprocess.run(
        ["git", "ls-tree", "-d", "--name-only", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for folder in listed.stdout.split():
        if not folder.startswith("."):
            assert f"{folder}/" in readme


def test_figures_of_the_kernels_readme_are_those_of_the_baseline() -> None:
    """One line or more for every op that has a kernel: what it needs on an H100, and spills."""
    text = (ROOT / "kernels/README.md").read_text(encoding="utf-8")
    baseline = json.loads((ROOT / BASELINE).read_text(encoding="utf-8"))["cases"]
    rows = re.findall(r"^\| `(\w+)`.*?\| `(\S+)` \| (\S+) per \w+ \| (\d+) \|", text, re.MULTILINE)
    assert {op for op, *_ in rows} == TRITON_OPS
    for _, case, per_unit, spilled in rows:
        found = baseline[case]["sm_90"]
        assert per_unit == f"{found['per_unit']:.3g}" and int(spilled) == found["spilled_bytes"], (
            case
        )
