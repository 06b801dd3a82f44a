"""What the packages whose kernels are for GPUs alone have in common. Imports nothing heavy."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ctxsweep.backends import torch_device
from ctxsweep.backends.base import Limits, Unsupported

DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Device nodes of NVIDIA's driver, of GPUs under WSL, and of ROCm."""


def missing(package: str, module: str, pip: str, why: str, nearest: str) -> Unsupported | None:
    """Why a package cannot run on this machine; None if it can.

    ``why`` says what needs the GPU, ``nearest`` what runs the same models without one.
    """
    if not any(Path(node).exists() for node in DRIVERS):
        return Unsupported(f"{package} needs a CUDA GPU: {why}, and none is here", nearest)
    if find_spec(module) is None:
        return Unsupported(f"{package} is not installed", pip)
    return None


def check_device(package: str, limits: Limits, nearest: str) -> None:
    """Raise ``Unsupported`` unless the run is on a GPU that torch finds."""
    if not limits.device.startswith("cuda"):
        raise Unsupported(
            f"{package} runs on CUDA only, not on {limits.device}",
            f"Use --device cuda, or {nearest}",
        )
    torch_device.check_device(limits.device)
