"""The C path of `paged_prefill_attention`: see prefill.c."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ctxsweep_kernels.attention_tiles import compute_dtype
from ctxsweep_kernels.dispatch import C_SOURCES
from ctxsweep_kernels.native.attention_job import Job, attend
from ctxsweep_kernels.native.build import library
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.score_rule import ScoreRule


@cache
def _library() -> Any:
    functions = library(C_SOURCES["paged_prefill_attention"])
    functions.prefill.argtypes = [ctypes.POINTER(Job)]
    return functions


def paged_prefill_c(
    q: Tensor, cache: PagedKV, block_table: Tensor, lengths: Tensor, rule: ScoreRule
) -> Tensor:
    """Arguments as in `paged_prefill_attention`, checked, all on the CPU; accumulates in float32.

    Products are of bfloat16 where `compute_dtype` says so and the processor has them, else of
    float32.
    """
    functions = _library()
    narrow = compute_dtype(q, cache.dtype) == torch.bfloat16 and functions.computes_narrow()
    return attend(functions.prefill, q, cache, block_table, lengths, rule, bool(narrow))
