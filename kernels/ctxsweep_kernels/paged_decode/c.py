"""The C path of `paged_decode_attention`: see decode.c."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ctxsweep_kernels.dispatch import C_SOURCES
from ctxsweep_kernels.native.build import library
from ctxsweep_kernels.native.calls import Team, check_outcome, team
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES
from ctxsweep_kernels.score_rule import ScoreRule


class Job(ctypes.Structure):
    """`struct job` of decode.c."""

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
        ("team", Team),
        ("bad_row", ctypes.c_int64),
        ("bad_page", ctypes.c_int64),
    )  # fmt: skip


@cache
def _decode() -> Any:
    function = library(C_SOURCES["paged_decode_attention"]).decode
    function.argtypes = [ctypes.POINTER(Job)]
    return function


def paged_decode_c(
    q: Tensor, cache: PagedKV, block_table: Tensor, lengths: Tensor, rule: ScoreRule
) -> Tensor:
    """Arguments as in `paged_decode_attention`, checked, all on the CPU; accumulates in float32."""
    wide, table, lengths = q.float().contiguous(), block_table.contiguous(), lengths.contiguous()
    slopes = None if rule.alibi_slopes is None else rule.alibi_slopes.contiguous()
    out = torch.empty_like(wide)
    job = Job(
        wide.data_ptr(),
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
        team(),
    )
    check_outcome(_decode()(ctypes.byref(job)), table, job.bad_row, job.bad_page)
    return out if q.dtype == torch.float32 else out.to(q.dtype)
