"""Triton kernels in tests: on the GPU where there is one, else in Triton's interpreter.

Which of the two must be chosen before a kernel is defined, so it is chosen here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
if HAS_GPU:
    os.environ.pop("TRITON_INTERPRET", None)
else:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws without a generator of its own is the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The file of a real pretrained model, fetched unless it lies in the cache folder."""
    from filelock import FileLock

    from ctxsweep.cli.errors import BadInput
    from ctxsweep.cli.fetch import fetch_model
    from ctxsweep.models.pretrained import cache_folder

    cache_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_folder() / "fetch.lock"):  # other workers want it too
        try:
            return fetch_model("smollm2")
        except BadInput as problem:
            pytest.skip(f"needs SmolLM2: {problem}")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the Triton kernels run."""
    return torch.device("cuda" if HAS_GPU else "cpu")


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CTXSWEEP_REQUIRE_GPU") and not HAS_GPU:
        raise pytest.UsageError("torch finds no CUDA device, so there is nothing to test on one")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks for `device` is what `make test-gpu` runs."""
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many cases of the kernels' numerics were held against an oracle."""
    passed = terminalreporter.stats.get("passed", [])
    files = (re.search(r"tests/kernels/test_(?:triton_)?(\w+)\.py", one.nodeid) for one in passed)
    counts = Counter(file[1] for file in files if file)
    if counts:
        ops = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        terminalreporter.write_line(f"kernels: {counts.total()} cases passed ({ops})")
