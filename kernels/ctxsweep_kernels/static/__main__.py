"""Look at machine code: `python -m ctxsweep_kernels.static package.module:function [ARCH ...]`."""

from __future__ import annotations

import sys
import time
from importlib import import_module

from ctxsweep_kernels.static.compile import compile_launch
from ctxsweep_kernels.static.machine_code import read


def main(path: str, *archs: str) -> None:
    """path: `package.module:function`, a function from an architecture to launches."""
    module, name = path.split(":")
    plan = getattr(import_module(module), name)
    for arch in archs or ("sm_80", "sm_90", "sm_100", "gfx942"):
        for launch in plan(arch):
            began = time.perf_counter()
            built = compile_launch(launch, arch)
            listing = read(built.text, built.is_amd)
            print(
                f"{arch} {launch.kernel.__name__}: warps {built.num_warps}, "
                f"registers {built.registers}, spilled {built.spilled_bytes} B, "
                f"shared {built.shared_bytes} B, instructions {len(listing.whole)} "
                f"({listing.straight} outside loops), {time.perf_counter() - began:.1f} s"
            )
            for loop in listing.loops:
                print(
                    f"   loop of {len(loop)}: loads {loop.load_widths}, "
                    f"matrix FLOPs of the block {loop.matrix_flops(built.num_warps):.0f}\n"
                    f"      {loop.mix}\n      {dict(list(loop.opcodes.items())[:16])}"
                )


if __name__ == "__main__":
    if len(sys.argv) < 2 or ":" not in sys.argv[1]:
        sys.exit(__doc__)
    main(*sys.argv[1:])
