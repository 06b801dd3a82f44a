"""Decode in the shapes of real models, for the static bench: 32 query heads, 8 KV heads, 32K."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import torch

from ctxsweep_kernels.launch import INTERPRETED_AS, Launch
from ctxsweep_kernels.paged_cache import PagedKV, bytes_per_token
from ctxsweep_kernels.paged_decode.plan import plan_decode
from ctxsweep_kernels.score_rule import make_rule
from ctxsweep_kernels.static.case import Case, Trace, Work

LENGTH, HEADS, KV_HEADS, HEAD_DIM = 32768, 32, 8, 128
WINDOW = 4096
# One KV head and a quarter of the length, on as few multiprocessors as leave a split its tiles.
TRACED = {"length": LENGTH // 4, "heads": HEADS // KV_HEADS, "kv_heads": 1, "sms": 4}


def launches(
    arch: str,
    stored: torch.dtype,
    dtype: torch.dtype = torch.bfloat16,
    page: int = 64,
    window: int | None = None,
    length: int = LENGTH,
    heads: int = HEADS,
    kv_heads: int = KV_HEADS,
    dim: int = HEAD_DIM,
    sms: int | None = None,
    device: str = "meta",
) -> list[Launch]:
    """One token of one row of `length` tokens."""
    pages = length // page
    q = torch.zeros(1, heads, 1, dim, dtype=dtype, device=device)
    cache = PagedKV.allocate(kv_heads, pages, page, dim, stored, device)
    cache.pages.zero_()
    if cache.scales is not None:
        cache.scales.fill_(1.0)
    table = torch.arange(pages, dtype=torch.int32, device=device).view(1, pages)
    lengths = torch.full((1,), length, dtype=torch.int64, device=device)
    rule = make_rule(
        q, kv_heads, window=window, sinks=0, scale=None, alibi_slopes=None, softcap=None
    )
    return plan_decode(q, cache, table, lengths, torch.empty_like(q), rule, arch, sms)


def work(stored: torch.dtype, window: int | None) -> Callable[[Launch], Work]:
    def of_program(launch: Launch) -> Work:
        """The average program: the last tile, and a window's first, are masked."""
        given = launch.arguments
        block, splits = given["BLOCK"], given["SPLITS"]
        tiles = ceil(min(LENGTH, window or LENGTH) / block)
        edges = (1 if window is None else 2) / splits
        kib = block * bytes_per_token(1, given["D"], stored) / 1024
        flops = 4.0 * block * given["ROWS"] * given["D_PAD"]
        return Work("KiB", (kib, kib), (edges, tiles / splits - edges), flops)

    return of_program


def trace(stored: torch.dtype, **options: Any) -> Callable[[], Trace]:
    def small_call() -> Trace:
        planned = launches(INTERPRETED_AS, stored, device="cpu", **TRACED, **options)
        given = planned[0].arguments
        keys = min(TRACED["length"], options.get("window") or TRACED["length"])
        q_bytes = given["q_ptr"].nbytes
        minimum = {
            "pages_ptr": 2 * keys * HEAD_DIM * stored.itemsize,
            "q_ptr": q_bytes,
            "out_ptr": q_bytes,
        }
        if given["scales_ptr"] is not None:
            minimum["scales_ptr"] = 2 * keys * 4
        return Trace(planned, minimum, dots=2 * ceil(keys / given["BLOCK"]))

    return small_call


def case(name: str, stored: torch.dtype, goal: float | None = None, **options: Any) -> Case:
    goals = {"traffic": 1.02} if goal is None else {"traffic": 1.02, "per_unit": goal}
    return Case(
        f"paged_decode/{name}",
        lambda arch: launches(arch, stored, **options),
        ("edges", "steady"),
        work(stored, options.get("window")),
        trace=trace(stored, **options),
        goal=goals,
    )


CASES = (
    case("bf16-page64", torch.bfloat16, goal=40.0),
    case("bf16-page128", torch.bfloat16, goal=40.0, page=128),
    case("bf16-page16", torch.bfloat16, page=16),
    case("bf16-page64-w4096", torch.bfloat16, window=WINDOW),
    case("fp16-page64", torch.float16, dtype=torch.float16),
    case("fp8_e4m3-page64", torch.float8_e4m3fn, goal=95.0),
    case("int8-page64", torch.int8),
)
