"""Causal attention of a whole sequence, with or without a sliding window, without a cache."""

from __future__ import annotations

from torch import Tensor

from ctxsweep_kernels.dispatch import Impl, choose
from ctxsweep_kernels.score_rule import make_rule
from ctxsweep_kernels.sliding_window.cpu import sliding_window_torch

__all__ = ["sliding_window_attention"]


def sliding_window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | None = None,
    sinks: int = 0,
    scale: float | None = None,
    alibi_slopes: Tensor | None = None,
    softcap: float | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Attention `[B, Hq, N, D]` of every position over itself and the `window - 1` before it.

    q: `[B, Hq, N, D]`; k, v: `[B, Hkv, N, D]`, Hq a multiple of Hkv.
    window: tokens, the query's own included (arXiv:2310.06825); None sees every earlier token.
    sinks: first tokens that every query sees besides its window (arXiv:2309.17453).
    scale: factor on q . k, default 1 / sqrt(D).
    alibi_slopes: `[Hq]`, adds slope * (key - query position) (arXiv:2108.12409).
    softcap: scores become softcap * tanh(score / softcap) before ALiBi (arXiv:2408.00118).

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
    choose(impl, "sliding_window_attention", [x.device for x in (q, k, v)])
    return sliding_window_torch(q, k, v, rule)
