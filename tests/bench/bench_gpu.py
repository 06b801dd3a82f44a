"""Every Triton op on a GPU, cold cache, beside PyTorch's and other libraries' kernels.

Never run on a GPU yet. Each benchmark prints the time of every other one that is installed
(flash-attn, flash-linear-attention and mamba-ssm are optional) over ours, and our share of a
ceiling measured in this run: copy bandwidth, or a large bf16 matrix product. vLLM's kernels are
compared by their machine code alone (`ctxsweep kernels --against 'vllm/*'`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.storage import quantise
from ctxsweep_kernels.paged_decode import paged_decode_attention
from ctxsweep_kernels.retention import retention
from ctxsweep_kernels.selective_state_update import selective_state_update
from ctxsweep_kernels.sliding_window import sliding_window_attention
from ctxsweep_kernels.ssd import ssd_chunk_scan
from ctxsweep_kernels.wkv7 import wkv7

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

Thunk = Callable[[], object]
H100_WINDOW_TFLOPS = 520  # docs/kernels.md: 0.85 of FlashAttention-3's causal figure at 16K
Q_HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE = 32, 8, 128, 64
CACHED_TOKENS, PROMPT, WINDOW = 65536, 16384, 4096


class Contest(NamedTuple):
    """One op: what it must do, and who else can. goal: share of the ceiling, where one is set."""

    ours: Thunk
    others: dict[str, Thunk]
    flops: float = 0.0
    moved_bytes: float = 0.0
    goal: float | None = None


def milliseconds(thunk: Thunk) -> tuple[float, float, float]:
    """Median, 20% and 80% quantile; the cache is flushed before every call."""
    from triton.testing import do_bench

    low, median, high = do_bench(thunk, warmup=100, rep=500, quantiles=[0.2, 0.5, 0.8])
    return median, low, high


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


@cache
def ceilings() -> tuple[float, float]:
    """Bytes per second of a copy (read and write counted), FLOP/s of a bf16 product."""
    source = random(1 << 29)
    target = torch.empty_like(source)
    copy_ms, _, _ = milliseconds(lambda: target.copy_(source))
    a, b = random(8192, 8192), random(8192, 8192)
    product_ms, _, _ = milliseconds(lambda: a @ b)
    return 2 * source.nbytes / copy_ms * 1e3, 2 * 8192**3 / product_ms * 1e3


def window_prefill(window: int | None) -> Contest:
    q, k, v = (random(1, h, PROMPT, HEAD_DIM) for h in (Q_HEADS, KV_HEADS, KV_HEADS))
    others: dict[str, Thunk] = {}
    if window is None:
        sdpa = partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
        others["SDPA"] = partial(sdpa, q, k, v)
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    reach = window or PROMPT
    mask = create_block_mask(
        lambda b, h, i, j: (j <= i) & (i - j < reach), None, None, PROMPT, PROMPT
    )
    flex = torch.compile(partial(flex_attention, block_mask=mask, enable_gqa=True))
    others["FlexAttention"] = partial(flex, q, k, v)
    if find_spec("flash_attn"):
        from flash_attn import flash_attn_func

        token_major = [x.transpose(1, 2) for x in (q, k, v)]
        side = (-1, -1) if window is None else (window - 1, 0)
        others["flash-attn"] = partial(flash_attn_func, *token_major, causal=True, window_size=side)
    seen = sum(min(reach, i + 1) for i in range(PROMPT))
    return Contest(
        partial(sliding_window_attention, q, k, v, window, impl="triton"),
        others,
        flops=4.0 * Q_HEADS * HEAD_DIM * seen,
    )


def paged_decode(dtype: torch.dtype) -> Contest:
    pages = CACHED_TOKENS // PAGE_SIZE
    cache_ = PagedKV.allocate(KV_HEADS, pages, PAGE_SIZE, HEAD_DIM, dtype, "cuda")
    stored, scales = quantise(random(*cache_.pages.shape), dtype)
    cache_.pages.copy_(stored)
    if cache_.scales is not None and scales is not None:
        cache_.scales.copy_(scales)
    table = torch.randperm(pages, device="cuda").to(torch.int32)[None]
    lengths = torch.tensor([CACHED_TOKENS], device="cuda")
    q = random(1, Q_HEADS, 1, HEAD_DIM)
    k, v = (random(1, KV_HEADS, CACHED_TOKENS, HEAD_DIM) for _ in range(2))
    others = {"SDPA, dense bf16": partial(F.scaled_dot_product_attention, q, k, v, enable_gqa=True)}
    ours = partial(paged_decode_attention, q, cache_, table, lengths, impl="triton")
    return Contest(ours, others, moved_bytes=cache_.page_bytes * pages, goal=0.85)


def state_update() -> Contest:
    B, H, P, N = 16, 80, 64, 128
    state, x, dt = random(B, H, P, N, dtype=torch.float32), random(B, H, P), random(B, H).abs()
    A, b, c, d = -random(H).float().abs(), random(B, 1, N), random(B, 1, N), random(H).float()
    others: dict[str, Thunk] = {}
    if find_spec("mamba_ssm"):
        from mamba_ssm.ops.triton.selective_state_update import selective_state_update as theirs

        wide = A[:, None, None].expand(H, P, N), d[:, None].expand(H, P)
        step = dt[..., None].expand(B, H, P)
        others["mamba-ssm"] = partial(theirs, state, x, step, wide[0], b, c, wide[1])
    ours = partial(selective_state_update, state, x, dt, A, b, c, d, "triton")
    return Contest(ours, others, moved_bytes=2 * state.nbytes, goal=0.85)


def ssd_prefill() -> Contest:
    T, H, P, N = 8192, 80, 64, 128
    x, dt = random(1, T, H, P), random(1, T, H).abs() * 0.1
    A, b, c = -random(H).float().abs(), random(1, T, 1, N), random(1, T, 1, N)
    state = torch.zeros(1, H, P, N, device="cuda")
    others: dict[str, Thunk] = {}
    if find_spec("mamba_ssm"):
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        scan = partial(mamba_chunk_scan_combined, initial_states=state, return_final_states=True)
        others["mamba-ssm"] = partial(scan, x, dt, A, b, c, 256)
    ours = partial(ssd_chunk_scan, x, dt, A, b, c, state, impl="triton")
    return Contest(ours, others, moved_bytes=2 * x.nbytes + b.nbytes + c.nbytes)


def rwkv7_prefill() -> Contest:
    T, H, K = 8192, 32, 64
    r, k, v = (random(1, T, H, K) for _ in range(3))
    removal = F.normalize(random(1, T, H, K), dim=-1)
    a, b, log_w = -removal, removal * 0.5, -0.6 * torch.rand(1, T, H, K, device="cuda").bfloat16()
    state = torch.zeros(1, H, K, K, device="cuda")
    others: dict[str, Thunk] = {}
    if find_spec("fla"):
        from fla.ops.rwkv7 import chunk_rwkv7

        others["flash-linear-attention"] = partial(
            chunk_rwkv7, r, log_w, k, v, a, b, initial_state=state, output_final_state=True
        )
    ours = partial(wkv7, r, log_w, k, v, a, b, state, impl="triton")
    return Contest(ours, others, moved_bytes=7 * r.nbytes)


def retention_prefill() -> Contest:
    T, H, K, V = 8192, 8, 256, 512
    q, k, v = random(1, T, H, K) * K**-0.5, random(1, T, H, K), random(1, T, H, V)
    decay = torch.log1p(-torch.exp2(-5.0 - torch.arange(H, device="cuda")))
    state = torch.zeros(1, H, K, V, device="cuda")
    others: dict[str, Thunk] = {}
    if find_spec("fla"):
        from fla.ops.retention import chunk_retention

        others["flash-linear-attention"] = partial(
            chunk_retention, q, k, v, initial_state=state, output_final_state=True
        )
    ours = partial(retention, q, k, v, decay, state, impl="triton")
    return Contest(ours, others, moved_bytes=q.nbytes + k.nbytes + 2 * v.nbytes)


WINDOWED = "window prefill W=4096"
CONTESTS: dict[str, Callable[[], Contest]] = {
    WINDOWED: partial(window_prefill, WINDOW),
    "causal prefill": partial(window_prefill, None),
    "paged decode bf16": partial(paged_decode, torch.bfloat16),
    "paged decode fp8": partial(paged_decode, torch.float8_e4m3fn),
    "paged decode int8": partial(paged_decode, torch.int8),
    "Mamba-2 state update": state_update,
    "Mamba-2 prefill": ssd_prefill,
    "RWKV-7 prefill": rwkv7_prefill,
    "retention prefill": retention_prefill,
}


@pytest.mark.parametrize("name", CONTESTS)
def test_op(name: str, benchmark: Callable, add_ratio: Callable[..., None]) -> None:
    contest = CONTESTS[name]()
    bytes_per_s, flops_per_s = ceilings()
    median, low, high = milliseconds(contest.ours)
    ideal = max(contest.moved_bytes / bytes_per_s, contest.flops / flops_per_s) * 1e3
    spread = f"{median:.3f} ms [{low:.3f}, {high:.3f}], {ideal / median:.0%} of the ceiling"
    if contest.goal is not None:
        share = ideal / median
        add_ratio(f"{name}: share of the measured ceiling", share, contest.goal, True, spread)
    if name == WINDOWED:
        reached = contest.flops / median / 1e9
        add_ratio(f"{name}: useful TFLOP/s (goal on an H100)", reached, H100_WINDOW_TFLOPS)
    for other, thunk in contest.others.items():
        theirs, _, _ = milliseconds(thunk)
        add_ratio(
            f"{name}: {other} over ours", theirs / median, 1.0, True, f"{theirs:.3f} ms; {spread}"
        )
    benchmark.pedantic(contest.ours, rounds=5, warmup_rounds=1)


def test_narrow_caches_are_faster(benchmark: Callable, add_ratio: Callable[..., None]) -> None:
    wide, narrow = paged_decode(torch.bfloat16).ours, paged_decode(torch.float8_e4m3fn).ours
    ratios = [milliseconds(wide)[0] / milliseconds(narrow)[0] for _ in range(3)]
    add_ratio("fp8 decode over bf16 decode", statistics.median(ratios), 1.75)
    benchmark.pedantic(narrow, rounds=5, warmup_rounds=1)
