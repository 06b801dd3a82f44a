"""The C path of `rope_append`: see append.c."""

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


class Heads(ctypes.Structure):
    """`struct heads` of append.c."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in (
            "batch_stride", "head_stride", "token_stride", "heads",
        )),
    )  # fmt: skip


class Job(ctypes.Structure):
    """`struct job` of append.c."""

    _fields_ = (
        *((name, Heads) for name in ("q", "k", "v")),
        *((name, ctypes.c_void_p) for name in (
            "rotated", "pages", "scales", "table", "starts", "inv_freq",
        )),
        *((name, ctypes.c_int64) for name in (
            "batch", "tokens", "head_dim", "half", "page_count", "page_size", "table_width",
        )),
        ("attention_factor", ctypes.c_float),
        ("given", ctypes.c_int32),
        ("stored", ctypes.c_int32),
        ("team", Team),
        ("bad_row", ctypes.c_int64),
        ("bad_page", ctypes.c_int64),
    )  # fmt: skip


@cache
def _append() -> Any:
    function = library(C_SOURCES["rope_append"]).append
    function.argtypes = [ctypes.POINTER(Job)]
    return function


def rope_append_c(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: PagedKV,
    block_table: Tensor,
    starts: Tensor,
    inv_freq: Tensor | None,
    attention_factor: float,
) -> Tensor:
    """Arguments as in `rope_append`, checked, all on the CPU."""
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    table, starts = block_table.contiguous(), starts.contiguous()
    angles = None if inv_freq is None else inv_freq.float().contiguous()
    rotated = q if angles is None else torch.empty(q.shape, dtype=q.dtype)
    job = Job(
        Heads(q.data_ptr(), *q.stride()[:3], 0 if angles is None else q.shape[1]),
        Heads(k.data_ptr(), *k.stride()[:3], k.shape[1]),
        Heads(v.data_ptr(), *v.stride()[:3], v.shape[1]),
        rotated.data_ptr(),
        cache.pages.data_ptr(),
        None if cache.scales is None else cache.scales.data_ptr(),
        table.data_ptr(),
        starts.data_ptr(),
        None if angles is None else angles.data_ptr(),
        q.shape[0],
        q.shape[2],
        q.shape[3],
        0 if angles is None else angles.shape[0],
        cache.page_count,
        cache.page_size,
        table.shape[1],
        attention_factor,
        STORAGE_DTYPES.index(q.dtype),
        STORAGE_DTYPES.index(cache.dtype),
        team(),
    )
    check_outcome(_append()(ctypes.byref(job)), table, job.bad_row, job.bad_page)
    return rotated
