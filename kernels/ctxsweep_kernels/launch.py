"""One launch of a Triton kernel, as data: it can be run, compiled for an absent GPU, or traced.

A planner is a plain function from tensors, options and an architecture to launches. The same plan
serves the GPU, the interpreter and the static bench (whose tensors are on `meta`), so that all
three see the same kernel; that is why no kernel here is autotuned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
        if 0 in self.grid:
            return
        self.kernel[self.grid](
            **self.arguments,
            num_warps=self.num_warps,
            num_stages=self.num_stages,
            **self.options,
        )


def architecture(device: torch.device) -> str:
    """`sm_90`, `gfx942`, ...: whose plan a launch on `device` follows."""
    if device.type != "cuda":
        return INTERPRETED_AS
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def multiprocessors(device: torch.device) -> int:
    """Multiprocessors (NVIDIA) or compute units (AMD) of `device`; an H100's where it has none."""
    if device.type != "cuda":
        return 132
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
