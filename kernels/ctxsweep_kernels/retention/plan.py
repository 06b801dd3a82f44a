"""Which launches retention takes: from shapes, dtypes and the architecture alone."""

from __future__ import annotations

import torch
import triton

from ctxsweep_kernels.launch import Launch, architecture, multiprocessors
from ctxsweep_kernels.retention.kernel import decode_kernel, outputs_kernel, states_kernel
from ctxsweep_kernels.triton_common import TRITON_DTYPES, multiplied_as

CHUNK = 256  # tokens between two copies of the state, which then weigh less than the sequence
LANES = 8  # of a row in decode: 8 x 16 bytes are a cache line
WITH_WIDE_SHARED_MEMORY = ("sm_80", "sm_90", "sm_100", "sm_103")  # 163 KiB and more a block


@torch.no_grad()
def retention_triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_gamma: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The arguments of `retention`, already checked."""
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    state, log_gamma = state.contiguous(), log_gamma.contiguous()
    y = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    new_state = torch.empty_like(state)
    for launch in plan_retention(q, k, v, log_gamma, state, y, new_state, architecture(q.device)):
        launch.run()
    return y, new_state


def plan_retention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_gamma: torch.Tensor,
    state: torch.Tensor,
    y: torch.Tensor,
    new_state: torch.Tensor,
    arch: str,
) -> list[Launch]:
    """Launches that fill y and new_state; of q, k and v only the last dimension must be dense."""
    if q.shape[1] == 1:
        return [_decode(q, k, v, log_gamma, state, y, new_state)]
    return _prefill(q, k, v, log_gamma, state, y, new_state, arch)


def _decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_gamma: torch.Tensor,
    state: torch.Tensor,
    y: torch.Tensor,
    new_state: torch.Tensor,
) -> Launch:
    batch, heads, K, V = state.shape
    programs = batch * heads * triton.cdiv(V, 16 * LANES)
    strips = 1 if V <= 4 * LANES or programs < multiprocessors(state.device) else 4
    strides = {f"{n}_{d}": t.stride(i) for n, t in zip("qkv", (q, k, v), strict=True)
               for d, i in (("batch", 0), ("head", 2))}  # fmt: skip
    return Launch(
        decode_kernel,
        (batch * heads, triton.cdiv(V, strips * 4 * LANES)),
        {
            "q_ptr": q,
            "k_ptr": k,
            "v_ptr": v,
            "log_gamma_ptr": log_gamma,
            "state_ptr": state,
            "y_ptr": y,
            "new_state_ptr": new_state,
            "H": heads,
            "K": K,
            "V": V,
            "REPEATS": 4,
            "STRIPS": strips,
            "ROWS": 16,
            "LANES": LANES,
            "VECTOR": 4,
        }
        | strides,
        num_warps=4,
    )


def _prefill(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_gamma: torch.Tensor,
    state: torch.Tensor,
    y: torch.Tensor,
    new_state: torch.Tensor,
    arch: str,
) -> list[Launch]:
    batch, heads, K, V = state.shape
    T = q.shape[1]
    operand = multiplied_as(q.dtype if q.dtype == k.dtype == v.dtype else torch.float32)
    chunks = triton.cdiv(T, CHUNK)
    states = torch.empty((batch, heads, chunks, K, V), dtype=operand, device=q.device)
    strides = {
        f"{name}_{axis}": tensor.stride(i)
        for name, tensor in (("q", q), ("k", k), ("v", v))
        for i, axis in enumerate(("batch", "token", "head"))
    }
    shared = {
        "k_ptr": k,
        "v_ptr": v,
        "log_gamma_ptr": log_gamma,
        "states_ptr": states,
        "T": T,
        "H": heads,
        "chunks": chunks,
        "K": K,
        "V": V,
        "CHUNK": CHUNK,
        "OPERAND": TRITON_DTYPES[operand],
        "PRECISION": "ieee" if operand == torch.float32 else "tf32",
        **strides,
    }
    all_k, all_v = (max(16, triton.next_power_of_2(size)) for size in (K, V))
    tokens = max(16, triton.next_power_of_2(T))
    if operand == torch.float32:
        queries, keys, values, warps = 32, 16, 64, 8
    elif arch in WITH_WIDE_SHARED_MEMORY:
        queries, keys, values, warps = 128, 32, 256, 8
    else:
        queries, keys, values, warps = 64, 32, 128, 4
    queries, keys, values = min(queries, tokens), min(keys, tokens), min(values, all_v)
    block_k, block_v = min(64, all_k), min(64 if operand == torch.float32 else 128, all_v)
    stages = 1 if arch.startswith("gfx") else 2
    # Left alone, ptxas spills for a third program, for which sm_89 has no shared memory.
    options = {"maxnreg": 255} if warps == 4 and arch.startswith("sm_8") else {}
    of_q = {name: n for name, n in strides.items() if name.startswith("q")}
    return [
        Launch(
            states_kernel,
            (triton.cdiv(V, block_v), triton.cdiv(K, block_k), batch * heads),
            {name: value for name, value in shared.items() if name not in of_q}
            | {
                "state_ptr": state,
                "new_state_ptr": new_state,
                "BLOCK": min(32 if operand == torch.float32 else 64, tokens),
                "BLOCK_K": block_k,
                "BLOCK_V": block_v,
                "STAGES": stages + 1,
            },
            num_warps=8 if operand == torch.float32 else 4,
        ),
        Launch(
            outputs_kernel,
            (triton.cdiv(T, queries), triton.cdiv(V, values), batch * heads),
            shared
            | {
                "q_ptr": q,
                "y_ptr": y,
                "BLOCK_K": block_k,
                "ALL_K": all_k,
                "BLOCK_V": values,
                "QUERIES": queries,
                "KEYS": keys,
                "STAGES": stages,
            },
            num_warps=warps,
            options=options,
        ),
    ]
