"""The suite catches what goes wrong in kernels: bugs are planted into copies, one at a time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import ctxsweep_kernels

TESTS = Path(__file__).parent
PACKAGE = Path(ctxsweep_kernels.__path__[0])


class Bug(NamedTuple):
    """A replacement in one file of the package, and the tests that must notice."""

    file: str
    right: str
    wrong: str
    tests: str
    chosen: str = ""


BUGS = {
    "the window is one token too long": Bug(
        "sliding_window/stretches.py",
        "seen = column[None, :] > (rows - window - start)[:, None]",
        "seen = column[None, :] >= (rows - window - start)[:, None]",
        "window",
        "windows_and_lengths",
    ),
    "a query does not see itself": Bug(
        "sliding_window/stretches.py",
        "column[None, :] <= (rows - start)[:, None]",
        "column[None, :] < (rows - start)[:, None]",
        "window",
        "head_dims",
    ),
    "a tile of the left edge is skipped": Bug(
        "sliding_window/stretches.py",
        "low = max(first - window + 1, 0) // BN",
        "low = max(first - window + BN, 0) // BN",
        "window",
        "windows_and_lengths",
    ),
    "the output is not rescaled when a larger score comes": Bug(
        "sliding_window/stretches.py",
        "v, out * rescale[:, None], OPERAND",
        "v, out, OPERAND",
        "window",
        "head_dims",
    ),
    "all query heads read the first KV head": Bug(
        "sliding_window/kernel.py",
        "kv_head = head // GROUP",
        "kv_head = head // GROUP * 0",
        "window",
        "groups_and_batch",
    ),
    "a page is read in another's place": Bug(
        "paged_prefill/kernel.py",
        "page = tl.load(table + position // PAGE)",
        "page = tl.load(table + position // PAGE // 2)",
        "prefill",
        "page_sizes",
    ),
    "the values are scaled with the keys' scales": Bug(
        "paged_decode/kernel.py",
        "p *= tl.load(scales_ptr + v_slots + slots",
        "p *= tl.load(scales_ptr + k_slots + slots",
        "decode",
        "dtypes",
    ),
    "a split is merged without its weight": Bug(
        "paged_decode/kernel.py",
        "tl.sum(part * weights[:, None], 0)",
        "tl.sum(part, 0)",
        "decode",
        "lengths_and_windows",
    ),
    "the sinks are hidden behind the window": Bug(
        "paged_decode/kernel.py",
        "seen &= (relative > -window) | (keys < sinks)[:, None]",
        "seen &= relative > -window",
        "decode",
        "options",
    ),
    "the rotation turns backwards": Bug(
        "rope_append/kernel.py", "a * cos - b * sin", "a * cos + b * sin", "append", "rotation"
    ),
    "fp8 ties are rounded up instead of to even": Bug(
        "rope_append/kernel.py",
        "((1 << (SHIFT - 1)) - 1) + ((whole >> SHIFT) & 1)",
        "(1 << (SHIFT - 1))",
        "append",
        "stored_bits",
    ),
    "the state does not decay from chunk to chunk": Bug(
        "ssd/kernel.py", "h *= tl.exp2(total.to(tl.float32))", "h *= 1.0", "mamba", "ssd"
    ),
    "a token of the chunk sees the one after it": Bug(
        "ssd/kernel.py",
        "position[:, None] >= position[None, :]",
        "position[:, None] + 1 >= position[None, :]",
        "mamba",
        "ssd",
    ),
    "the removal of a token acts on itself": Bug(
        "wkv7/kernel.py",
        "Mak = tl.where(row > column, Mak, 0.0)",
        "Mak = tl.where(row >= column, Mak, 0.0)",
        "linear",
        "every_length and wkv7",
    ),
    "the state is kept without its decay": Bug(
        "retention/kernel.py",
        "tl.load(state_ptr + tile, mask=mask) * gamma",
        "tl.load(state_ptr + tile, mask=mask)",
        "linear",
        "every_length and retention",
    ),
}


def run_tests(package_root: Path, tests: str, chosen: str) -> subprocess.CompletedProcess[str]:
    """The tests of one op over the package in `package_root`."""
    path = os.pathsep.join([str(package_root), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, f"{TESTS}/test_triton_{tests}.py", "-k", chosen],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name: str, tmp_path: Path) -> None:
    bug = BUGS[name]
    copy = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / bug.file
    text = file.read_text(encoding="utf-8")
    assert text.count(bug.right) == 1, f"{bug.right!r} is not, or not once, in {bug.file}"
    file.write_text(text.replace(bug.right, bug.wrong), encoding="utf-8")
    done = run_tests(tmp_path, bug.tests, bug.chosen)
    assert done.returncode == 1, f"not noticed:\n{done.stdout}"
    noticed = r"above the budget|holds NaN or infinity|assert torch\.equal|Mismatch|assert \("
    assert re.search(noticed, done.stdout), f"failed for another reason:\n{done.stdout}"


def test_without_a_bug_the_copy_passes(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name)
    done = run_tests(tmp_path, "window", "head_dims or groups_and_batch")
    assert done.returncode == 0, done.stdout
