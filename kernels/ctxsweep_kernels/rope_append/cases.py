"""Appending one token to 32 rows in the shape of Llama-3 8B, for the static bench."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.paged_cache import PagedKV, bytes_per_token
from ctxsweep_kernels.rope_append.kernel import plan_append
from ctxsweep_kernels.static.case import Case, Trace, Work

ROWS, HEADS, KV_HEADS, HEAD_DIM, PAGE = 32, 32, 8, 128, 64


def launches(
    stored: torch.dtype, dtype: torch.dtype = torch.bfloat16, rows: int = ROWS, device: str = "meta"
) -> list[Launch]:
    """One new token of every row, each on a page of its own."""
    q = torch.zeros(rows, HEADS, 1, HEAD_DIM, dtype=dtype, device=device)
    k, v = (torch.zeros(rows, KV_HEADS, 1, HEAD_DIM, dtype=dtype, device=device) for _ in "kv")
    cache = PagedKV.allocate(KV_HEADS, rows, PAGE, HEAD_DIM, stored, device)
    table = torch.arange(rows, dtype=torch.int32, device=device).view(rows, 1)
    starts = torch.zeros(rows, dtype=torch.int64, device=device)
    inv_freq = torch.ones(HEAD_DIM // 2, device=device)
    return plan_append(q, k, v, cache, table, starts, inv_freq, 1.0, torch.empty_like(q))


def token_bytes(stored: torch.dtype, dtype: torch.dtype) -> dict[str, int]:
    """What one token must move, by the name of the argument."""
    head = HEAD_DIM * dtype.itemsize
    scales = 8 * KV_HEADS if stored == torch.int8 else 0
    least = {
        "q_ptr": HEADS * head,
        "out_ptr": HEADS * head,
        "k_ptr": KV_HEADS * head,
        "v_ptr": KV_HEADS * head,
        "pages_ptr": bytes_per_token(KV_HEADS, HEAD_DIM, stored) - scales,
    }
    return least | ({"scales_ptr": scales} if scales else {})


def work(stored: torch.dtype, dtype: torch.dtype) -> Callable[[Launch], Work]:
    def of_program(launch: Launch) -> Work:
        parts = launch.grid[1]
        kib = sum(token_bytes(stored, dtype).values()) / 1024 / parts
        return Work("KiB", (), (), units_outside_loops=kib)

    return of_program


def trace(stored: torch.dtype, dtype: torch.dtype) -> Callable[[], Trace]:
    def small_call() -> Trace:
        rows = 4
        least = {n: rows * count for n, count in token_bytes(stored, dtype).items()}
        least["inv_freq_ptr"] = HEAD_DIM // 2 * 4
        return Trace(launches(stored, dtype, rows, "cpu"), least)

    return small_call


def case(name: str, stored: torch.dtype, dtype: torch.dtype = torch.bfloat16) -> Case:
    return Case(
        f"rope_append/{name}",
        lambda arch: launches(stored, dtype),
        (),
        work(stored, dtype),
        trace=trace(stored, dtype),
        goal={"traffic": 1.05},
    )


CASES = (
    case("bf16-to-bf16", torch.bfloat16),
    case("bf16-to-fp8_e4m3", torch.float8_e4m3fn),
    case("bf16-to-int8", torch.int8),
    case("fp32-to-fp32", torch.float32, torch.float32),
)
