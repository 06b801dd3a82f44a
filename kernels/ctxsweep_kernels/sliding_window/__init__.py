"""Causal attention of a whole sequence, with or without a sliding window, without a cache."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxsweep_kernels.dispatch import Impl, choose
from ctxsweep_kernels.score_rule import ScoreRule, make_rule
from ctxsweep_kernels.sliding_window.cpu import sliding_window_torch

__all__ = ["sliding_window_attention", "unfit_for_triton"]

LEAST_HEAD_DIM, MOST_HEAD_DIM = 16, 256  # a matrix product's depth; what registers hold


def sliding_window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | None = None,
    sinks: int = 0,
    scale: float | None = None,
    alibi_slopes: Tensor | None = None,
    softcap: float | None = None,
    cu_seqlens: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Attention `[B, Hq, N, D]` of every position over itself and the `window - 1` before it.

    q: `[B, Hq, N, D]`; k, v: `[B, Hkv, N, D]`, Hq a multiple of Hkv.
    window: tokens, the query's own included (arXiv:2310.06825); None sees every earlier token.
    sinks: first tokens that every query sees besides its window (arXiv:2309.17453).
    scale: factor on q . k, default 1 / sqrt(D).
    alibi_slopes: `[Hq]`, adds slope * (key - query position) (arXiv:2108.12409).
    softcap: scores become softcap * tanh(score / softcap) before ALiBi (arXiv:2408.00118).
    cu_seqlens: `[R + 1]` int32 or int64, 0 first and N last: B is 1 and holds R sequences one after
        the other along N, which do not see each other. On a GPU its values are not checked.

    Time is O(N * window) and memory O(N * D) plus tiles of bounded size.

    Raises:
        ValueError: shapes, dtypes or options that do not fit.
        UnsupportedImplementation: `impl` does not exist for this op.
    """
    if k.dim() != 4 or k.shape != v.shape:
        raise ValueError(
            f"k and v must both be [B, Hkv, N, D], got {list(k.shape)} and {list(v.shape)}"
        )
    if q.dim() != 4 or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(
            f"q {list(q.shape)} and k {list(k.shape)} must agree in batch, length and head size"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    rule = make_rule(
        q,
        k.shape[1],
        window=window,
        sinks=sinks,
        scale=scale,
        alibi_slopes=alibi_slopes,
        softcap=softcap,
    )
    tensors = [q, k, v]
    if cu_seqlens is not None:
        _check_edges(cu_seqlens, q)
        tensors.append(cu_seqlens)
    if rule.alibi_slopes is not None:
        tensors.append(rule.alibi_slopes)
    devices = [x.device for x in tensors]
    unfit = unfit_for_triton(q, rule)
    if choose(impl, "sliding_window_attention", devices, unfit=unfit) == "triton":
        from ctxsweep_kernels.sliding_window.plan import sliding_window_triton

        return sliding_window_triton(q, k, v, rule, cu_seqlens)
    return sliding_window_torch(q, k, v, rule, cu_seqlens)


def unfit_for_triton(q: Tensor, rule: ScoreRule) -> str | None:
    """Why the Triton kernels of prefill cannot take queries `[B, Hq, T, D]`, or None."""
    if not LEAST_HEAD_DIM <= q.shape[3] <= MOST_HEAD_DIM:
        return (
            f"it takes head sizes {LEAST_HEAD_DIM} to {MOST_HEAD_DIM}, got {q.shape[3]}; "
            "use impl='torch'"
        )
    if not rule.scale > 0:
        return f"it takes positive scales, got {rule.scale}; use impl='torch'"
    return None


def _check_edges(cu_seqlens: Tensor, q: Tensor) -> None:
    """Raise ValueError unless `cu_seqlens` fits `q`; values are read on a CPU only."""
    kinds = (torch.int32, torch.int64)
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.dtype not in kinds:
        raise ValueError(
            "cu_seqlens must be int32 or int64 [R + 1], "
            f"got {cu_seqlens.dtype} {list(cu_seqlens.shape)}"
        )
    if q.shape[0] != 1:
        raise ValueError(f"with cu_seqlens q must be [1, Hq, N, D], got {list(q.shape)}")
    if cu_seqlens.device.type != "cpu":
        return
    edges = cu_seqlens.tolist()
    if edges[0] != 0 or edges[-1] != q.shape[2] or edges != sorted(edges):
        raise ValueError(f"cu_seqlens must rise from 0 to N = {q.shape[2]}, got {edges}")
