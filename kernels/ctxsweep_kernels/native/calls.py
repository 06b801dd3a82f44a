"""What the calls of C ops share: the threads, and what their outcomes mean."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

DONE, NO_MEMORY, NO_PAGE = range(3)


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


def check_outcome(outcome: int, block_table: Tensor, row: int, page: int) -> None:
    """Raise what an outcome other than DONE means.

    Raises:
        ValueError: a page that is needed is not in the pool.
        MemoryError: no memory for the scratch of an op.
    """
    if outcome == NO_MEMORY:
        raise MemoryError("no memory for the scratch of an op over a paged cache")
    if outcome == NO_PAGE:
        raise ValueError(
            f"logical page {page} is needed but is not allocated ({int(block_table[row, page])})"
        )
