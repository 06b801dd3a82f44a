"""What the Triton kernels and their plans share. Only they import it: it needs Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxsweep_kernels import chunking
from ctxsweep_kernels.dispatch import interpreting

LOG2E = tl.constexpr(chunking.LOG2E)
INTERPRETED = tl.constexpr(interpreting())  # there, bfloat16 has neither products nor int casts
TRITON_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def product(a, b, acc, OPERAND: tl.constexpr):
    """a @ b + acc, the operands in OPERAND, as exact as it allows."""
    TAKEN: tl.constexpr = tl.float32 if INTERPRETED else OPERAND
    return tl.dot(a.to(TAKEN), b.to(TAKEN), acc, input_precision="ieee")


def multiplied_as(dtype: torch.dtype) -> torch.dtype:
    """What matrix products of `dtype` take: the interpreter cannot multiply bfloat16."""
    return torch.float32 if dtype == torch.bfloat16 and interpreting() else dtype


def strides(name: str, tensor: Tensor, dims: str) -> dict[str, int]:
    """Kernel arguments: the step of every dimension, `x_batch`, `x_token`, ... ."""
    return {f"{name}_{dim}": step for dim, step in zip(dims.split(), tensor.stride(), strict=True)}
