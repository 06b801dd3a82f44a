"""Imports go one way, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "triton",
    "transformers",
    "numpy",
    "scipy",
    "polars",
    "altair",
    "vl_convert",
    "pydantic",
    "jinja2",
    "yaml",
    "psutil",
}
TORCH = {"torch", "triton", "transformers", "rwkv", "vllm"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after ``code`` ran in a fresh interpreter."""
    report = (
        f"{code}\nimport sys; print('\\n'.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = {['ctxsweep', *arguments]}\n"
        "from ctxsweep.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0"
    )
    # To parse the options of a command, typer itself may load pydantic.
    own = HEAVY - {"pydantic"} if "run" in arguments else HEAVY
    assert not loaded_by(code) & own


def test_completion_loads_nothing_heavy() -> None:
    assert not loaded_by("from ctxsweep.cli import complete; complete.scenarios('')") & HEAVY


@pytest.mark.parametrize(
    "module",
    [
        "ctxsweep.records",
        "ctxsweep.scenario",
        "ctxsweep.scenario_schema",
        "ctxsweep.store",
        "ctxsweep.models.catalog",
        "ctxsweep.backends.native",
        "ctxsweep.analysis.summarise",
        "ctxsweep.analysis.tables",
        "ctxsweep.report.page",
        "ctxsweep.cli.find",
        "ctxsweep.cli.listing",
        "ctxsweep.execute.sweep",
    ],
)
def test_only_measuring_loads_torch(module: str) -> None:
    assert not loaded_by(f"import {module}") & TORCH


def test_import_rules() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint_imports], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_harness_and_kernels_are_source_roots() -> None:
    """A package named ``kernels`` here would hide the one that transformers imports."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "harness" / "__init__.py").exists()
