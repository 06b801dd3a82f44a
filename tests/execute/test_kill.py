"""kill -9 of the parent or of its child at random moments: nothing is lost, nothing done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from ctxsweep.records import Status
from ctxsweep.store import RunFolder, run_folders

DRIVER = Path(__file__).parent / "sweep_driver.py"
SERIES = {name: {"chunk_s": 0.01, "decode_s": 0.03} for name in "abcdef"}
KILLS_OF_EACH = 5
"""Of the parent and of the child, for each seed: two seeds make twenty kills."""


def start(root: Path) -> subprocess.Popen[bytes]:
    """The sweep, or what is left of it."""
    command = [sys.executable, str(DRIVER), str(root), json.dumps(SERIES)]
    return subprocess.Popen([*command, *map(str, run_folders(root, "fake"))])


def worker_of(parent: int) -> psutil.Process | None:
    try:
        return next(iter(psutil.Process(parent).children()), None)
    except psutil.NoSuchProcess:
        return None


def lines_on_disk(root: Path) -> list[str]:
    """Whole records of the run so far."""
    runs = [RunFolder.open(path) for path in run_folders(root, "fake")]
    return [record.model_dump_json() for run in runs for record in run.records()]


def kill_one(
    root: Path, process: subprocess.Popen[bytes], target: str, more: int, wait_s: float
) -> None:
    """Kill parent or child a while after ``more`` new records are on disk."""
    goal = count_lines(root) + more
    while process.poll() is None and count_lines(root) < goal:
        time.sleep(0.003)
    await_worker(process)
    time.sleep(wait_s)
    worker = await_worker(process)
    assert worker is not None, "the sweep was done before the kill; make the series slower"
    os.kill(process.pid if target == "parent" else worker.pid, signal.SIGKILL)
    if target == "parent":
        process.wait()
    _, alive = psutil.wait_procs([worker], timeout=5)
    assert not alive, "a child outlived its parent"


def count_lines(root: Path) -> int:
    files = root.glob("fake/*/records.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files)


def await_worker(process: subprocess.Popen[bytes]) -> psutil.Process | None:
    """The child of the sweep as soon as there is one; None if the sweep ends."""
    while process.poll() is None:
        worker = worker_of(process.pid)
        if worker is not None:
            return worker
        time.sleep(0.01)
    return None


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_random_moments_loses_nothing_and_repeats_nothing(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    targets = ["parent", "child"] * KILLS_OF_EACH
    chance.shuffle(targets)
    kept: list[str] = []
    progress = []
    process = start(tmp_path)
    for target in targets:
        if process.poll() is not None:
            process = start(tmp_path)
        more, wait_s = chance.choice([0, 1, 1, 2]), chance.choice([0.0, 0.02, 0.1, 0.4])
        kill_one(tmp_path, process, target, more, chance.uniform(0, wait_s))
        now = lines_on_disk(tmp_path)
        assert now[: len(kept)] == kept
        kept = now
        progress.append(len(kept))
    if process.poll() is not None:
        process = start(tmp_path)
    assert process.wait(timeout=60) in (0, 1)
    (path,) = run_folders(tmp_path, "fake")
    folder = RunFolder.open(path)
    records = list(folder.records())
    assert lines_on_disk(tmp_path)[: len(kept)] == kept
    assert Counter(r.cell.key for r in records) == Counter(folder.manifest.order)
    assert folder.manifest.finished_at
    assert len(set(progress)) > 4, f"kills fell at few moments: {progress}"
    failed = [r for r in records if r.status is not Status.OK]
    assert all(r.status is Status.ERROR and "SIGKILL" in r.detail for r in failed)
    assert len(failed) <= KILLS_OF_EACH
    print(f"records on disk after each kill: {progress} of {len(records)}, failed: {len(failed)}")
