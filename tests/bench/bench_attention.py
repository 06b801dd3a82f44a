"""Attention against this machine's read bandwidth and against PyTorch's own attention.

Decoding one token reads every cached key and value once, so the machine's read bandwidth, measured
here in the same run with the same threads, is its floor. A windowed prefill is compared with
compiled flex_attention at the same window.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from pairs import Thunk, paired, seconds
from torch import Tensor

from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_decode import paged_decode_attention
from ctxsweep_kernels.sliding_window import sliding_window_attention

CACHED_TOKENS, QUERY_HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE = 131072, 32, 8, 128, 128
WINDOW, WINDOW_TOKENS, WINDOW_HEADS, WINDOW_HEAD_DIM = 1024, 8192, 8, 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
READ_GOAL, FLEX_GOAL, MEMORY_GOAL = 0.7, 1.0, 1.0


class Row(NamedTuple):
    """One line of the table of ratios."""

    name: str
    ratio: float
    goal: float
    at_least: bool
    detail: str


def read_bandwidth_bytes_per_s(rounds: int = 5) -> float:
    """The best of a plain sum and a matrix-vector product over 512 MB, with torch's threads."""
    matrix = torch.ones(8192, 16384)
    vector = torch.ones(16384)
    best_s = min(
        min(seconds(matrix.sum) for _ in range(rounds)),
        min(seconds(lambda: torch.mv(matrix, vector)) for _ in range(rounds)),
    )
    return matrix.nbytes / best_s


def filled_cache(dtype: torch.dtype) -> tuple[PagedKV, Tensor]:
    """A full cache of random numbers (one page drawn, then repeated) and its block table."""
    pages = CACHED_TOKENS // PAGE_SIZE
    cache = PagedKV.allocate(KV_HEADS, pages, PAGE_SIZE, HEAD_DIM, dtype)
    cache.pages.copy_(torch.randn(2, KV_HEADS, 1, PAGE_SIZE, HEAD_DIM).expand(cache.pages.shape))
    return cache, torch.arange(pages, dtype=torch.int32).unsqueeze(0)


def decode_rows(name: str, rounds: int = 7) -> list[Row]:
    """Decode over a long cache: share of the read bandwidth, and SDPA's time over ours."""
    dtype = DTYPES[name]
    cache, table = filled_cache(dtype)
    q = torch.randn(1, QUERY_HEADS, 1, HEAD_DIM).to(dtype)
    lengths = torch.tensor([CACHED_TOKENS])
    k, v = cache.pages.flatten(2, 3)

    def ours() -> Tensor:
        return paged_decode_attention(q, cache, table, lengths)

    def sdpa() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k[None], v[None], enable_gqa=True
        )

    assert (ours() - sdpa()).abs().max() <= 2e-2, "the two attentions differ"
    best_s = min(seconds(ours) for _ in range(rounds))
    times = paired(ours, sdpa, rounds=3)
    ceiling = read_bandwidth_bytes_per_s()
    reached = cache.pages.nbytes / best_s
    detail = (
        f"{reached / 1e9:.1f} of {ceiling / 1e9:.1f} GB/s, {best_s * 1e3:.1f} ms,"
        f" {torch.get_num_threads()} threads"
    )
    return [
        Row(f"decode {name} 131072 / read bandwidth", reached / ceiling, READ_GOAL, True, detail),
        Row(
            f"decode {name} 131072: SDPA enable_gqa / ours",
            times.ratio,
            1.0,
            True,
            f"{times.second_s * 1e3:.0f} against {times.first_s * 1e3:.1f} ms",
        ),
    ]


def window_rows(name: str, rounds: int = 5) -> list[Row]:
    """Windowed prefill: our time over compiled flex_attention's, and our memory."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    shape = (1, WINDOW_HEADS, WINDOW_TOKENS, WINDOW_HEAD_DIM)
    q, k, v = (torch.randn(shape).to(DTYPES[name]) for _ in range(3))
    mask = create_block_mask(
        lambda b, h, i, j: (j <= i) & (i - j < WINDOW),
        None, None, WINDOW_TOKENS, WINDOW_TOKENS, device="cpu",
    )  # fmt: skip
    compiled = torch.compile(flex_attention, dynamic=False)

    def ours() -> Tensor:
        return sliding_window_attention(q, k, v, window=WINDOW)

    @torch.no_grad()
    def flex() -> Tensor:
        return compiled(q, k, v, block_mask=mask)

    assert (ours() - flex()).abs().max() <= 2e-2, "the two attentions differ"
    times = paired(flex, ours, rounds)
    extra = peak_extra_bytes(ours) - q.nbytes
    bound = WINDOW_TOKENS * WINDOW * 4
    return [
        Row(
            f"window {name} 1024 of 8192: ours / compiled flex",
            times.ratio,
            FLEX_GOAL,
            False,
            f"{times.second_s * 1e3:.0f} against {times.first_s * 1e3:.0f} ms,"
            f" {times.spread[0]:.2f} to {times.spread[1]:.2f} over {rounds} rounds",
        ),
        Row(
            f"window {name} 1024 of 8192: work memory / (N * W * 4 bytes)",
            extra / bound,
            MEMORY_GOAL,
            False,
            f"{extra / 2**20:.1f} MiB above the inputs and the output",
        ),
    ]


def peak_extra_bytes(thunk: Thunk) -> float:
    """Growth of the peak resident memory while `thunk` runs (Linux; nan elsewhere)."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not status.exists():
        return math.nan
    ctypes.CDLL(None).malloc_trim(0)  # else the peak hides in memory that malloc kept
    reset.write_text("5")
    before = _status_bytes(status, "VmRSS")
    thunk()
    return _status_bytes(status, "VmHWM") - before


def _status_bytes(status: Path, key: str) -> int:
    line = next(x for x in status.read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024


SUBJECTS: dict[str, Callable[[str], list[Row]]] = {"decode": decode_rows, "window": window_rows}


def rows() -> list[Row]:
    """All ratios of this file, measured now."""
    return [row for measure in SUBJECTS.values() for name in DTYPES for row in measure(name)]


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_attention(
    subject: str, name: str, benchmark: Callable[..., None], add_ratio: Callable[..., None]
) -> None:
    measured = benchmark.pedantic(SUBJECTS[subject], (name,), rounds=1)
    for row in measured:
        add_ratio(row.name, row.ratio, row.goal, row.at_least, row.detail)
        benchmark.extra_info[row.name] = row.ratio
