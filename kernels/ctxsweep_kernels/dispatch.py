"""Which implementation of an op runs: asked for by name, or the best one that is there.

A choice is never replaced in silence: asking for an implementation that an op does not have
is an error, so that a timing always belongs to the code that it names; and what `"auto"` means
here can be asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import torch

from ctxsweep_kernels.native.build import BuildFailed, library

Impl = Literal["auto", "torch", "c", "triton"]

_HERE = Path(__file__).parent
C_SOURCES = {
    "paged_decode_attention": _HERE / "paged_decode" / "decode.c",
    "rope_append": _HERE / "rope_append" / "append.c",
}


class UnsupportedImplementation(ValueError):
    """The implementation asked for does not exist for this op, or cannot run here."""


def choose(impl: Impl, op: str = "", devices: Iterable[torch.device] = ()) -> str:
    """Name the implementation of `op` that runs on tensors of these devices.

    `"auto"` takes C where the op has a C file, all tensors are on the CPU and the file compiles;
    a compiler that fails is reported by a warning, once.

    Raises:
        UnsupportedImplementation: the op has no such implementation, or it cannot run here.
        ValueError: `impl` is not a name that any op knows.
    """
    if impl == "torch":
        return impl
    if impl not in get_args(Impl):
        raise ValueError(f"impl={impl!r} is unknown; use one of {', '.join(get_args(Impl))}")
    if impl == "triton":
        has = "torch, c" if op in C_SOURCES else "torch"
        raise UnsupportedImplementation(
            f"impl='triton' is not available for this op on these tensors; "
            f"available: {has} (or 'auto')"
        )
    obstacle = _obstacle_to_c(op, devices)
    if impl == "c" and obstacle is not None:
        raise UnsupportedImplementation(f"impl='c' is not available: {obstacle}")
    return "c" if obstacle is None else "torch"


def implementation_in_use(op: str, device: torch.device | str = "cpu") -> str:
    """What `impl="auto"` runs for `op` on `device`; compiles the op's C file if that is due."""
    return choose("auto", op, [torch.device(device)])


def _obstacle_to_c(op: str, devices: Iterable[torch.device]) -> str | None:
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
