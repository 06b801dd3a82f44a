"""A chunk of 2048 tokens over a prefix in the paged cache, for the static bench."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_prefill.plan import plan_prefill
from ctxsweep_kernels.score_rule import make_rule
from ctxsweep_kernels.sliding_window.cases import work_of
from ctxsweep_kernels.static.case import Case, Work

PREFIX, CHUNK, HEADS, KV_HEADS, DIM, PAGE = 14336, 2048, 32, 8, 128, 64


def plan(cache_dtype: torch.dtype) -> Callable[[str], list[Launch]]:
    def launches(arch: str) -> list[Launch]:
        tokens = PREFIX + CHUNK
        q = torch.empty(1, HEADS, CHUNK, DIM, dtype=torch.bfloat16, device="meta")
        cache = PagedKV.allocate(KV_HEADS, tokens // PAGE, PAGE, DIM, cache_dtype, device="meta")
        table = torch.empty(1, tokens // PAGE, dtype=torch.int32, device="meta")
        lengths = torch.empty(1, dtype=torch.int64, device="meta")
        rule = make_rule(
            q, KV_HEADS, window=None, sinks=0, scale=None, alibi_slopes=None, softcap=None
        )
        return plan_prefill(q, cache, table, lengths, rule, torch.empty_like(q), arch)

    return launches


def work(launch: Launch) -> Work:
    """The program in the middle of the chunk."""
    given = launch.arguments
    middle = CHUNK // 2 // given["BM"] * given["BM"]
    return work_of(PREFIX + middle, PREFIX + CHUNK, given)


CASES = (
    Case("paged_prefill/bf16-d128-p64", plan(torch.bfloat16), ("steady", "diagonal"), work),
    Case(
        "paged_prefill/fp8_e4m3-d128-p64", plan(torch.float8_e4m3fn), ("steady", "diagonal"), work
    ),
)
