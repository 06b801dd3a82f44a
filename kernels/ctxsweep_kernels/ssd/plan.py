"""Blocks and launches of Mamba-2's prefill, from shapes, dtypes and the architecture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxsweep_kernels.chunking import LOG2E
from ctxsweep_kernels.launch import Launch, architecture, multiprocessors, within_32_bits
from ctxsweep_kernels.selective_state_update.kernel import update_triton
from ctxsweep_kernels.ssd.kernel import outputs_kernel, states_kernel
from ctxsweep_kernels.triton_common import TRITON_DTYPES, multiplied_as, strides


@dataclass(frozen=True)
class Blocks:
    """Tokens of a chunk; P and N of a block of the carried state; how much of N a product in the
    second launch takes at once; warps and pipeline stages of the two launches."""

    chunk: int
    p: int
    n: int
    slice: int
    warps: tuple[int, int]
    stages: tuple[int, int]


def blocks_for(operand: torch.dtype, tokens: int, P: int, N: int, arch: str) -> Blocks:
    """The largest blocks that stay in registers, and in the shared memory of the architecture."""
    if operand == torch.float32:
        chunk, block, slice_n, stages = 16, 32, 32, (2, 1)
    elif N > 128 or arch not in ("sm_80", "sm_90", "sm_100"):
        chunk, block, slice_n, stages = 64, 64, 128, (2, 1)
    else:
        chunk, block, slice_n, stages = 128, 64, 128, (2, 2)
    if tokens <= 64:
        chunk = min(chunk, 64)
    block_n = _block(N)
    warps = (4, 8 if chunk == 128 else 4)
    return Blocks(
        chunk, min(block, _block(P)), min(block, block_n), min(slice_n, block_n), warps, stages
    )


def _block(size: int) -> int:
    """The smallest block that covers `size` and that a matrix product takes."""
    return max(16, triton.next_power_of_2(size))


def operand_dtype(*tensors: Tensor) -> torch.dtype:
    """What matrix products read: 16 bits where all inputs agree on which, float32 otherwise."""
    dtypes = {tensor.dtype for tensor in tensors}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def plan_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    D: Tensor | None,
    y: Tensor,
    new_state: Tensor,
    arch: str,
) -> list[Launch]:
    """Two launches that write y and `new_state`, both contiguous; all else has any strides."""
    batch, tokens, heads, P = x.shape
    groups, N = B.shape[2:]
    operand = operand_dtype(x, B, C)
    blocks = blocks_for(operand, tokens, P, N, arch)
    chunks, blocks_p = triton.cdiv(tokens, blocks.chunk), triton.cdiv(P, blocks.p)
    first_states = torch.empty((batch, chunks, heads, P, N), dtype=operand, device=x.device)
    together = heads_together(heads // groups, chunks * blocks_p * batch * groups, x.device)
    common = {
        "x": x,
        "dt": dt,
        "A": A,
        "B": B,
        "first_states": first_states,
        **strides("x", x, "batch token head p"),
        **strides("dt", dt, "batch token head"),
        **strides("A", A, "head"),
        **strides("B", B, "batch token group n"),
        "tokens": tokens,
        "H": heads,
        "HEADS_PER_GROUP": heads // groups,
        "P": P,
        "N": N,
        "CHUNK": blocks.chunk,
        "BLOCK_P": blocks.p,
        "OPERAND": TRITON_DTYPES[multiplied_as(operand)],
        "SUMS": tl.float64 if operand == torch.float32 else tl.float32,
        "PRECISION": "ieee" if arch.startswith("gfx") else "tf32x3",
        "LOG2E": LOG2E,
    }
    carry = {
        "state": state,
        "new_state": new_state,
        **strides("state", state, "batch head p n"),
        "BLOCK_N": blocks.n,
    }
    outputs = {
        "C": C,
        "D": D,
        "y": y,
        **strides("C", C, "batch token group n"),
        "D_head": 0 if D is None else D.stride(0),
        "HEADS": together,
        "BLOCK_N": _block(N),
        "SLICE": blocks.slice,
    }
    return [
        Launch(
            states_kernel,
            (blocks_p * triton.cdiv(N, blocks.n), heads, batch),
            common | carry,
            num_warps=blocks.warps[0],
            num_stages=blocks.stages[0],
        ),
        Launch(
            outputs_kernel,
            (chunks, blocks_p * heads // together, batch),
            common | outputs,
            num_warps=blocks.warps[1],
            num_stages=blocks.stages[1],
        ),
    ]


def heads_together(per_group: int, programs: int, device: torch.device) -> int:
    """Heads that one program goes through, sharing C B^T: up to 8, while the GPU stays full."""
    enough = 4 * multiprocessors(device)
    fitting = [
        count
        for count in range(1, 9)
        if per_group % count == 0 and programs * (per_group // count) >= enough
    ]
    return max(fitting, default=1)


def ssd_chunk_scan_triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    D: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The arguments of `ssd_chunk_scan`, already checked."""
    x, dt, B, C = (within_32_bits(t, 2) for t in (x, dt, B, C))
    new_state = torch.empty(state.shape, dtype=state.dtype, device=state.device)
    if x.shape[1] == 1:
        now = (t[:, 0] for t in (x, dt))
        y = update_triton(state.contiguous(), *now, A, B[:, 0], C[:, 0], D, out=new_state)
        return y[:, None], new_state
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for launch in plan_scan(x, dt, A, B, C, state, D, y, new_state, architecture(x.device)):
        launch.run()
    return y, new_state
