"""A chunk of 2048 tokens over a prefix in the paged cache, for the static bench."""

from __future__ import annotations

from functools import partial

import torch

from ctxsweep_kernels.launch import INTERPRETED_AS, Launch
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_prefill.plan import plan_prefill
from ctxsweep_kernels.score_rule import make_rule
from ctxsweep_kernels.sliding_window.cases import work_of
from ctxsweep_kernels.static.case import Case, Trace, Work

PREFIX, CHUNK, HEADS, KV_HEADS, DIM, PAGE = 14336, 2048, 32, 8, 128, 64


def launches(
    stored: torch.dtype,
    arch: str,
    prefix: int = PREFIX,
    chunk: int = CHUNK,
    heads: int = HEADS,
    kv_heads: int = KV_HEADS,
    device: str = "meta",
) -> list[Launch]:
    """One chunk of one sequence."""
    pages = (prefix + chunk) // PAGE
    q = torch.zeros(1, heads, chunk, DIM, dtype=torch.bfloat16, device=device)
    cache = PagedKV.allocate(kv_heads, pages, PAGE, DIM, stored, device)
    cache.pages.zero_()
    table = torch.arange(pages, dtype=torch.int32, device=device)[None]
    lengths = torch.full((1,), prefix + chunk, dtype=torch.int64, device=device)
    rule = make_rule(q, kv_heads, window=None, sinks=0, scale=None, alibi_slopes=None, softcap=None)
    return plan_prefill(q, cache, table, lengths, rule, torch.empty_like(q), arch)


def work(launch: Launch) -> Work:
    """The program in the middle of the chunk."""
    given = launch.arguments
    middle = CHUNK // 2 // given["BM"] * given["BM"]
    return work_of(PREFIX + middle, PREFIX + CHUNK, given)


def trace(stored: torch.dtype) -> Trace:
    prefix, chunk, heads = 512, 256, 4
    planned = launches(stored, INTERPRETED_AS, prefix, chunk, heads, 1, "cpu")
    given = planned[0].arguments
    return Trace(planned, {name: given[name].nbytes for name in ("q", "pages", "out")})


def case(name: str, stored: torch.dtype) -> Case:
    loops = ("steady", "diagonal")
    return Case(
        f"paged_prefill/{name}", partial(launches, stored), loops, work, partial(trace, stored)
    )


CASES = (
    case("bf16-d128-p64", torch.bfloat16),
    case("fp8_e4m3-d128-p64", torch.float8_e4m3fn),
)
