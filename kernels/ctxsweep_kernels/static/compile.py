"""Compile a launch for a named GPU, which need not be there, as Triton itself would.

The signature is inferred from the launch's arguments by Triton's own rules: a pointer or a number
that divides by 16 is known to, and the number 1 is a constant. So what is judged is what runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ctxsweep_kernels.launch import Launch

ALIGNED = [["tt.divisibility", 16]]
NEAR = [["tt.pointer_range", 32]]
POINTERS = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e5m2: "fp8e5",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
}


class CompileFailed(RuntimeError):
    """The compiler refused the kernel; the message is its own."""


@dataclass(frozen=True)
class Compiled:
    """Machine code of one launch for one architecture."""

    arch: str
    text: str  # SASS or AMD GCN assembly
    ptx: str  # empty for AMD
    registers: int
    spilled_bytes: int
    shared_bytes: int
    tensor_memory_columns: int
    num_warps: int

    @property
    def is_amd(self) -> bool:
        return self.arch.startswith("gfx")


def compile_launch(launch: Launch, arch: str) -> Compiled:
    """Compile `launch` (its tensors may be on `meta`) for `sm_80`, `sm_90`, `gfx942`, ...

    Raises:
        CompileFailed: the kernel does not compile for that architecture.
        RuntimeError: the process interprets kernels (TRITON_INTERPRET=1).
    """
    signature, constants, attributes = specialise(launch.kernel, launch.arguments, arch)
    options = {
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
        **launch.options,
    }
    return compile_kernel(launch.kernel, signature, constants, attributes, options, arch)


def specialise(
    kernel: Any, arguments: dict[str, Any], arch: str
) -> tuple[dict[str, str], dict, dict]:
    """Signature, constants and attributes that Triton would give a call with these arguments."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list] = {}
    for index, parameter in enumerate(kernel.params):
        name = parameter.name
        value = arguments.get(name, parameter.default)
        kind = "constexpr" if parameter.is_constexpr else argument_type(value)
        if not parameter.is_constexpr and parameter.annotation_type and value is not None:
            kind = parameter.annotation_type
        elif kind == "constexpr" and parameter.do_not_specialize and value is not None:
            kind = "i32"
        signature[name] = kind
        if kind == "constexpr":
            constants[name] = value
        elif not parameter.do_not_specialize and divides_by_16(value):
            near = arch.startswith("gfx") and within_32_bits(value)
            attributes[(index,)] = [*ALIGNED, *NEAR] if near else ALIGNED
    return signature, constants, attributes


def divides_by_16(value: Any) -> bool:
    """Pointers of fresh tensors do, and so do the strides of most; Triton looks at the value."""
    if isinstance(value, torch.Tensor):
        return True
    return type(value) is int and value % 16 == 0


def within_32_bits(value: Any) -> bool:
    """On AMD, tensors under 2 GiB are read by buffer instructions with 32-bit offsets."""
    return isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() < 2**31


def argument_type(value: Any) -> str:
    """Triton's type of an argument; `constexpr` for None and for the number 1."""
    if value is None or (type(value) is int and value == 1):
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return "*" + POINTERS[value.dtype]
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    if isinstance(value, float):
        return "fp32"
    block = getattr(value, "block_shape", None)
    if block is not None:  # triton.tools.tensor_descriptor.TensorDescriptor
        return f"tensordesc<{POINTERS[value.base.dtype]}{list(block)}>".replace(" ", "")
    raise TypeError(f"a kernel cannot take a {type(value).__name__}")


def compile_kernel(
    kernel: Any,
    signature: dict[str, str],
    constants: dict[str, Any],
    attributes: dict[tuple[int], list],
    options: dict[str, Any],
    arch: str,
) -> Compiled:
    """Compile a `@triton.jit` function; see `compile_launch`."""
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    import triton
    from triton.compiler import ASTSource

    if not hasattr(kernel, "cache_key"):
        raise RuntimeError("kernels are interpreted here; unset TRITON_INTERPRET to compile them")
    source = ASTSource(kernel, signature, constants, attributes)
    try:
        built = triton.compile(source, target=gpu_target(arch), options=options)
    except Exception as problem:  # Triton raises many types, and MLIR errors as RuntimeError
        raise CompileFailed(f"{kernel.__name__} for {arch}: {problem}") from problem
    warps, shared = built.metadata.num_warps, built.metadata.shared
    if arch.startswith("gfx"):
        text = built.asm["amdgcn"]
        registers, spilled = _amd_resources(text)
        return Compiled(arch, text, "", registers, spilled, shared, 0, warps)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        text = _run("nvdisasm", "-c", file.name)
        usage = _run("cuobjdump", "-res-usage", file.name)
    registers, spilled = _nvidia_resources(usage)
    tensor_memory = getattr(built.metadata, "tmem_size", 0) or 0
    return Compiled(arch, text, built.asm["ptx"], registers, spilled, shared, tensor_memory, warps)


def gpu_target(arch: str) -> Any:
    """Triton's target of `sm_90` or `gfx942`.

    Raises:
        ValueError: the name is not of that form.
    """
    from triton.backends.compiler import GPUTarget

    if re.fullmatch(r"sm_\d{2,3}", arch):
        return GPUTarget("cuda", int(arch[3:]), 32)
    if re.fullmatch(r"gfx9\w+", arch):
        return GPUTarget("hip", arch, 64)
    raise ValueError(f"unknown architecture {arch!r}; use a name like sm_90 or gfx942")


def _amd_resources(text: str) -> tuple[int, int]:
    registers = int(_found(r"^; TotalNumVgprs: (\d+)", text))
    return registers, int(_found(r"^; ScratchSize: (\d+)", text))


def _nvidia_resources(usage: str) -> tuple[int, int]:
    """Registers per thread; bytes of local memory and stack, which hold what was spilled."""
    local = int(_found(r"LOCAL:(\d+)", usage))
    return int(_found(r"REG:(\d+)", usage)), local + int(_found(r"STACK:(\d+)", usage))


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise CompileFailed(f"{pattern} is not in the compiler's output; is this Triton newer?")
    return match[1]


@cache
def _tools() -> Path:
    import triton.backends.nvidia

    return Path(triton.backends.nvidia.__file__).parent / "bin"


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([_tools() / tool, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise CompileFailed(f"{tool} failed: {done.stderr.strip()}")
    return done.stdout
