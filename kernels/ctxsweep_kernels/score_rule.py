"""What every attention op of this package shares: which keys a query sees, and how it scores them.

A query at position p sees the keys j <= p. A window W keeps p - W + 1 .. p (Mistral 7B,
arXiv:2310.06825); `sinks` keeps the first positions as well (StreamingLLM, arXiv:2309.17453).
The score is softcap(q . k * scale) + slope * (j - p): the soft cap of Gemma 2 (arXiv:2408.00118),
then ALiBi (arXiv:2108.12409).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class ScoreRule:
    """Checked options of one attention call. alibi_slopes: `[Hkv, G]` float32."""

    scale: float
    window: int | None = None
    sinks: int = 0
    alibi_slopes: Tensor | None = None
    softcap: float | None = None

    @property
    def plain(self) -> bool:
        return self.alibi_slopes is None and self.softcap is None

    def first_key(self, position: int) -> int:
        """The first key of the window of a query at `position`; sinks are not counted."""
        return 0 if self.window is None else max(0, position - self.window + 1)

    def alibi(self, relative: Tensor) -> Tensor | None:
        """Bias `[Hkv, G, *relative.shape]` of keys at `relative` = key minus query position."""
        if self.alibi_slopes is None:
            return None
        slopes = self.alibi_slopes.view(*self.alibi_slopes.shape, *([1] * relative.dim()))
        return slopes * relative

    def bias(self, relative: Tensor, visible: Tensor) -> Tensor:
        """Additive bias: `[1, 1, T, n]`, or `[Hkv, G, T, n]` with ALiBi; -inf where not visible."""
        base = self.alibi(relative)
        if base is None:
            base = torch.zeros(1, 1, *relative.shape, device=relative.device)
        return base.masked_fill(~visible, float("-inf"))

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """`[T, n]` bool from positions `[T]` and `[n]`."""
        p, j = queries.unsqueeze(-1), keys.unsqueeze(-2)
        seen = j <= p
        if self.window is not None:
            seen = seen & ((p - j < self.window) | (j < self.sinks))
        return seen


def make_rule(
    q: Tensor,
    kv_heads: int,
    *,
    window: int | None,
    sinks: int,
    scale: float | None,
    alibi_slopes: Tensor | None,
    softcap: float | None,
) -> ScoreRule:
    """Check the options against `q` `[B, Hq, T, D]`; `scale` None is 1 / sqrt(D).

    Raises:
        ValueError: an option is out of range or does not fit the heads.
    """
    if q.dim() != 4 or 0 in q.shape:
        raise ValueError(f"q must be a non-empty [B, Hq, T, D], got {list(q.shape)}")
    q_heads, head_dim = q.shape[1], q.shape[3]
    if q.dtype not in COMPUTE_DTYPES:
        raise ValueError(f"q must be float32, bfloat16 or float16, got {q.dtype}")
    if q_heads % kv_heads:
        raise ValueError(f"{q_heads} query heads do not divide by {kv_heads} KV heads")
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1 token or None, got {window}")
    if sinks < 0:
        raise ValueError(f"sinks must be 0 or more tokens, got {sinks}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive or None, got {softcap}")
    if alibi_slopes is not None:
        if alibi_slopes.shape != (q_heads,):
            raise ValueError(
                f"alibi_slopes must be [{q_heads}], one per query head, "
                f"got {list(alibi_slopes.shape)}"
            )
        alibi_slopes = alibi_slopes.float().view(kv_heads, q_heads // kv_heads)
    return ScoreRule(
        scale=head_dim**-0.5 if scale is None else float(scale),
        window=window,
        sinks=sinks if window is not None else 0,
        alibi_slopes=alibi_slopes,
        softcap=softcap,
    )
