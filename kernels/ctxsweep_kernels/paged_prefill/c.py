"""The C path of `paged_prefill_attention`: see prefill.c."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ctxsweep_kernels.attention_tiles import compute_dtype
from ctxsweep_kernels.dispatch import C_SOURCES
from ctxsweep_kernels.native.build import library
from ctxsweep_kernels.native.calls import Team, check_outcome, team
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES
from ctxsweep_kernels.score_rule import ScoreRule


class Job(ctypes.Structure):
    """`struct job` of prefill.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "q", "out", "pages", "scales", "table", "lengths", "slopes",
        )),
        *((name, ctypes.c_int64) for name in (
            "batch", "kv_heads", "group", "tokens", "head_dim", "page_count", "page_size",
            "table_width", "window", "sinks",
        )),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("type", ctypes.c_int32),
        ("narrow", ctypes.c_int32),
        ("team", Team),
        ("bad_row", ctypes.c_int64),
        ("bad_page", ctypes.c_int64),
    )  # fmt: skip


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
    queries = q.to(torch.bfloat16 if narrow else torch.float32).contiguous()
    table, lengths = block_table.contiguous(), lengths.contiguous()
    slopes = None if rule.alibi_slopes is None else rule.alibi_slopes.contiguous()
    out = torch.empty(q.shape, dtype=torch.float32)
    job = Job(
        queries.data_ptr(),
        out.data_ptr(),
        cache.pages.data_ptr(),
        None if cache.scales is None else cache.scales.data_ptr(),
        table.data_ptr(),
        lengths.data_ptr(),
        None if slopes is None else slopes.data_ptr(),
        q.shape[0],
        cache.kv_heads,
        q.shape[1] // cache.kv_heads,
        q.shape[2],
        q.shape[3],
        cache.page_count,
        cache.page_size,
        table.shape[1],
        rule.window or 0,
        rule.sinks,
        rule.scale,
        rule.softcap or 0.0,
        STORAGE_DTYPES.index(cache.dtype),
        narrow,
        team(),
    )
    outcome = functions.prefill(ctypes.byref(job))
    check_outcome(outcome, table, job.bad_row, job.bad_page)
    return out if q.dtype == torch.float32 else out.to(q.dtype)
