"""Every op at fixed shapes, by itself: the micro-benchmarks whose JSON goes into the history.

    pytest tests/bench/bench_ops.py -o python_files='bench_*.py' -o pythonpath=tests/bench \\
        --benchmark-only --benchmark-json=bench.json

A name tells op, shape and element type (d: head size, n: tokens in the cache, t: tokens of the
call, p: head size of a state, k: its keys) and is never given to another shape: history goes by
it. ``extra_info`` has the implementation that ran, so that C against torch is not taken for a
change of speed. On a GPU the Triton kernels run too, at full size; their names begin with
``cuda-``. They were never timed on a GPU by the project itself.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from ctxsweep_kernels.causal_conv import causal_conv1d
from ctxsweep_kernels.dispatch import noting
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.storage import quantise
from ctxsweep_kernels.paged_decode import paged_decode_attention
from ctxsweep_kernels.paged_prefill import paged_prefill_attention
from ctxsweep_kernels.retention import retention
from ctxsweep_kernels.rope_append import rope_append
from ctxsweep_kernels.score_rule import COMPUTE_DTYPES
from ctxsweep_kernels.selective_scan import selective_scan
from ctxsweep_kernels.selective_state_update import selective_state_update
from ctxsweep_kernels.sliding_window import sliding_window_attention
from ctxsweep_kernels.ssd import ssd_chunk_scan
from ctxsweep_kernels.wkv7 import wkv7

Thunk = Callable[[], object]
Make = Callable[[str], Thunk]

PAGE_SIZE = 128
ROUNDS = 40
LEAST_ROUND_S = 2e-3  # a round of a short op is many calls: the clock and one interrupt count less
WARM_UP_ROUNDS = 5


def random(device: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float32).to(device, dtype)


def filled_cache(
    device: str, kv_heads: int, tokens: int, dim: int, dtype: torch.dtype
) -> tuple[PagedKV, Tensor, Tensor]:
    """A full cache of random numbers (one page drawn, then repeated), its table and length."""
    pages = tokens // PAGE_SIZE
    cache = PagedKV.allocate(kv_heads, pages, PAGE_SIZE, dim, dtype, device)
    drawn, scales = quantise(random(device, 2, kv_heads, 1, PAGE_SIZE, dim), dtype)
    cache.pages.copy_(drawn.expand(cache.pages.shape))
    if cache.scales is not None and scales is not None:
        cache.scales.copy_(scales.expand(cache.scales.shape))
    table = torch.arange(pages, dtype=torch.int32, device=device)[None]
    return cache, table, torch.tensor([tokens], device=device)


def attend(
    op: Callable[..., Tensor],
    heads: tuple[int, int],
    tokens: int,
    dtype: torch.dtype,
    new: int = 1,
    window: int | None = None,
    dim: int = 64,
) -> Make:
    """Attention of the last `new` of `tokens` cached positions; heads: of queries, of the cache."""

    def make(device: str) -> Thunk:
        cache, table, lengths = filled_cache(device, heads[1], tokens, dim, dtype)
        narrow = torch.bfloat16 if device == "cuda" else torch.float32
        compute = dtype if dtype in COMPUTE_DTYPES else narrow
        q = random(device, 1, heads[0], new, dim, dtype=compute)
        return partial(op, q, cache, table, lengths, window=window)

    return make


def window(heads: tuple[int, int], tokens: int, width: int, dtype: torch.dtype, dim: int) -> Make:
    def make(device: str) -> Thunk:
        sizes = heads[0], heads[1], heads[1]
        q, k, v = (random(device, 1, h, tokens, dim, dtype=dtype) for h in sizes)
        return partial(sliding_window_attention, q, k, v, width)

    return make


def append(heads: tuple[int, int], new: int, dtype: torch.dtype, dim: int = 64) -> Make:
    """Rotate and store `new` tokens in the middle of a cache; the same places each time."""

    def make(device: str) -> Thunk:
        cache, table, _ = filled_cache(device, heads[1], 4096, dim, dtype)
        q = random(device, 1, heads[0], new, dim, dtype=dtype)
        k, v = (random(device, 1, heads[1], new, dim, dtype=dtype) for _ in range(2))
        frequencies = torch.logspace(0, -4, dim // 2, device=device)
        starts = torch.tensor([2000], device=device)
        return partial(rope_append, q, k, v, cache, table, starts, frequencies)

    return make


def mamba2(tokens: int, heads: int, p: int, n: int, dtype: torch.dtype) -> Make:
    def make(device: str) -> Thunk:
        x, dt = random(device, 1, tokens, heads, p, dtype=dtype), torch.rand(1, tokens, heads) * 0.1
        B, C = (random(device, 1, tokens, 1, n, dtype=dtype) for _ in range(2))
        A, state = -torch.rand(heads, device=device) * 16, torch.zeros(1, heads, p, n).to(device)
        return partial(ssd_chunk_scan, x, dt.to(device, dtype), A, B, C, state)

    return make


def mamba2_step(heads: int, p: int, n: int, dtype: torch.dtype, batch: int = 1) -> Make:
    def make(device: str) -> Thunk:
        state, x = random(device, batch, heads, p, n), random(device, batch, heads, p, dtype=dtype)
        dt = (torch.rand(batch, heads) * 0.1).to(device, dtype)
        B, C = (random(device, batch, 1, n, dtype=dtype) for _ in range(2))
        return partial(selective_state_update, state, x, dt, -torch.ones(heads).to(device), B, C)

    return make


def mamba1(tokens: int, width: int, n: int, dtype: torch.dtype) -> Make:
    def make(device: str) -> Thunk:
        u, dt = random(device, 1, tokens, width, dtype=dtype), torch.rand(1, tokens, width) * 0.1
        B, C = (random(device, 1, tokens, n, dtype=dtype) for _ in range(2))
        A, state = -torch.rand(width, n) * 16, torch.zeros(1, width, n)
        return partial(
            selective_scan, u, dt.to(device, dtype), A.to(device), B, C, state.to(device)
        )

    return make


def convolution(tokens: int, channels: int, dtype: torch.dtype) -> Make:
    def make(device: str) -> Thunk:
        x, weight = random(device, 1, tokens, channels, dtype=dtype), random(device, channels, 4)
        state = random(device, 1, 3, channels, dtype=dtype)
        return partial(causal_conv1d, x, weight.to(dtype), None, state, "silu")

    return make


def rwkv7(tokens: int, heads: int, k: int, dtype: torch.dtype) -> Make:
    def make(device: str) -> Thunk:
        shape = 1, tokens, heads, k
        r, key, v = (random(device, *shape, dtype=dtype) for _ in range(3))
        removal = F.normalize(random(device, *shape), dim=-1)
        log_w = -0.6 * torch.rand(shape).to(device)
        a, b, decay = (-removal).to(dtype), (removal * 0.5).to(dtype), log_w.to(dtype)
        return partial(wkv7, r, decay, key, v, a, b, torch.zeros(1, heads, k, k).to(device))

    return make


def retnet(tokens: int, heads: int, k: int, v: int, dtype: torch.dtype) -> Make:
    def make(device: str) -> Thunk:
        q, key = (random(device, 1, tokens, heads, k, dtype=dtype) * k**-0.5 for _ in range(2))
        values = random(device, 1, tokens, heads, v, dtype=dtype)
        decay = torch.log1p(-torch.exp2(-5.0 - torch.arange(heads))).to(device)
        return partial(retention, q, key, values, decay, torch.zeros(1, heads, k, v).to(device))

    return make


FP32, BF16, FP8, INT8 = torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8
GQA = 8, 2
DECODE, PREFILL = paged_decode_attention, paged_prefill_attention

OPS: dict[str, Make] = {
    "paged_decode[gqa-8x2-d64-n4096-fp32]": attend(DECODE, GQA, 4096, FP32),
    "paged_decode[gqa-8x2-d64-n32768-fp32]": attend(DECODE, GQA, 32768, FP32),
    "paged_decode[gqa-8x2-d64-n32768-bf16]": attend(DECODE, GQA, 32768, BF16),
    "paged_decode[gqa-8x2-d64-n32768-fp8_e4m3]": attend(DECODE, GQA, 32768, FP8),
    "paged_decode[gqa-8x2-d64-n32768-int8]": attend(DECODE, GQA, 32768, INT8),
    "paged_decode[mha-8x8-d64-n8192-fp32]": attend(DECODE, (8, 8), 8192, FP32),
    "paged_decode[window-1024-gqa-8x2-d64-n32768-fp32]": attend(
        DECODE, GQA, 32768, FP32, window=1024
    ),
    "paged_prefill[gqa-8x2-d64-t512-n4096-fp32]": attend(PREFILL, GQA, 4096, FP32, new=512),
    "paged_prefill[gqa-8x2-d64-t512-n4096-bf16]": attend(PREFILL, GQA, 4096, BF16, new=512),
    "paged_prefill[window-1024-gqa-8x2-d64-t512-n4096-fp32]": attend(
        PREFILL, GQA, 4096, FP32, new=512, window=1024
    ),
    "sliding_window[gqa-8x2-d64-w512-t2048-fp32]": window(GQA, 2048, 512, FP32, 64),
    "rope_append[gqa-8x2-d64-t1-fp32]": append(GQA, 1, FP32),
    "rope_append[gqa-8x2-d64-t512-fp32]": append(GQA, 512, FP32),
    "rope_append[gqa-8x2-d64-t512-bf16]": append(GQA, 512, BF16),
    "mamba2_scan[h8-p64-n64-t512-fp32]": mamba2(512, 8, 64, 64, FP32),
    "mamba2_step[h8-p64-n64-fp32]": mamba2_step(8, 64, 64, FP32),
    "mamba1_scan[w512-n16-t512-fp32]": mamba1(512, 512, 16, FP32),
    "causal_conv[c640-k4-t512-fp32]": convolution(512, 640, FP32),
    "rwkv7[h4-k64-t512-fp32]": rwkv7(512, 4, 64, FP32),
    "rwkv7[h4-k64-t1-fp32]": rwkv7(1, 4, 64, FP32),
    "retention[h4-k64-v64-t512-fp32]": retnet(512, 4, 64, 64, FP32),
    "retention[h4-k64-v64-t1-fp32]": retnet(1, 4, 64, 64, FP32),
}
CUDA_OPS: dict[str, Make] = {
    "paged_decode[gqa-32x8-d128-n65536-bf16]": attend(DECODE, (32, 8), 65536, BF16, dim=128),
    "paged_decode[gqa-32x8-d128-n65536-fp8_e4m3]": attend(DECODE, (32, 8), 65536, FP8, dim=128),
    "paged_prefill[gqa-32x8-d128-t2048-n32768-bf16]": attend(
        PREFILL, (32, 8), 32768, BF16, new=2048, dim=128
    ),
    "sliding_window[gqa-32x8-d128-w4096-t16384-bf16]": window((32, 8), 16384, 4096, BF16, 128),
    "rope_append[gqa-32x8-d128-t2048-bf16]": append((32, 8), 2048, BF16, 128),
    "mamba2_scan[h80-p64-n128-t8192-bf16]": mamba2(8192, 80, 64, 128, BF16),
    "mamba2_step[b16-h80-p64-n128-bf16]": mamba2_step(80, 64, 128, BF16, batch=16),
    "mamba1_scan[w5120-n16-t2048-bf16]": mamba1(2048, 5120, 16, BF16),
    "causal_conv[c5376-k4-t8192-bf16]": convolution(8192, 5376, BF16),
    "rwkv7[h32-k64-t8192-bf16]": rwkv7(8192, 32, 64, BF16),
    "retention[h8-k256-v512-t8192-bf16]": retnet(8192, 8, 256, 512, BF16),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The same numbers every night, no gradients, one thread.

    Two threads wait for each other whenever something else takes a core for a moment; a kernel that
    became slower shows in one thread just as well. The sweep has the threads of the machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    gc.collect()
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


def measured(benchmark: BenchmarkFixture, thunk: Thunk, device: str) -> None:
    """Time `thunk` in ``ROUNDS`` rounds of at least ``LEAST_ROUND_S``; calls of a round: fixed."""

    def finished() -> None:
        thunk()
        if device == "cuda":
            torch.cuda.synchronize()

    ran: dict[str, str] = {}
    with noting(ran):
        finished()
    benchmark.extra_info |= {
        "implementation": ", ".join(sorted(set(ran.values()))),
        "device": device,
        "threads": torch.get_num_threads(),
    }
    benchmark.pedantic(
        finished, rounds=ROUNDS, iterations=calls_in_a_round(finished), warmup_rounds=WARM_UP_ROUNDS
    )


def calls_in_a_round(thunk: Thunk) -> int:
    """A power of two, from the best of a few calls: the nights agree on it."""
    from pairs import seconds

    once = min(seconds(thunk) for _ in range(9))
    calls = 1
    while calls * once < LEAST_ROUND_S:
        calls *= 2
    return calls


@pytest.mark.parametrize("name", OPS)
def test_cpu(name: str, benchmark: BenchmarkFixture) -> None:
    benchmark.name = name
    measured(benchmark, OPS[name]("cpu"), "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CUDA_OPS)
def test_cuda(name: str, benchmark: BenchmarkFixture) -> None:
    benchmark.name = f"cuda-{name}"
    measured(benchmark, CUDA_OPS[name]("cuda"), "cuda")
