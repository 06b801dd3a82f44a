"""RWKV-7 chunk by chunk in plain torch, on any device, with work space of one chunk.

Let W_t be the decay from the chunk's middle to the end of token t (above 1 before the middle).
With queries `Q = [a W_{t-1}; r W_t]`, keys `K = [b / W_t; k / W_t]` and the state moved to the
middle, every pair of tokens interacts through one masked product `M = mask(Q K^T)`:

    u   = (I - M_ab)^-1 (Q_a S^T + M_ak v)        what the corrections write
    y   = Q_r S^T + M_r [u; v]
    S   = (S + [u; v]^T K) W_end
"""

from __future__ import annotations

import torch

from ctxsweep_kernels.chunking import LOG2E, scratch_like, whole_and_tail


@torch.no_grad()
def wkv7_torch(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The arguments of `wkv7`, already checked."""
    if r.shape[1] == 1:
        y, new_state = _step(*(t[:, 0].to(state.dtype) for t in (r, log_w, k, v, a, b)), state)
        return y[:, None].to(v.dtype), new_state
    new_state = state.clone(memory_format=torch.contiguous_format)
    y = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    for span, length in whole_and_tail(r.shape[1], chunk):
        now = (t[:, span] for t in (r, log_w, k, v, a, b))
        _scan(*now, new_state, y[:, span], length)
    return y, new_state


def _step(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token: r, log_w, k, a, b `[B, H, K]`, v `[B, H, V]`.

    Products are written as row @ matrix, which is several times faster than matrix @ column.
    """
    removed = (a[:, :, None] @ state.mT).mT
    new_state = state * log_w.exp()[:, :, None]
    new_state.addcmul_(removed, b[:, :, None]).addcmul_(v[..., None], k[:, :, None])
    return (r[:, :, None] @ new_state.mT)[:, :, 0], new_state


def _scan(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
    y: torch.Tensor,
    length: int,
) -> None:
    """Whole chunks of `length` tokens; y is written and the state `[B, H, V, K]` updated."""
    batch, tokens, heads, K = r.shape
    V = v.shape[-1]
    empty = scratch_like(state)
    running, mask = _constants(length, state)
    decay = empty(batch, heads, length + 1, K)  # row t is W_{t-1}, so the last is W_end
    before, after, growth = decay[:, :, :-1], decay[:, :, 1:], empty(batch, heads, length, K)
    queries, keys = (empty(batch, heads, 2, length, K) for _ in range(2))
    written = empty(batch, heads, 2, length, V)
    Q, Kt, UV = (t.view(batch * heads, 2 * length, -1) for t in (queries, keys, written))
    M = empty(batch * heads, 2 * length, 2 * length)
    from_a, from_r = (empty(batch * heads, length, V) for _ in range(2))
    S = state.view(batch * heads, V, K)
    for start in range(0, tokens, length):
        now = slice(start, start + length)
        r_, k_, v_, a_, b_ = (t[:, now].transpose(1, 2) for t in (r, k, v, a, b))
        sums = running @ log_w[:, now].flatten(2).to(running.dtype)
        decay.copy_(sums.exp2_().unflatten(2, (heads, K)).transpose(1, 2))
        torch.reciprocal(after, out=growth)
        torch.mul(a_, before, out=queries[:, :, 0])
        torch.mul(r_, after, out=queries[:, :, 1])
        torch.mul(b_, growth, out=keys[:, :, 0])
        torch.mul(k_, growth, out=keys[:, :, 1])
        written[:, :, 1] = v_
        state.div_(decay[:, :, :1])
        torch.bmm(Q, Kt.mT, out=M).mul_(mask)
        torch.bmm(Q[:, :length], S.mT, out=from_a)
        torch.bmm(Q[:, length:], S.mT, out=from_r)
        from_a.baddbmm_(M[:, :length, length:], UV[:, length:])
        UV[:, :length] = torch.linalg.solve_triangular(
            -M[:, :length, :length], from_a, upper=False, unitriangular=True
        )
        from_r.baddbmm_(M[:, length:], UV)
        y[:, now] = from_r.view(batch, heads, length, V).transpose(1, 2)
        S.baddbmm_(UV.mT, Kt)
        state.mul_(decay[:, :, -1:])


def _constants(length: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Running sums from the chunk's middle `[length + 1, length]`, in powers of two, and the mask.

    The sums are float64: as exponents their absolute error is a relative error of the decay.
    The mask `[2 length, 2 length]` lets a see earlier tokens and r see its own token too.
    """
    causal = torch.ones(length, length, dtype=torch.float64, device=like.device).tril()
    running = torch.cat((torch.zeros_like(causal[:1]), causal))
    mask = torch.cat((causal.tril(-1), causal)).repeat(1, 2).to(like.dtype)
    return (running - running[length // 2]) * LOG2E, mask
