"""Which launches RWKV-7 takes: from shapes, dtypes and the architecture alone."""

from __future__ import annotations

from functools import partial

import torch
import triton

from ctxsweep_kernels.dispatch import interpreting
from ctxsweep_kernels.launch import Launch, architecture, multiprocessors
from ctxsweep_kernels.triton_common import TRITON_DTYPES
from ctxsweep_kernels.wkv7.kernel import chunks_kernel, decode_kernel, walk_kernel

LANES = 4  # of a row in decode: 4 x 16 bytes are two sectors
Sequences = tuple[torch.Tensor, ...]


@torch.no_grad()
def wkv7_triton(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The arguments of `wkv7`, already checked."""
    sequences = tuple(t.contiguous() for t in (r, log_w, k, v, a, b))
    state = state.contiguous()
    y = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    new_state = torch.empty_like(state)
    for launch in plan_wkv7(sequences, state, y, new_state, architecture(r.device)):
        launch.run()
    return y, new_state


def plan_wkv7(
    sequences: Sequences, state: torch.Tensor, y: torch.Tensor, new_state: torch.Tensor, arch: str
) -> list[Launch]:
    """Launches that fill y and new_state; sequences: r, log_w, k, v, a, b, all contiguous."""
    if y.shape[1] == 1:
        return [_decode(sequences, state, y, new_state)]
    return _prefill(sequences, state, y, new_state, arch)


def _names(sequences: Sequences) -> dict[str, torch.Tensor]:
    names = ("r_ptr", "log_w_ptr", "k_ptr", "v_ptr", "a_ptr", "b_ptr")
    return dict(zip(names, sequences, strict=True))


def _decode(
    sequences: Sequences, state: torch.Tensor, y: torch.Tensor, new_state: torch.Tensor
) -> Launch:
    batch, heads, V, K = state.shape
    strips = triton.next_power_of_2(triton.cdiv(K, 4 * LANES))
    few = batch * heads * triton.cdiv(V, 64) < 4 * multiprocessors(state.device)
    rows = min(16 if few else 256 // strips, max(8, triton.next_power_of_2(V)))
    return Launch(
        decode_kernel,
        (batch * heads, triton.cdiv(V, rows)),
        _names(sequences)
        | {
            "state_ptr": state,
            "y_ptr": y,
            "new_state_ptr": new_state,
            "K": K,
            "V": V,
            "ROWS": rows,
            "STRIPS": strips,
            "LANES": LANES,
            "VECTOR": 4,
        },
        num_warps=1,
    )


def _operands(sequences: Sequences) -> tuple[torch.dtype, str, int]:
    """The dtype of the products' operands, their precision, and the length of a chunk.

    A chunk's decays reach exp(0.6065 * C / 2), which float16 cannot hold: its products take TF32,
    of the same precision. 64 tokens do not fit in the registers. Float32 inputs keep their
    precision, and a short chunk keeps that of the decays.
    """
    dtypes = {t.dtype for t in (sequences[0], *sequences[2:])}
    if torch.float32 in dtypes:
        return torch.float32, "ieee", 16
    if dtypes == {torch.bfloat16} and not interpreting():  # the interpreter cannot multiply it
        return torch.bfloat16, "tf32", 32
    return torch.float32, "tf32", 32


def _prefill(
    sequences: Sequences, state: torch.Tensor, y: torch.Tensor, new_state: torch.Tensor, arch: str
) -> list[Launch]:
    batch, heads, V, K = state.shape
    T = y.shape[1]
    operand, precision, C = _operands(sequences)
    C = min(C, max(16, triton.next_power_of_2(T)))
    chunks, device = triton.cdiv(T, C), state.device
    empty = partial(torch.empty, device=device)
    keys, values = ((batch, heads, chunks, C, size) for size in (K, V))
    work = {
        **{name: empty(keys, dtype=operand) for name in ("Y1_ptr", "Ta_ptr", "Kb_ptr", "Kk_ptr")},
        "Tv_ptr": empty(values, dtype=operand),
        "start_ptr": empty((batch, heads, chunks, K), dtype=torch.float32),
        "end_ptr": empty((batch, heads, chunks, K), dtype=torch.float32),
    }
    shared = {
        "T": T,
        "H": heads,
        "K": K,
        "V": V,
        "C": C,
        "BLOCK_K": max(16, triton.next_power_of_2(K)),
        "OPERAND": TRITON_DTYPES[operand],
        "PRECISION": precision,
    }
    exact = precision == "ieee"
    columns = max(16, min(64, triton.next_power_of_2(V)))
    rows = 32 if batch * heads * V >= 32 * multiprocessors(device) and not exact else 16
    warps = 8 if exact else 4
    return [
        Launch(
            chunks_kernel,
            (chunks, batch * heads),
            _names(sequences) | {"y_ptr": y} | work | shared | {"BLOCK_V": columns},
            num_warps=warps,
            num_stages=1,
        ),
        Launch(
            walk_kernel,
            (triton.cdiv(V, rows), batch * heads),
            {
                "v_ptr": sequences[3],
                "state_ptr": state,
                "y_ptr": y,
                "new_state_ptr": new_state,
                "chunks": chunks,
            }
            | work
            | shared
            | {"BLOCK_V": rows, "STAGES": 2 if arch.startswith("gfx") else 3},
            num_warps=warps,
        ),
    ]
