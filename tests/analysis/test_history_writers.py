"""A history that several processes write, one at a time, and where it may lie."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from made_up_history import figure, history, stamp

from ctxsweep.analysis import history as module
from ctxsweep.analysis.history import append, frame_of, place, read
from ctxsweep.store import StoreError


def test_runs_that_are_added_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "nightly.parquet"
    with ThreadPoolExecutor(8) as pool:
        nights = [frame_of(stamp(night), [figure()]) for night in range(24)]
        list(pool.map(lambda frame: append(path, frame), nights))
    assert read(path)["run_id"].to_list() == [f"run-{night:03d}" for night in range(24)]


HOLD = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(1, flush=True)"


def test_a_history_that_another_process_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nightly.parquet"
    append(path, history(1, [figure()]))
    before = path.read_bytes()
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.1)
    command = (sys.executable, "-c", f"{HOLD}; sys.stdin.read()", str(path) + ".lock")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
        with pytest.raises(StoreError, match=r"nightly\.parquet: another process .* wait for it"):
            append(path, history(2, [figure()]))
        assert path.read_bytes() == before
        holder.send_signal(signal.SIGKILL)
    append(path, history(2, [figure()]))
    assert read(path).height == 2


def test_a_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "nightly.parquet"
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="not a Parquet file"):
        append(path, history(1, [figure()]))
    lock = os.open(tmp_path / "nightly.parquet.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


@pytest.mark.parametrize("name", ["", ".", "..", "../away", "/away", "a/b", "a/", ".hidden", "a\0"])
def test_a_scenario_that_is_no_plain_name_has_no_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot be the name of a folder"):
        place(tmp_path, "2-core-amd-epyc", name)
