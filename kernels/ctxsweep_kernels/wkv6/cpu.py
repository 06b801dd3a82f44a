"""RWKV-6 chunk by chunk in plain torch, on any device, with work space of one chunk.

A decay may be anything in [0, 1], so decays taken relative to one token of a chunk, by which keys
would be divided, may overflow. Here nothing is ever divided: blocks are joined in pairs, from one
token to the whole chunk. Beforehand the queries r hold their decay since their block's start, and
the keys k theirs to its end; for neighbours of `half` tokens

    scores of the second's queries with the first's keys = r k^T
    r of the second   *=  the whole decay of the first
    k of the first    *=  the whole decay of the second

Every pair of tokens meets in exactly one such product, and in the end r and k hold the decays that
the state needs: `y = scores v + r S`, `S = decay S + k^T v`.
"""

from __future__ import annotations

import torch

from ctxsweep_kernels.chunking import scratch_like, whole_and_tail


@torch.no_grad()
def wkv6_torch(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    state: torch.Tensor,
    chunk: int,
) -> torch.Tensor:
    """The arguments of `wkv6`, already checked; gives y and advances the state in place."""
    u = u.to(state.dtype)
    if r.shape[1] == 1:
        y = _step(*(t[:, 0].to(state.dtype) for t in (r, log_w, k, v)), u, state)
        return y[:, None].to(v.dtype)
    y = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    for span, length in whole_and_tail(r.shape[1], chunk):
        _scan(r[:, span], log_w[:, span], k[:, span], v[:, span], u, state, y[:, span], length)
    return y


def _step(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    state: torch.Tensor,
) -> torch.Tensor:
    """One token: r, log_w, k `[B, H, K]`, v and y `[B, H, V]`."""
    y = (r[:, :, None] @ state)[:, :, 0]
    y.addcmul_((r * u * k).sum(-1, keepdim=True), v)
    state.mul_(log_w.exp()[..., None]).addcmul_(k[..., None], v[:, :, None])
    return y


def _scan(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    state: torch.Tensor,
    y: torch.Tensor,
    length: int,
) -> None:
    """Chunks of `length` tokens; y is written and the state `[B, H, K, V]` updated."""
    batch, tokens, heads, K = r.shape
    V, size = v.shape[-1], 1 << (length - 1).bit_length()
    empty = scratch_like(state)
    queries, keys, decay = (empty(batch, heads, size, K) for _ in range(3))
    values, out = (empty(batch, heads, size, V) for _ in range(2))
    # Rows beyond a ragged tail: tokens that ask for nothing, write nothing and forget nothing.
    for rows, nothing in ((queries, 0), (keys, 0), (values, 0), (decay, 1)):
        rows[:, :, length:] = nothing
    scores = empty(batch * heads, size, size).zero_()
    own = scores.diagonal(dim1=1, dim2=2).view(batch, heads, size)
    Q, Kt, W, VV, Y = (t.view(batch * heads, size, -1) for t in (queries, keys, decay, values, out))
    S = state.view(batch * heads, K, V)
    for start in range(0, tokens, length):
        now = slice(start, start + length)
        for rows, given in ((queries, r), (keys, k), (values, v), (decay, log_w)):
            rows[:, :, :length] = given[:, now].transpose(1, 2)
        decay[:, :, :length].exp_()
        torch.sum(queries * keys * u[:, None], -1, out=own)
        whole = _join(Q, Kt, W, scores)
        torch.bmm(scores, VV, out=Y).baddbmm_(Q, S)
        y[:, now] = out[:, :, :length].transpose(1, 2)
        S.mul_(whole.mT).baddbmm_(Kt.mT, VV)


def _join(Q: torch.Tensor, Kt: torch.Tensor, W: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Fill the scores `[N, size, size]` below the diagonal; Q and Kt `[N, size, K]` get the decays
    to the chunk's ends. Gives the whole chunk's decay `[N, 1, K]`; W holds each token's."""
    count, size, K = W.shape
    half = 1
    while half < size:
        pairs = size // (2 * half)
        after = Q.view(count, pairs, 2, half, K)[:, :, 1]
        before = Kt.view(count, pairs, 2, half, K)[:, :, 0]
        first, second = W.view(count, pairs, 2, K).split(1, dim=2)
        blocks = scores.view(count, pairs, 2, half, pairs, 2, half)[:, :, 1, :, :, 0]
        blocks.diagonal(dim1=1, dim2=3).copy_((after @ before.mT).permute(0, 2, 3, 1))
        after.mul_(first)
        before.mul_(second)
        W = first * second
        half *= 2
    return W.view(count, 1, K)
