"""Calls of the C ops that attend over a paged cache: see attention_job.h."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from ctxsweep_kernels.native.calls import Team, check_outcome, team
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES
from ctxsweep_kernels.score_rule import ScoreRule


class Job(ctypes.Structure):
    """`struct job` of attention_job.h."""

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


def attend(
    function: Callable[..., int],
    q: Tensor,
    cache: PagedKV,
    block_table: Tensor,
    lengths: Tensor,
    rule: ScoreRule,
    narrow: bool = False,
) -> Tensor:
    """Call a C op on checked arguments; the output `[B, Hq, T, D]` in the dtype of `q`.

    function: takes a pointer to a `Job`. narrow: whether it is to compute in bfloat16.

    Raises:
        ValueError: a page that is needed is not in the pool.
        MemoryError: no memory for the op's scratch.
    """
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
    outcome = function(ctypes.byref(job))
    check_outcome(outcome, table, job.bad_row, job.bad_page)
    return out if q.dtype == torch.float32 else out.to(q.dtype)
