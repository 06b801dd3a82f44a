"""The C path of `paged_decode_attention`: see decode.c."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from torch import Tensor

from ctxsweep_kernels.dispatch import C_SOURCES
from ctxsweep_kernels.native.attention_job import Job, attend
from ctxsweep_kernels.native.build import library
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.score_rule import ScoreRule


@cache
def _decode() -> Any:
    function = library(C_SOURCES["paged_decode_attention"]).decode
    function.argtypes = [ctypes.POINTER(Job)]
    return function


def paged_decode_c(
    q: Tensor, cache: PagedKV, block_table: Tensor, lengths: Tensor, rule: ScoreRule
) -> Tensor:
    """Arguments as in `paged_decode_attention`, checked, all on the CPU; accumulates in float32."""
    return attend(_decode(), q, cache, block_table, lengths, rule)
