"""How `paged_prefill_attention` is launched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctxsweep_kernels.launch import Launch, architecture
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_prefill.kernel import paged_prefill_kernel
from ctxsweep_kernels.score_rule import ScoreRule
from ctxsweep_kernels.sliding_window.plan import (
    Blocks,
    blocks,
    padded_dim,
    score_arguments,
    slopes_argument,
)
from ctxsweep_kernels.triton_common import TRITON_DTYPES

OLDEST_WITH_E4M3 = 89  # sm_89, Ada
BYTES = Blocks(64, 32, 4, 2)  # every warp widens all keys of a tile, so there are few warps


def paged_prefill_triton(
    q: Tensor, cache: PagedKV, block_table: Tensor, lengths: Tensor, rule: ScoreRule
) -> Tensor:
    """Arguments as in `paged_prefill_attention`, checked."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    q = q if q.stride(3) == 1 else q.contiguous()
    table = block_table if block_table.stride(1) == 1 else block_table.contiguous()
    arch = architecture(q.device)
    for launch in plan_prefill(q, cache, table, lengths.contiguous(), rule, out, arch):
        launch.run()
    return out


def plan_prefill(
    q: Tensor,
    cache: PagedKV,
    block_table: Tensor,
    lengths: Tensor,
    rule: ScoreRule,
    out: Tensor,
    arch: str,
) -> list[Launch]:
    """The one launch of a call; tensors may be on `meta`."""
    batch, heads, tokens, dim = q.shape
    padded = padded_dim(dim)
    compute = compute_dtype(q.dtype, cache.dtype)
    tile = blocks(arch, compute, padded, tokens, rule, gathered=True)
    as_bytes = cache.dtype == torch.float8_e4m3fn and not knows_e4m3(arch)
    if as_bytes and padded <= 128:
        tile = BYTES
    arguments: dict[str, Any] = {
        "q": q,
        "pages": cache.pages.view(torch.int8) if as_bytes else cache.pages,
        "scales": cache.scales,
        "table": block_table,
        "lengths": lengths,
        "out": out,
        "slopes": slopes_argument(rule),
        "tokens": tokens,
        "kv_heads": cache.kv_heads,
        "pool": cache.page_count * cache.page_size,
        **score_arguments(rule, tile),
        "table_row": block_table.stride(0),
        "GROUP": heads // cache.kv_heads,
        "BM": tile.queries,
        "BN": tile.keys,
        "D": dim,
        "DP": padded,
        "PAGE": cache.page_size,
        "COMPUTE": TRITON_DTYPES[compute],
        "OPERAND": TRITON_DTYPES[compute],
        "E4M3_BYTES": as_bytes,
    }
    for name, x in (("q", q), ("out", out)):
        for axis, stride in zip(("batch", "head", "row"), x.stride(), strict=False):
            arguments[f"{name}_{axis}"] = stride
    grid = (heads, -(-tokens // tile.queries), batch)
    return [Launch(paged_prefill_kernel, grid, arguments, tile.warps, tile.stages)]


def compute_dtype(q: torch.dtype, stored: torch.dtype) -> torch.dtype:
    """Where queries and a cache meet without loss: q's dtype for caches of it and of 8 bits."""
    return q if stored == q or stored.itemsize == 1 else torch.float32


def knows_e4m3(arch: str) -> bool:
    return not arch.startswith("sm_") or int(arch[3:]) >= OLDEST_WITH_E4M3
