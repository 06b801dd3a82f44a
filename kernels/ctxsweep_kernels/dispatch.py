"""Which implementation of an op runs: asked for by name, or the best one that is there.

A choice is never replaced in silence: asking for an implementation that an op does not have
is an error, so that a timing always belongs to the code that it names; and what `"auto"` means
here can be asked.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch

from ctxsweep_kernels.native.build import BuildFailed, library

Impl = Literal["auto", "torch", "c", "triton"]

_HERE = Path(__file__).parent
C_SOURCES = {
    "paged_decode_attention": _HERE / "paged_decode" / "decode.c",
    "paged_prefill_attention": _HERE / "paged_prefill" / "prefill.c",
    "rope_append": _HERE / "rope_append" / "append.c",
}
TRITON_OPS = frozenset(
    {
        "causal_conv1d",
        "paged_decode_attention",
        "paged_prefill_attention",
        "retention",
        "rope_append",
        "selective_scan",
        "selective_state_update",
        "sliding_window_attention",
        "ssd_chunk_scan",
        "wkv7",
    }
)
LEAST_CAPABILITY = 8, 0  # of an NVIDIA GPU: Ampere, whose tensor cores take bfloat16 and TF32

_seen: ContextVar[dict[str, str] | None] = ContextVar("seen", default=None)


class UnsupportedImplementation(ValueError):
    """The implementation asked for does not exist for this op, or cannot run here."""


def choose(impl: Impl, op: str, devices: Iterable[torch.device], unfit: str | None = None) -> str:
    """Name the implementation of `op` that runs on tensors of these devices.

    `"auto"` takes Triton where all tensors are on a GPU and Triton is installed; C where the op has
    a C file, all tensors are on the CPU and the file compiles; torch otherwise. A compiler that
    fails is reported by a warning, once. unfit: why the Triton kernel cannot take these arguments.

    Raises:
        UnsupportedImplementation: the op has no such implementation, or it cannot run here.
        ValueError: `impl` is not a name that any op knows.
    """
    if impl not in get_args(Impl):
        raise ValueError(f"impl={impl!r} is unknown; use one of {', '.join(get_args(Impl))}")
    devices = list(devices)
    obstacles = {
        "triton": lambda: unfit or _obstacle_to_triton(op, devices),
        "c": lambda: _obstacle_to_c(op, devices),
        "torch": lambda: None,
    }
    if impl == "auto":
        kinds = {device.type for device in devices}
        order = ("triton", "torch") if kinds == {"cuda"} else ("c", "torch")
        return _noted(op, next(name for name in order if obstacles[name]() is None))
    obstacle = obstacles[impl]()
    if obstacle is not None:
        raise UnsupportedImplementation(f"impl={impl!r} is not available for {op}: {obstacle}")
    return _noted(op, impl)


def implementation_in_use(op: str, device: torch.device | str = "cpu", impl: Impl = "auto") -> str:
    """What `impl` runs for `op` on `device`; compiles the op's C file if that is due."""
    return choose(impl, op, [torch.device(device)])


@contextmanager
def noting(seen: dict[str, str]) -> Iterator[None]:
    """Inside, `seen` is told the implementation of every op that runs."""
    token = _seen.set(seen)
    try:
        yield
    finally:
        _seen.reset(token)


def _noted(op: str, implementation: str) -> str:
    seen = _seen.get()
    if seen is not None:
        seen[op] = implementation
    return implementation


def interpreting() -> bool:
    """Whether Triton kernels defined in this process run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def _obstacle_to_triton(op: str, devices: list[torch.device]) -> str | None:
    if op not in TRITON_OPS:
        return "this op has no Triton kernel; use impl='torch'"
    if not _has_triton():
        return "triton is not installed; pip install triton"
    kinds = {device.type for device in devices}
    if interpreting() and kinds == {"cpu"}:
        return None
    if kinds != {"cuda"}:
        return (
            f"it needs all tensors on one GPU (they are on: {', '.join(sorted(kinds))}), or "
            "TRITON_INTERPRET=1 in the environment before Python starts, which is slow"
        )
    if len(set(devices)) > 1:
        names = ", ".join(sorted(map(str, set(devices))))
        return f"it needs all tensors on one GPU (they are on: {names})"
    return _too_old(devices[0])


@cache
def _too_old(device: torch.device) -> str | None:
    if torch.version.hip or not torch.cuda.is_available():
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= LEAST_CAPABILITY:
        return None
    least, found = (".".join(map(str, pair)) for pair in (LEAST_CAPABILITY, capability))
    return f"it needs compute capability {least} and {device} has {found}; use impl='torch'"


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _obstacle_to_c(op: str, devices: list[torch.device]) -> str | None:
    if op not in C_SOURCES:
        return "this op has no C implementation; use impl='torch'"
    if any(device.type != "cpu" for device in devices):
        return "it needs all tensors on the CPU; move them there or use impl='torch'"
    return _build_problem(op)


@cache
def _build_problem(op: str) -> str | None:
    try:
        library(C_SOURCES[op])
    except BuildFailed as problem:
        warnings.warn(f"{op} runs in torch, which is slower: {problem}", stacklevel=2)
        return f"{problem}; or use impl='torch'"
    return None
