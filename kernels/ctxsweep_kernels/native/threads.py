"""The threads that C ops run on: torch's own."""

from __future__ import annotations

import ctypes
from functools import cache

import torch


class Team(ctypes.Structure):
    """`struct team` of parallel.h."""

    _fields_ = (("start", ctypes.c_void_p), ("threads", ctypes.c_int64))


@cache
def parallel_region() -> int | None:
    """Address of GOMP_parallel in the OpenMP library that torch loaded; None if it has another."""
    try:
        entry = ctypes.CDLL(None).GOMP_parallel
    except AttributeError:
        return None
    return ctypes.cast(entry, ctypes.c_void_p).value


def team() -> Team:
    """As many threads as torch uses now; one where torch's pool cannot be shared."""
    return Team(parallel_region(), torch.get_num_threads())
