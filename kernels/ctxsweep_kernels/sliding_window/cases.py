"""Prefill attention in the shapes of real models, for the static bench."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ctxsweep_kernels.launch import INTERPRETED_AS, Launch
from ctxsweep_kernels.score_rule import ScoreRule, make_rule
from ctxsweep_kernels.sliding_window.plan import plan_window
from ctxsweep_kernels.sliding_window.stretches import key_stretches
from ctxsweep_kernels.static.case import Case, Trace, Work

TOKENS, HEADS, KV_HEADS = 16384, 32, 8
WINDOW = 4096
GOAL = {"per_unit": 0.22, "masked": 1.25}
TRACED = {"tokens": 600, "heads": 2, "kv_heads": 1, "window": 200}


def launches(
    arch: str,
    dtype: torch.dtype,
    dim: int,
    window: int | None,
    tokens: int = TOKENS,
    heads: int = HEADS,
    kv_heads: int = KV_HEADS,
    device: str = "meta",
) -> list[Launch]:
    """One call over one sequence."""
    q = torch.zeros(1, heads, tokens, dim, dtype=dtype, device=device)
    k, v = (torch.zeros(1, kv_heads, tokens, dim, dtype=dtype, device=device) for _ in range(2))
    rule = make_rule(
        q, kv_heads, window=window, sinks=0, scale=None, alibi_slopes=None, softcap=None
    )
    return plan_window(q, k, v, rule, torch.empty_like(q), arch)


def plan(dtype: torch.dtype, dim: int, window: int | None) -> Callable[[str], list[Launch]]:
    return lambda arch: launches(arch, dtype, dim, window)


def work_of(first: int, tokens: int, given: dict[str, Any]) -> Work:
    """The program whose block of queries begins at position `first`, in a launch of `attend`."""
    queries, keys = given["BM"], given["BN"]
    stop = min(first + queries, tokens)
    windowed = given["WINDOWED"]
    _, low, inside, diagonal, end = key_stretches.fn(
        first, stop, given["window"], given["sinks"], windowed, keys
    )
    edges = (inside - low,) if windowed else ()
    trips = (*edges, diagonal - inside, end - diagonal)
    scores = queries * keys
    return Work(
        "score", (scores,) * len(trips), trips, flops_per_iteration=4.0 * scores * given["DP"]
    )


def work(launch: Launch) -> Work:
    """A program in the middle of the sequence, past the first window."""
    given = launch.arguments
    middle = given["n"] // 2 // given["BM"] * given["BM"]
    return work_of(middle, given["n"], given)


def tiles_needed(tokens: int, window: int | None, queries: int, keys: int) -> int:
    """Tiles that hold a key which a query of the block sees, by looking at every pair."""
    positions = torch.arange(tokens)
    seen = ScoreRule(scale=1.0, window=window).visible(positions, positions)
    blocks = seen.split(queries)
    return sum(int(tile.any()) for block in blocks for tile in block.split(keys, dim=1))


def trace(dtype: torch.dtype, dim: int, windowed: bool) -> Callable[[], Trace]:
    def small_call() -> Trace:
        options = TRACED if windowed else TRACED | {"window": None}
        planned = launches(INTERPRETED_AS, dtype, dim, device="cpu", **options)
        given = planned[0].arguments
        tiles = tiles_needed(given["n"], options["window"], given["BM"], given["BN"])
        shapes = {"q": TRACED["heads"], "k": 1, "v": 1, "out": TRACED["heads"]}
        row_bytes = given["n"] * dim * dtype.itemsize
        least = {name: heads * row_bytes for name, heads in shapes.items()}
        return Trace(planned, least, dots=2 * TRACED["heads"] * tiles)

    return small_call


def case(name: str, dtype: torch.dtype, dim: int, window: int | None, **more: Any) -> Case:
    loops = ("steady", "diagonal") if window is None else ("left edge", "steady", "diagonal")
    return Case(
        f"window_prefill/{name}",
        plan(dtype, dim, window),
        loops,
        work,
        trace=trace(dtype, dim, window is not None),
        **more,
    )


CASES = (
    case("bf16-d128-w4096", torch.bfloat16, 128, WINDOW, goal=GOAL),
    case("bf16-d128-full", torch.bfloat16, 128, None),
    case("bf16-d64-w4096", torch.bfloat16, 64, WINDOW),
    case("fp16-d256-w4096", torch.float16, 256, WINDOW),
)
