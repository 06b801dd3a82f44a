"""Packages that are oracles only: importable while a test of this folder runs, and not after.

They lie in ``.venv/oracles`` (``make setup``), out of the environment's own packages: transformers
takes mamba-ssm's kernels wherever it can import them, and those crash on a CPU.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers  # noqa: F401 - before the packages, which import parts of it
from triton.runtime.autotuner import Autotuner

ORACLES = Path(sys.prefix) / "oracles"
PACKAGES = ("mamba_ssm", "fla", "selective_scan_cuda")


@pytest.fixture(scope="module")
def oracles() -> Iterator[None]:
    """mamba_ssm and fla can be imported; what they launch runs in Triton's interpreter."""
    if not all((ORACLES / package).is_dir() for package in PACKAGES[:2]):
        pytest.skip(f"needs mamba-ssm and flash-linear-attention in {ORACLES}: make setup")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ORACLES))
        patch.setitem(sys.modules, "selective_scan_cuda", ModuleType("selective_scan_cuda"))
        if not torch.cuda.is_available():
            patch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
        yield
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def interpreted(oracles: None) -> Callable[[str], None]:
    """To be called with a package whose kernels, all imported by then, will be launched."""
    return keep_one_config


def keep_one_config(package: str) -> None:
    """The interpreter cannot time configurations: every autotuned kernel keeps its first."""
    if torch.cuda.is_available():
        return
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == package:
            for kernel in vars(module).values():
                _keep_first(kernel)


def _keep_first(kernel: object) -> None:
    while type(kernel).__module__.startswith("triton.runtime"):
        if isinstance(kernel, Autotuner):
            kernel.configs = kernel.configs[:1]
        kernel = getattr(kernel, "fn", None)
