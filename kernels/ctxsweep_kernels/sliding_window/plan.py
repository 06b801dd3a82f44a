"""How `sliding_window_attention` is launched: blocks from shape, dtype and architecture."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ctxsweep_kernels.chunking import LOG2E
from ctxsweep_kernels.launch import Launch, architecture
from ctxsweep_kernels.score_rule import ScoreRule
from ctxsweep_kernels.sliding_window.kernel import window_kernel
from ctxsweep_kernels.sliding_window.stretches import key_stretches
from ctxsweep_kernels.triton_common import TRITON_DTYPES

TMA_ALIGNMENT = 16
LARGEST_DIM = 256
LARGEST_ROW_STRIDE = 1 << 23


class Blocks(NamedTuple):
    """Queries and keys of a tile, warps, and stages of the pipeline of loads."""

    queries: int
    keys: int
    warps: int
    stages: int


def _by_head_size(*tiles: tuple[int, int, int, int]) -> dict[int, Blocks]:
    """Blocks for head sizes 16, 32 and 64; 128; 256."""
    small, middle, large = (Blocks(*tile) for tile in tiles)
    return {16: small, 32: small, 64: small, 128: middle, 256: large}


HOPPER = _by_head_size((128, 128, 8, 2), (128, 128, 8, 2), (128, 64, 8, 2))
HOPPER_NARROW = _by_head_size((128, 64, 8, 2), (128, 64, 8, 2), (64, 32, 8, 2))
BLACKWELL_NARROW = HOPPER_NARROW | {256: Blocks(64, 64, 8, 2)}
AMPERE = _by_head_size((128, 64, 8, 3), (128, 32, 8, 3), (64, 32, 8, 2))
AMPERE_NARROW = _by_head_size((128, 32, 8, 2), (128, 32, 8, 2), (64, 32, 8, 2))
AMD = _by_head_size((128, 64, 4, 1), (128, 64, 4, 1), (64, 32, 4, 1))
FLOAT32 = _by_head_size((32, 32, 8, 2), (32, 32, 8, 1), (16, 32, 8, 2))
AMD_FLOAT32 = Blocks(32, 32, 4, 1)


def blocks(
    arch: str,
    dtype: torch.dtype,
    padded: int,
    queries: int,
    rule: ScoreRule,
    gathered: bool = False,
) -> Blocks:
    """Blocks that do not spill and whose stages fit the shared memory of `arch`.

    dtype: of the matrix products. padded: head size. gathered: keys come by pointers that the
    kernel computes, which takes registers.
    """
    plain = rule.plain and rule.sinks == 0
    amd = not arch.startswith("sm_")
    if dtype == torch.float32:  # multiplied without tensor cores on NVIDIA, out of registers
        tile = AMD_FLOAT32 if amd else FLOAT32[padded]
    elif amd:
        tile = AMD[padded]
    elif is_hopper_or_later(arch):
        roomy = not gathered and (plain or padded < LARGEST_DIM)
        narrow = HOPPER_NARROW if arch == "sm_90" else BLACKWELL_NARROW
        tile = (HOPPER if roomy else narrow)[padded]
    else:
        tile = (AMPERE if plain and not gathered else AMPERE_NARROW)[padded]
    if tile.queries == 128 and queries <= 64:
        return tile._replace(queries=64, warps=tile.warps // 2)
    return tile


def sliding_window_triton(
    q: Tensor, k: Tensor, v: Tensor, rule: ScoreRule, edges: Tensor | None = None
) -> Tensor:
    """Arguments as in `sliding_window_attention`, checked."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    q, k, v = map(with_dense_rows, (q, k, v))
    for launch in plan_window(q, k, v, rule, out, architecture(q.device), edges):
        launch.run()
    return out


def plan_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: ScoreRule,
    out: Tensor,
    arch: str,
    edges: Tensor | None = None,
) -> list[Launch]:
    """The one launch of a call; tensors may be on `meta`. edges: cu_seqlens."""
    batch, heads, n, dim = q.shape
    padded = padded_dim(dim)
    tma = edges is None and has_tma(arch, q.dtype) and all(map(describable, (q, k, v)))
    gathered = edges is not None or (is_hopper_or_later(arch) and not tma)
    tile = blocks(arch, q.dtype, padded, n, rule, gathered)
    sequences = 1 if edges is None else edges.shape[0] - 1
    count = -(-n // tile.queries) if edges is None else n // tile.queries + sequences
    operands = {"q": (q, tile.queries), "k": (k, tile.keys), "v": (v, tile.keys)}
    arguments: dict[str, Any] = {
        name: described(x, rows, padded) if tma else x for name, (x, rows) in operands.items()
    }
    for name, x in (("q", q), ("k", k), ("v", v), ("out", out)):
        for axis, stride in zip(("batch", "head", "row"), x.stride(), strict=False):
            arguments[f"{name}_{axis}"] = stride
    arguments |= {
        "out": out,
        "edges": edges,
        "slopes": slopes_argument(rule),
        "n": n,
        "sequences": sequences,
        **score_arguments(rule, tile),
        "GROUP": heads // k.shape[1],
        "BM": tile.queries,
        "BN": tile.keys,
        "D": dim,
        "DP": padded,
        "OPERAND": TRITON_DTYPES[k.dtype],
        "TMA": tma,
    }
    return [Launch(window_kernel, (heads, count, batch), arguments, tile.warps, tile.stages)]


def score_arguments(rule: ScoreRule, tile: Blocks) -> dict[str, Any]:
    """What `attend` needs to know of a rule, in powers of two."""
    cap = rule.softcap
    return {
        "window": rule.window or 0,
        "sinks": rule.sinks,
        "factor": rule.scale * LOG2E * (1 if cap is None else 2 / cap),
        "softcap": 0.0 if cap is None else cap * LOG2E,
        "WINDOWED": rule.window is not None,
        "NARROW": rule.window is not None and rule.window < tile.queries + tile.keys - 2,
        "SINKS": rule.sinks > 0,
        "SOFTCAP": cap is not None,
    }


def slopes_argument(rule: ScoreRule) -> Tensor | None:
    """ALiBi's slopes `[Hq]`, to powers of two."""
    return None if rule.alibi_slopes is None else rule.alibi_slopes.flatten() * LOG2E


def padded_dim(dim: int) -> int:
    return 1 << (dim - 1).bit_length()


def has_tma(arch: str, dtype: torch.dtype) -> bool:
    """Whether tiles come by TMA; float32 products take registers, which it does not fill."""
    return dtype != torch.float32 and is_hopper_or_later(arch)


def is_hopper_or_later(arch: str) -> bool:
    """Data-centre GPUs with wgmma or tcgen05; sm_120 has neither, and is planned like Ampere."""
    return arch.startswith(("sm_9", "sm_10"))


def describable(x: Tensor) -> bool:
    """Whether TMA can read `[B, H, N, D]` as it lies: rows dense and all steps of 16 bytes."""
    steps = [s for s, n in zip(x.stride()[:3], x.shape, strict=False) if n > 1]
    aligned = all(s > 0 and s * x.itemsize % TMA_ALIGNMENT == 0 for s in steps)
    return aligned and x.stride(3) == 1 and x.data_ptr() % TMA_ALIGNMENT == 0


def with_dense_rows(x: Tensor) -> Tensor:
    """`x` `[B, H, N, D]`, copied if its rows are not dense or too far apart for 32-bit offsets."""
    return x if x.stride(3) == 1 and x.stride(2) < LARGEST_ROW_STRIDE else x.contiguous()


def described(x: Tensor, rows: int, padded: int) -> TensorDescriptor:
    """`x` `[B, H, N, D]` in tiles of `rows` by `padded`; what lies outside reads as zero."""
    row = padded  # the step of an axis of one entry is never taken, but must be aligned
    strides = [s if n > 1 else row for s, n in zip(x.stride()[:3], x.shape, strict=False)]
    return TensorDescriptor(x, list(x.shape), [*strides, 1], [1, 1, rows, padded])


def tiles_visited(n: int, window: int | None, queries: int, keys: int, sinks: int = 0) -> list[int]:
    """Tiles of `keys` keys that each block of `queries` queries of a sequence of `n` runs over.

    Computed by the kernel's own function, on plain integers.
    """
    visited = []
    for first in range(0, n, queries):
        stop = min(first + queries, n)
        sink_end, low, _, _, end = key_stretches.fn(
            first, stop, window or 0, sinks, window is not None, keys
        )
        visited.append(sink_end + end - low)
    return visited
