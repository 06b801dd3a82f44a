"""One launch of a Triton kernel, as data: it can be run, compiled for an absent GPU, or traced.

A planner is a plain function from tensors, options and an architecture to launches. The same plan
serves the GPU, the interpreter and the static bench (whose tensors are on `meta`), so that all
three see the same kernel; that is why no kernel here is autotuned.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

INTERPRETED_AS = "sm_90"  # the plan that the interpreter follows: it has no blocks of its own


@dataclass(frozen=True)
class Launch:
    """A kernel, its grid, and all of its arguments by name (tensors, numbers, constexprs)."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    options: dict[str, Any] = field(default_factory=dict)  # backend options, such as maxnreg

    def run(self) -> None:
        """Launch on the device of the tensors, which need not be the current one."""
        if 0 in self.grid:
            return
        tensors = (x for x in self.arguments.values() if isinstance(x, torch.Tensor))
        device = next(tensors).device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self.kernel[self.grid](
                **self.arguments,
                num_warps=self.num_warps,
                num_stages=self.num_stages,
                **self.options,
            )


def within_32_bits(x: torch.Tensor, first: int) -> torch.Tensor:
    """`x`, copied where its dimensions from `first` on span more than 32-bit offsets reach.

    A view of another layout does that: `[B, T, C]` of `[B, C, T]` steps over T from C to C.
    """
    steps = zip(x.shape[first:], x.stride()[first:], strict=True)
    return x if sum((n - 1) * step for n, step in steps) < 2**31 else x.contiguous()


@cache
def architecture(device: torch.device) -> str:
    """`sm_90`, `gfx942`, ...: whose plan a launch on `device` follows."""
    if device.type != "cuda":
        return INTERPRETED_AS
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors (NVIDIA) or compute units (AMD) of `device`; an H100's where it has none."""
    if device.type != "cuda":
        return 132
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
