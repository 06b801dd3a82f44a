"""How a decode is cut into programs: tiles, splits and launches, from shapes alone."""

from __future__ import annotations

import functools
from math import ceil

import torch
import triton
from torch import Tensor

from ctxsweep_kernels.chunking import LOG2E
from ctxsweep_kernels.launch import Launch, architecture, multiprocessors
from ctxsweep_kernels.paged_cache import PagedKV, bytes_per_token
from ctxsweep_kernels.paged_decode.kernel import decode_kernel, merge_kernel
from ctxsweep_kernels.score_rule import ScoreRule
from ctxsweep_kernels.triton_common import TRITON_DTYPES

PROGRAMS_PER_SM = 2
MANY_SUMS = 4096  # float32 sums of a program that 4 warps cannot hold beside the rest
WAVE_EFFICIENCY = 0.85
MERGED_SHARE = 0.02  # of the bytes of a split, at most, its partial result
MOST_TILES_FOR_SHARE = 8


def product_dtypes(q: torch.dtype, stored: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
    """The dtypes in which q meets K, and the probabilities meet V.

    int8 probabilities carry V's scales, whose range float16 lacks.
    """
    if torch.float32 in (q, stored) or (q, stored) == (torch.float16, torch.bfloat16):
        return torch.float32, torch.float32
    if stored == torch.int8:
        return q, torch.bfloat16
    if stored == torch.bfloat16:
        return stored, stored
    return torch.float16, torch.float16


def tile_shape(
    rows: int,
    page_size: int,
    product: torch.dtype,
    head_dim: int,
    stored: torch.dtype,
    arch: str,
) -> tuple[int, int]:
    """Keys and query rows of a tile: what fits the registers and shared memory of every GPU.

    A KV head with more query rows takes several programs.
    """
    amd = arch.startswith("gfx")
    most = 32
    if product == torch.float32 or head_dim > 128:
        most = 8 if product == torch.float32 else 16
    query_rows = max(16 if amd else 8, min(most, triton.next_power_of_2(rows)))
    wide = head_dim > 128
    if product == torch.float32:
        return 16 if wide else 32, query_rows
    if amd:  # 64 KiB of shared memory
        return 32 if wide else 64, query_rows
    if wide and stored == torch.int8 and arch.startswith("sm_8"):  # 64 keys fill 255 registers
        return 32, query_rows
    return 128 if page_size % 128 == 0 and not wide and query_rows <= 16 else 64, query_rows


@functools.cache
def split_count(programs: int, tiles: int, least: int, slots: int) -> int:
    """The fewest splits of `tiles` whose waves are `WAVE_EFFICIENCY` full, or else the best.

    programs: of one split; least: tiles of a split; slots: programs that run at a time.
    """

    def efficiency(splits: int) -> float:
        waves = ceil(programs * splits / slots)
        return programs * tiles / (waves * slots * max(ceil(tiles / splits), least))

    best = 1
    for splits in range(1, max(1, tiles // least) + 1):
        if efficiency(splits) >= WAVE_EFFICIENCY:
            return splits
        if efficiency(splits) > efficiency(best):
            best = splits
    return best


def plan_decode(
    q: Tensor,
    cache: PagedKV,
    block_table: Tensor,
    lengths: Tensor,
    out: Tensor,
    rule: ScoreRule,
    arch: str,
    sms: int | None = None,
) -> list[Launch]:
    """Launches that write `out` `[B, Hq, T, D]`; arguments as in `paged_decode_attention`.

    sms: multiprocessors to fill; None: those of the device.
    """
    batch, q_heads, tokens, dim = q.shape
    rows = q_heads // cache.kv_heads * tokens
    qk, pv = product_dtypes(q.dtype, cache.dtype)
    amd = arch.startswith("gfx")
    block, row_tile = tile_shape(rows, cache.page_size, qk, dim, cache.dtype, arch)
    padded = max(16, triton.next_power_of_2(dim))
    row_blocks = ceil(rows / row_tile)

    capacity = block_table.shape[1] * cache.page_size
    if rule.window is not None:
        capacity = min(capacity, rule.window + tokens - 1 + block)
    tiles = ceil(capacity / block)
    tile_bytes = block * bytes_per_token(1, dim, cache.dtype)
    share = ceil(rows * (dim + 1) * 4 / (MERGED_SHARE * tile_bytes))
    least = min(share, MOST_TILES_FOR_SHARE)
    programs = batch * cache.kv_heads * row_blocks
    slots = PROGRAMS_PER_SM * (sms or multiprocessors(q.device))
    splits = split_count(programs, tiles, least, slots)

    shape = (batch, cache.kv_heads, rows, splits)
    partial, lse = out, None
    if splits > 1:
        partial = torch.empty(*shape, dim, device=q.device)
        lse = torch.empty(shape, device=q.device)
    e4m3_bits = cache.dtype == torch.float8_e4m3fn and (amd or int(arch[3:]) < 89)
    common = {
        "lengths_ptr": lengths,
        "window": rule.window,
        "tokens": tokens,
        "D": dim,
        "D_PAD": padded,
        "BLOCK": block,
        "SPLITS": splits,
        "LEAST": least,
    }
    decode = Launch(
        decode_kernel,
        (splits, cache.kv_heads * row_blocks, batch),
        {
            **common,
            "q_ptr": q,
            "pages_ptr": cache.pages.view(torch.int8) if e4m3_bits else cache.pages,
            "scales_ptr": cache.scales,
            "table_ptr": block_table,
            "slopes_ptr": rule.alibi_slopes,
            "out_ptr": partial,
            "lse_ptr": lse,
            "scale": rule.scale * LOG2E,
            "softcap": rule.softcap,
            "sinks": rule.sinks,
            "rows": rows,
            "slot_count": cache.page_count * cache.page_size,
            "q_stride_b": q.stride(0),
            "q_stride_h": q.stride(1),
            "q_stride_t": q.stride(2),
            "table_stride": block_table.stride(0),
            "KV_HEADS": cache.kv_heads,
            "PAGE": cache.page_size,
            "ROWS": row_tile,
            "QK": TRITON_DTYPES[qk],
            "PV": TRITON_DTYPES[pv],
            "NORMALISED": q.dtype == torch.bfloat16 and qk == torch.float16,
            "PERMUTED": arch == "sm_90" and cache.dtype.itemsize == 1 and qk != torch.float32,
            "E4M3_BITS": e4m3_bits,
        },
        num_warps=8 if qk == torch.float32 or row_tile * padded >= MANY_SUMS else 4,
        num_stages=3,
        # Left alone, ptxas may spill a few bytes to fit one more program on a multiprocessor.
        options={} if amd else {"maxnreg": 255},
    )
    if splits == 1:
        return [decode]
    merge = Launch(
        merge_kernel,
        (batch * q_heads * tokens,),
        {
            **common,
            "partial_ptr": partial,
            "lse_ptr": lse,
            "out_ptr": out,
            "rows_of_batch": q_heads * tokens,
            "SPLIT_BLOCK": 16,
        },
        num_warps=2,
        num_stages=1,
    )
    return [decode, merge]


def paged_decode_triton(
    q: Tensor, cache: PagedKV, block_table: Tensor, lengths: Tensor, rule: ScoreRule
) -> Tensor:
    """Arguments as in `paged_decode_attention`, checked."""
    q = q if q.stride(3) == 1 else q.contiguous()
    table = block_table if block_table.stride(1) == 1 else block_table.contiguous()
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    arch = architecture(q.device)
    for launch in plan_decode(q, cache, table, lengths.contiguous(), out, rule, arch):
        launch.run()
    return out
