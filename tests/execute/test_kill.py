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
SERIES = {name: {"chunk_s": 0.01, "decode_s": 0.01} for name in ("a", "b", "c")}
KILLS = 5
"""Of each kind a seed; two seeds make twenty."""


def start(root: Path, run: Path | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(DRIVER), str(root), json.dumps(SERIES)]
    return subprocess.Popen([*command, *([str(run)] if run else [])])


def worker_of(parent: int) -> psutil.Process | None:
    try:
        return next(iter(psutil.Process(parent).children()), None)
    except psutil.NoSuchProcess:
        return None


def records_of(root: Path) -> dict[str, str]:
    """Lines of the run's records by key, as they lie on disk."""
    folders = run_folders(root, "fake")
    if not folders:
        return {}
    return {r.cell.key: r.model_dump_json() for r in RunFolder.open(folders[0]).records()}


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_random_moments_loses_nothing_and_repeats_nothing(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    targets = ["parent", "child"] * KILLS
    chance.shuffle(targets)
    kept: dict[str, str] = {}
    killed: Counter[str] = Counter()
    while targets:
        folders = run_folders(tmp_path, "fake")
        process = start(tmp_path, folders[0] if folders else None)
        worker: psutil.Process | None = None
        while targets and process.poll() is None:
            time.sleep(chance.uniform(0.05, 0.7))
            worker = worker_of(process.pid)
            if worker is None:
                continue
            target = targets[-1]
            victim = process.pid if target == "parent" else worker.pid
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
            targets.pop()
            killed[target] += 1
            if target == "parent":
                break
        finished = process.wait(timeout=60)
        if worker is not None:
            # A child does not outlive its parent.
            psutil.wait_procs([worker], timeout=5)
            assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
        now = records_of(tmp_path)
        assert {key: now[key] for key in kept} == kept
        kept = now
        if finished in (0, 1):
            break
    while targets:
        # The sweep ended before all kills fell: the rest fall on a second run of its own.
        raise AssertionError(f"only {killed} before the sweep was done; make the series slower")
    run = run_folders(tmp_path, "fake")[0]
    last = start(tmp_path, run)
    assert last.wait(timeout=60) in (0, 1)
    folder = RunFolder.open(run)
    records = list(folder.records())
    assert Counter(r.cell.key for r in records) == Counter(folder.manifest.order)
    assert {key: line for key, line in records_of(tmp_path).items() if key in kept} == kept
    assert killed == {"parent": KILLS, "child": KILLS}
    assert folder.manifest.finished_at
    # A child that was killed costs its own cell, no other.
    failed = [r for r in records if r.status is not Status.OK]
    assert all(r.status is Status.ERROR for r in failed)
