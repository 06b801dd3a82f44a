"""Attention against this machine's read bandwidth and against PyTorch's own attention.

Decoding one token reads every cached key and value once, so the machine's read bandwidth, measured
here in the same run with the same threads, is its floor. A windowed prefill is compared with
compiled flex_attention at the same window.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from pairs import Thunk, paired, seconds
from torch import Tensor

from ctxsweep_kernels.dispatch import Impl, implementation_in_use
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.storage import quantise
from ctxsweep_kernels.paged_decode import paged_decode_attention
from ctxsweep_kernels.score_rule import COMPUTE_DTYPES
from ctxsweep_kernels.sliding_window import sliding_window_attention

CACHED_TOKENS, QUERY_HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE = 131072, 32, 8, 128, 128
WINDOW, WINDOW_TOKENS, WINDOW_HEADS, WINDOW_HEAD_DIM = 1024, 8192, 8, 64
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "int8": torch.int8,
}
READ_GOAL, FLEX_GOAL, MEMORY_GOAL = 0.7, 1.0, 1.0


class Row(NamedTuple):
    """One line of the table of ratios."""

    name: str
    ratio: float
    goal: float
    at_least: bool
    detail: str


def read_thunks() -> tuple[float, list[Thunk]]:
    """Bytes, and two ways to read them with torch's threads: a sum and a matrix-vector product."""
    matrix = torch.ones(8192, 16384)
    vector = torch.ones(16384)
    return matrix.nbytes, [matrix.sum, lambda: torch.mv(matrix, vector)]


def best_seconds(thunks: list[Thunk], rounds: int) -> list[float]:
    """The best time of each, timed in turn, so that a busy machine disturbs all alike."""
    times = [[seconds(thunk) for thunk in thunks] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def filled_cache(dtype: torch.dtype, tokens: int = CACHED_TOKENS) -> tuple[PagedKV, Tensor]:
    """A full cache of random numbers (one page drawn, then repeated) and its block table."""
    pages = tokens // PAGE_SIZE
    cache = PagedKV.allocate(KV_HEADS, pages, PAGE_SIZE, HEAD_DIM, dtype)
    drawn, scales = quantise(torch.randn(2, KV_HEADS, 1, PAGE_SIZE, HEAD_DIM), dtype)
    cache.pages.copy_(drawn.expand(cache.pages.shape))
    if cache.scales is not None and scales is not None:
        cache.scales.copy_(scales.expand(cache.scales.shape))
    return cache, torch.arange(pages, dtype=torch.int32).unsqueeze(0)


def decode(dtype: torch.dtype, tokens: int = CACHED_TOKENS, impl: Impl = "auto") -> partial:
    cache, table = filled_cache(dtype, tokens)
    q = torch.randn(1, QUERY_HEADS, 1, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    q, lengths = q.to(dtype if dtype in COMPUTE_DTYPES else torch.float32), torch.tensor([tokens])
    return partial(paged_decode_attention, q, cache, table, lengths, impl=impl)


def reading_row(name: str, ours: Thunk, cache: PagedKV, rounds: int = 9) -> Row:
    """Share of the machine's read bandwidth, measured in the same breath."""
    read_bytes, reads = read_thunks()
    ours_s, *reads_s = best_seconds([ours, *reads], rounds)
    ceiling = read_bytes / min(reads_s)
    reached = cache.page_count * cache.page_bytes / ours_s
    return Row(
        f"decode {name} 131072 / read bandwidth",
        reached / ceiling,
        READ_GOAL,
        True,
        f"{reached / 1e9:.1f} of {ceiling / 1e9:.1f} GB/s, {ours_s * 1e3:.1f} ms,"
        f" {torch.get_num_threads()} threads, {implementation_in_use('paged_decode_attention')}",
    )


def decode_rows(name: str) -> list[Row]:
    """Decode over a long cache: share of the read bandwidth, and SDPA's time over ours."""
    ours = decode(DTYPES[name])
    q, cache = ours.args[:2]
    k, v = cache.pages.flatten(2, 3)

    def sdpa() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k[None], v[None], enable_gqa=True
        )

    assert (ours() - sdpa()).abs().max() <= 2e-2, "the two attentions differ"
    times = paired(ours, sdpa, rounds=3)
    return [
        reading_row(name, ours, cache),
        Row(
            f"decode {name} 131072: SDPA enable_gqa / ours",
            times.ratio,
            1.0,
            True,
            f"{times.second_s * 1e3:.0f} against {times.first_s * 1e3:.1f} ms",
        ),
    ]


def narrow_rows(name: str) -> list[Row]:
    """Decode over a quantised cache: it must beat the four times larger float32 cache."""
    ours, wide = decode(DTYPES[name]), decode(torch.float32)
    times = paired(ours, wide, rounds=7)
    row = reading_row(name, ours, ours.args[1])
    return [
        row._replace(goal=0.0),
        Row(
            f"decode {name} 131072: fp32's time / ours",
            times.ratio,
            1.0,
            True,
            f"{times.second_s * 1e3:.1f} against {times.first_s * 1e3:.1f} ms",
        ),
    ]


def step_rows(name: str) -> list[Row]:
    """One decode step over a short cache, where the fixed cost of a call is all there is."""
    ours, torch_path = (decode(DTYPES[name], PAGE_SIZE, impl) for impl in ("auto", "torch"))

    def repeated(thunk: Thunk) -> Thunk:
        return lambda: [thunk() for _ in range(50)]

    times = paired(repeated(ours), repeated(torch_path), rounds=9)
    return [
        Row(
            f"decode {name} {PAGE_SIZE}: torch path's time / ours",
            times.ratio,
            1.0,
            True,
            f"{times.second_s / 50 * 1e6:.0f} against {times.first_s / 50 * 1e6:.0f} µs",
        )
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


SUBJECTS: list[tuple[Callable[[str], list[Row]], str]] = [
    (decode_rows, "fp32"),
    (decode_rows, "bf16"),
    (narrow_rows, "fp8_e4m3"),
    (narrow_rows, "int8"),
    (step_rows, "fp32"),
    (step_rows, "bf16"),
    (window_rows, "fp32"),
    (window_rows, "bf16"),
]


def rows() -> list[Row]:
    """All ratios of this file, measured now."""
    return [row for measure, name in SUBJECTS for row in measure(name)]


@pytest.mark.parametrize("measure, name", SUBJECTS, ids=lambda x: getattr(x, "__name__", x))
def test_attention(
    measure: Callable[[str], list[Row]],
    name: str,
    benchmark: Callable[..., None],
    add_ratio: Callable[..., None],
) -> None:
    measured = benchmark.pedantic(measure, (name,), rounds=1)
    for row in measured:
        add_ratio(row.name, row.ratio, row.goal, row.at_least, row.detail)
        benchmark.extra_info[row.name] = row.ratio
