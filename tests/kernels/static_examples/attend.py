"""A plain attention kernel for tests of the static bench: unmasked tiles, then the diagonal's."""

import triton
import triton.language as tl


@triton.jit
def tile(
    query, k, v, best, total, out, rows, start,
    BN: tl.constexpr, D: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    columns, dims = start + tl.arange(0, BN), tl.arange(0, D)
    keys = tl.load(k + columns[None, :] * D + dims[:, None])
    scores = tl.dot(query, keys) * 0.125
    if MASKED:
        scores = tl.where(rows[:, None] >= columns[None, :], scores, -1e9)
    new = tl.maximum(best, tl.max(scores, 1))
    weights = tl.exp2(scores - new[:, None])
    old = tl.exp2(best - new)
    values = tl.load(v + columns[:, None] * D + dims[None, :])
    out = out * old[:, None] + tl.dot(weights.to(values.dtype), values)
    return new, total * old + tl.sum(weights, 1), out


@triton.jit
def attend(
    q, k, v, o,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, MASK_ALL: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * BM
    rows, dims = first + tl.arange(0, BM), tl.arange(0, D)
    query = tl.load(q + rows[:, None] * D + dims[None, :])
    best = tl.full([BM], -1e9, tl.float32)
    total = tl.zeros([BM], tl.float32)
    out = tl.zeros([BM, D], tl.float32)
    for start in range(0, first, BN):
        best, total, out = tile(query, k, v, best, total, out, rows, start, BN, D, MASK_ALL)
    for start in range(first, first + BM, BN):
        best, total, out = tile(query, k, v, best, total, out, rows, start, BN, D, True)
    result = (out / total[:, None]).to(o.dtype.element_ty)
    tl.store(o + rows[:, None] * D + dims[None, :], result)


@triton.heuristics({"BLOCK": lambda given: 256})
@triton.jit
def copy(source, target, length, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < length
    tl.store(target + places, tl.load(source + places, mask=inside), mask=inside)
